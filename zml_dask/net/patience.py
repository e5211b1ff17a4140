"""How often and how long one request is tried."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from zml_dask.net.errors import DeadlineError, NetworkError, shown
from zml_dask.net.options import HttpOptions


@dataclass(slots=True)
class Patience:
    """Counts what went wrong with one request, and says when it is enough.

    Attributes
    ----------
    url : str
    options : HttpOptions
    requests : int
        Sent so far, redirects included.
    """

    url: str
    options: HttpOptions
    requests: int = 0
    _deadline: float = field(init=False)
    _failures: int = field(init=False, default=0)
    _rate_limited: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.options.deadline

    def grant(self, seconds: float) -> None:
        """Put off the deadline: the time went into waiting for our turn."""
        self._deadline += seconds

    def check(self) -> None:
        """Stop where time is up.

        Raises
        ------
        DeadlineError
        """
        if time.monotonic() > self._deadline:
            raise DeadlineError(
                f"{shown(self.url)} takes longer than {self.options.deadline:g} s; "
                "raise the deadline, or try at another time"
            )

    def failed(self, failure: NetworkError, *, progressed: bool = False) -> None:
        """Take note of a failure that may pass, and pause; or raise it, where it is one too many.

        Parameters
        ----------
        failure : NetworkError
        progressed : bool
            Whether much of a body came before it: that is no failure in a row,
            so that a file of 5 GB may be had in twenty pieces.
        """
        if failure.kind == "rate_limited":
            # The throttle does the waiting; it knows for how long.
            self._rate_limited += 1
            if self._rate_limited >= self.options.rate_limit_attempts:
                raise failure
            self.check()
            return
        self._failures = 1 if progressed else self._failures + 1
        if self._failures >= self.options.attempts:
            raise failure
        self.check()
        pause = self.options.pause(self._failures - 1)
        time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
