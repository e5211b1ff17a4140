"""What a sandbox does wrong when it is told to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the server; those "every n-th" count the answers with a file's content.

    Attributes
    ----------
    cut_every : int
        Every n-th body breaks off in its middle; 0 never. So with the others.
    corrupt_every : int
        One byte of it is another than it should be.
    lie_every : int
        ``Content-Length`` says more than comes.
    stall_every, stall_seconds : int, float
        Half of it comes, then nothing for so long, then the end.
    unavailable : int
        The next n requests of any kind are answered 503.
    failing_searches : int
        The next n searches are answered 500.
    redirect_to : str, optional
        Requests for content are sent on (302) to their path under this URL.
    no_range : bool
        A request for a part is answered with the whole (200).
    blocked : bool
        Everything is answered with the HTML page for blocked clients (403).
    wrong_checksums : frozenset of int
        Records whose files are told to have another md5 than they have.
    delay : float
        Seconds before every answer.
    """

    cut_every: int = 0
    corrupt_every: int = 0
    lie_every: int = 0
    stall_every: int = 0
    stall_seconds: float = 0.0
    unavailable: int = 0
    failing_searches: int = 0
    redirect_to: str | None = None
    no_range: bool = False
    blocked: bool = False
    wrong_checksums: frozenset[int] = frozenset()
    delay: float = 0.0


class FaultCounter:
    """Decides which answer a fault falls on; not thread-safe by itself."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._bodies = 0
        self._unavailable = faults.unavailable
        self._failing_searches = faults.failing_searches

    def is_unavailable(self) -> bool:
        """Whether this request is answered 503."""
        self._unavailable -= 1
        return self._unavailable >= 0

    def search_fails(self) -> bool:
        """Whether this search is answered 500."""
        self._failing_searches -= 1
        return self._failing_searches >= 0

    def body(self) -> str:
        """Give the next body's fault: ``"cut"``, ``"corrupt"``, ``"lie"``, ``"stall"`` or none."""
        self._bodies += 1
        every = {
            "cut": self.faults.cut_every,
            "corrupt": self.faults.corrupt_every,
            "lie": self.faults.lie_every,
            "stall": self.faults.stall_every,
        }
        hit = (name for name, n in every.items() if n and self._bodies % n == 0)
        return next(hit, "")
