"""What a sandbox was asked, for tests to count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zml_dask.sandbox.routes import is_content, is_search


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was answered.

    Attributes
    ----------
    path : str
        Percent-decoded, without the query.
    query : str
    status : int
    is_authenticated : bool
        Whether it carried a token.
    agent : str
        Its ``User-Agent``.
    range : str or None
        Its ``Range`` header.
    at : float
        When it was answered: seconds since the epoch.
    """

    path: str
    query: str
    status: int
    is_authenticated: bool
    agent: str
    range: str | None
    at: float


class RequestLog:
    """The requests of a sandbox, in the order of their answers."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[Seen]:
        return iter(list(self._seen))

    def append(self, seen: Seen) -> None:
        """Add a request."""
        self._seen.append(seen)

    def clear(self) -> None:
        """Forget all requests."""
        self._seen = []

    def to(self, part: str) -> list[Seen]:
        """Give the requests whose path contains `part`."""
        return [seen for seen in self if part in seen.path]

    @property
    def searches(self) -> list[Seen]:
        """The requests to the search."""
        return [seen for seen in self if is_search(seen.path)]

    @property
    def downloads(self) -> list[Seen]:
        """The requests for files' bytes."""
        return [seen for seen in self if is_content(seen.path)]
