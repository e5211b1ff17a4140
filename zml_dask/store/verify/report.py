"""What a verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ProblemKind = Literal[
    "damaged", "missing", "counts", "tiling", "index", "text", "source", "unreadable"
]
"""What is wrong with an object.

``damaged``: other bytes than were written; ``missing``; ``counts``: tables and
arrays disagree on how many; ``tiling``: offsets leave a gap or overlap;
``index``: an index array says other than the files table; ``text``: images give
back another text than was recorded; ``source``: the archive, fetched again, has
another; ``unreadable``: it could not be fetched or read.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes
    ----------
    path : str
        The object it is wrong with.
    message : str
        What, in one line.
    """

    kind: ProblemKind
    path: str
    message: str


@dataclass(slots=True)
class Report:
    """All that was found; also gathers it.

    Attributes
    ----------
    notes : list of str
        What is worth knowing and not wrong: leftovers of a commit that died, say.
    checked : dict of str to int
        How much was looked at: objects, bytes, files, images, texts, records.
    """

    url: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was looked at."""
        self.checked[what] = self.checked.get(what, 0) + number

    def add(self, kind: ProblemKind, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, path, message))

    def merge(self, other: Report) -> None:
        """Take over all that another report found."""
        self.problems += other.problems
        self.notes += other.notes
        for what, number in other.checked.items():
            self.count(what, number)

    def to_json(self) -> dict[str, Any]:
        """Arrange for ``json.dumps``."""
        return {"ok": self.ok, **asdict(self)}
