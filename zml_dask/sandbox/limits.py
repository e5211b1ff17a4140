"""Rate limits as Zenodo enforces them: moving windows by client and agent."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import time


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """How many requests are answered; None: as many as come, and no headers about it.

    Attributes
    ----------
    search : int or None
        Searches a minute; they count here alone.
    minute, hour : int or None
        All other requests.
    minute_seconds, hour_seconds : float
        How long a minute and an hour last: tests have less time.
    """

    search: int | None = None
    minute: int | None = None
    hour: int | None = None
    minute_seconds: float = 60.0
    hour_seconds: float = 3600.0

    def windows(self, *, is_search: bool) -> tuple[tuple[int, float], ...]:
        """Give the limits that hold for a request: (count, seconds) each."""
        pairs = (
            [(self.search, self.minute_seconds)]
            if is_search
            else [(self.minute, self.minute_seconds), (self.hour, self.hour_seconds)]
        )
        return tuple((count, seconds) for count, seconds in pairs if count is not None)


GUEST = SandboxLimits(search=30, minute=60, hour=2000)
"""Zenodo's published limits for guests."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is answered, and what its headers say.

    Attributes
    ----------
    granted : bool
    headers : dict
        ``X-RateLimit-*`` and, as Zenodo does, ``Retry-After`` on every answer.
    """

    granted: bool
    headers: dict[str, str]


class RateLimiter:
    """Counts requests in moving windows. A refused request does not count.

    Parameters
    ----------
    limits : SandboxLimits
    clock : callable, optional
        Seconds since the epoch.
    """

    def __init__(self, limits: SandboxLimits, clock: Callable[[], float] = time) -> None:
        self._limits = limits
        self._clock = clock
        self._granted: dict[tuple[str, bool], deque[float]] = {}
        self._lock = threading.Lock()

    def ask(self, client: str, *, is_search: bool) -> Verdict:
        """Count one request of `client`."""
        windows = self._limits.windows(is_search=is_search)
        if not windows:
            return Verdict(True, {})
        with self._lock:
            now = self._clock()
            times = self._granted.setdefault((client, is_search), deque())
            while times and times[0] <= now - max(seconds for _, seconds in windows):
                times.popleft()
            used = [sum(1 for at in times if at > now - seconds) for _, seconds in windows]
            granted = all(count > n for (count, _), n in zip(windows, used, strict=True))
            if granted:
                times.append(now)
                used = [n + 1 for n in used]
            # The header tells of the window that is nearest to its end.
            left, limit, seconds = min(
                (count - n, count, seconds)
                for (count, seconds), n in zip(windows, used, strict=True)
            )
            oldest = next((at for at in times if at > now - seconds), now)
        wait = max(oldest + seconds - now, 0.0)
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(math.ceil(oldest + seconds)),
            "Retry-After": str(math.ceil(wait)),
        }
        return Verdict(granted, headers)
