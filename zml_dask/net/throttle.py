"""The number of requests that a server permits, and when the next may be sent.

`Budget` is pure arithmetic on a given clock: no sleeping, no I/O, no threads. The same
class decides in one process (`LocalThrottle`) and, for a whole cluster, on the Dask
scheduler (`zml_dask.engine.cluster_throttle`).

The servers count in moving windows ("133 per minute"), so a budget keeps the times
of its requests and permits the next as soon as the oldest has left every window.
That uses all that is permitted; an even pace would not, since downloads come in
bursts. Published limits are only the initial values: those of ``X-RateLimit-Limit``
replace them.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import urlsplit

SEARCH: Final = "search"
DEFAULT: Final = "default"

# The server counts a request from its arrival, which lies between its sending and the answer.
# We count it from the answer, but no later than this share of the window after its sending, so
# that a slow server costs no more than that share of the budget.
_LATENESS: Final = 0.03
_PAUSE_WITHOUT_ADVICE: Final = 30.0
LONGEST_PAUSE: Final = 3600.0
"""If a server asks for a longer pause, the request fails with that reason."""
_FAILURES_OF_A_SERVER: Final = 3
# A longer window is not believed: a server that counts in milliseconds would name a century.
_LONGEST_WINDOW: Final = 24 * 3600.0
# Instants in headers have whole seconds.
_CLOCK_GRAIN: Final = 1.0
_SLACK: Final = 2 * _CLOCK_GRAIN
# A wait that rounding makes 0 would permit a request too early.
_SHORTEST_WAIT: Final = 0.001
# A smaller number is not the instant of the reset but the seconds until it, as some servers send.
_EARLIEST_EPOCH: Final = 1_000_000_000
# A budget remembers every request of a window. A larger limit than this is never reached,
# and counts as no limit, so that a server cannot make that list arbitrarily long.
_MOST_REMEMBERED: Final = 100_000
# A limit that is so many times another belongs to another window.
_FAR_MORE: Final = 10


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """What is known of a server's limits before it has answered.

    `search` is for listings of records, `default` for everything else. If empty, there is no limit
    until the server's headers name one.
    """

    default: tuple[RateLimit, ...] = ()
    search: tuple[RateLimit, ...] = ()

    def limits(self, bucket: str) -> tuple[RateLimit, ...]:
        """Start values of a bucket."""
        return self.search if bucket == SEARCH else self.default


@dataclass(slots=True)
class _Window:
    """A moving window: a limit and the times of the requests within it."""

    seconds: float
    limit: int | None
    published: bool = False  # the limit is still the initial value
    learnt: bool = False  # even the length of the window comes from headers
    under_way: deque[float] = field(default_factory=deque)
    counted: deque[float] = field(default_factory=deque)

    def wait(self, now: float) -> float:
        """Seconds until one more request fits; 0.0 for now."""
        for times in (self.counted, self.under_way):
            # A request that is never answered, as of a dead worker, also leaves the window.
            while times and times[0] <= now - self.seconds:
                times.popleft()
        if self.limit is None or len(self.counted) + len(self.under_way) < self.limit:
            return 0.0
        oldest = min(times[0] for times in (self.counted, self.under_way) if times)
        return max(_SHORTEST_WAIT, oldest + self.seconds - now)

    def record_answer(self, now: float, took: float | None) -> None:
        """A request that was under way has been answered."""
        if self.under_way:
            sent = self.under_way.popleft()
            if took is not None:
                # A busy worker may send a request long after it was permitted to.
                sent = max(sent, now - took)
            insort(self.counted, min(now, sent + self.seconds * _LATENESS))

    def correct(self, limit: int, remaining: int | None, reset_in: float, now: float) -> None:
        """Adopt what the server reports about this window."""
        self.published = False
        if limit > _MOST_REMEMBERED:
            self.limit = None
            return
        self.limit = max(1, limit)
        if remaining is None:
            return
        # Another client shares our address, or an earlier run used it. Of the times of its
        # requests we know only the oldest, which leaves the window at the reset.
        strangers = min(limit - remaining, limit) - len(self.counted) - len(self.under_way)
        if strangers > 0:
            age = max(0.0, self.seconds - reset_in)
            times = (now - age * (1 - number / strangers) for number in range(strangers))
            self.counted = deque(sorted([*self.counted, *times]))


class Budget:
    """The requests that one server permits, by bucket; `policy` holds the limits to start from.

    Examples
    --------
    >>> budget = Budget(RatePolicy(default=(RateLimit(2, 60.0),)))
    >>> budget.grant("default", 0.0), budget.grant("default", 1.0)
    (0.0, 0.0)
    >>> budget.grant("default", 20.0)
    40.0
    """

    def __init__(self, policy: RatePolicy | None = None) -> None:
        self._policy = RatePolicy() if policy is None else policy
        self._buckets: dict[str, list[_Window]] = {}
        self._paused_until = float("-inf")
        self._failed = ("", 0)

    @property
    def trouble(self) -> str:
        """What is wrong with the server (``"does not answer"``), or ``""``.

        One failure to reach the server counts; answers of 5xx count if there are several in a row.
        """
        what, times = self._failed
        return what if times >= (_FAILURES_OF_A_SERVER if "answers" in what else 1) else ""

    def grant(self, bucket: str, now: float) -> float:
        """Ask to send one request of a bucket (``"search"`` or ``"default"``).

        Returns 0.0 if it may be sent now (it is then counted), else the seconds after which to
        ask again. `now` is in seconds of any clock that only goes forward.
        """
        windows = self._windows(bucket)
        wait = max([self._paused_until - now, *(window.wait(now) for window in windows)])
        if wait > 0.0:
            return wait
        for window in windows:
            window.under_way.append(now)
        return 0.0

    def observe(
        self,
        bucket: str,
        now: float,
        status: int,
        headers: Mapping[str, str],
        took: float | None = None,
    ) -> None:
        """Learn from an answer.

        Parameters
        ----------
        now : float
            By the clock that `grant` is given.
        status : int
            HTTP status; 0 if there was no answer. A 429 pauses every bucket, and so
            does a 503 that says for how long, unless that is over an hour.
        headers : mapping
            Of these ``X-RateLimit-Limit``, ``-Remaining``, ``-Reset``, ``Date`` and
            ``Retry-After`` are read (the last not on good answers: Zenodo sends it
            with every one). Their case does not matter.
        took : float, optional
            Seconds from sending the request to its answer; if unknown, it
            counts as sent when it was granted.
        """
        known = {name.lower(): value for name, value in headers.items()}
        self._note(status, took)
        windows = self._windows(bucket)
        for window in windows:
            window.record_answer(now, took)
        limit = _whole_number(known.get("x-ratelimit-limit"))
        remaining = _whole_number(known.get("x-ratelimit-remaining"))
        reset_in = _seconds_to_reset(known)
        if limit is not None and limit > 0:
            reset_in = windows[0].seconds if reset_in is None else reset_in
            window = _window_meant(windows, limit, reset_in)
            if window.published and limit != window.limit:
                # One published figure is out of date, so those of the longer windows are too.
                # Such servers name a longer window once it is used up.
                for longer in windows:
                    if longer.published and longer is not window:
                        longer.limit = None
            window.correct(limit, remaining, reset_in, now)
        if status in {429, 503}:
            pause = retry_after(known)
            if pause is None and status == 503:
                return
            if pause is None:
                pause = _PAUSE_WITHOUT_ADVICE if reset_in is None else reset_in + _CLOCK_GRAIN
            if pause <= LONGEST_PAUSE:
                self._paused_until = max(self._paused_until, now + pause)

    def _note(self, status: int, took: float | None) -> None:
        """Count failures in a row; requests of unknown outcome do not count."""
        if status == 0 and took is None:
            return
        what = "does not answer" if status == 0 else f"answers {status}" if status >= 500 else ""
        before, times = self._failed
        self._failed = (what, times + 1 if what == before else 1)

    def _windows(self, bucket: str) -> list[_Window]:
        if bucket not in self._buckets:
            limits = sorted(self._policy.limits(bucket), key=lambda limit: limit.seconds)
            self._buckets[bucket] = [
                _Window(limit.seconds, limit.count, published=True) for limit in limits
            ] or [_Window(60.0, None, learnt=True)]
        return self._buckets[bucket]


def _window_meant(windows: list[_Window], limit: int, reset_in: float) -> _Window:
    """Find the window that a header means: it gives a number, not a length."""
    for window in windows:
        if window.limit == limit:
            if window.learnt:
                window.seconds = max(window.seconds, _usual(reset_in))
            return window
    if windows[0].learnt and windows[0].limit is None:
        # Nothing was known: the window is as long as the time to its reset.
        windows[0].seconds = _usual(reset_in)
    for window in windows:
        # The window of an hour may also be close to its reset; then its limit distinguishes it.
        known = window.limit is not None and not window.published
        if reset_in <= window.seconds + _SLACK and not (
            known and limit > _FAR_MORE * (window.limit or limit)
        ):
            return window
    windows.append(_Window(max(3600.0, reset_in), None, learnt=True))
    return windows[-1]


def _usual(seconds: float) -> float:
    """Round a time of whole seconds to a minute or an hour, if it is close."""
    for usual in (60.0, 3600.0):
        if abs(seconds - usual) <= _SLACK:
            return usual
    return max(1.0, seconds)


def _whole_number(text: str | None) -> int | None:
    if text is None or not text.strip().isascii() or not text.strip().isdigit():
        return None
    return int(text.strip()[:18])


def _seconds(text: str | None) -> float | None:
    """Read a time in seconds; some servers send fractions, which RFC 9110 does not have."""
    number = re.fullmatch(r"\d{1,18}(\.\d*)?", (text or "").strip(), re.ASCII)
    return None if number is None else float(number[0])


def _seconds_to_reset(headers: Mapping[str, str]) -> float | None:
    """``X-RateLimit-Reset`` less ``Date``: by the server's own clock, never by ours."""
    reset = _seconds(headers.get("x-ratelimit-reset"))
    date = http_date(headers.get("date"))
    if reset is None:
        return None
    if reset < _EARLIEST_EPOCH:
        seconds = reset
    elif date is None:
        return None
    else:
        seconds = max(0.0, reset - date)
    return seconds if seconds <= _LONGEST_WINDOW else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return ``Retry-After`` in seconds, whether given as such or as an instant.

    Examples
    --------
    >>> date = "Thu, 01 Jan 2026 00:00:00 GMT"
    >>> retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:08 GMT", "date": date})
    8.0
    """
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is not None:
        return seconds
    then, date = http_date(text), http_date(headers.get("date"))
    if then is None:
        return None
    return max(0.0, then - (time.time() if date is None else date))


def http_date(text: str | None) -> float | None:
    """Read a date of a header as a Unix timestamp in seconds; None if it is none."""
    try:
        # Without a time zone, as in C's asctime, it is in UTC (RFC 9110, 5.6.7).
        parts = parsedate_tz(text or "")
        return None if parts is None else float(mktime_tz(parts))
    except (ValueError, OverflowError, IndexError):
        return None


ZENODO: Final = RatePolicy(
    default=(RateLimit(60, 60.0), RateLimit(2000, 3600.0)),
    search=(RateLimit(30, 60.0), RateLimit(2000, 3600.0)),
)
"""Zenodo's published limits for guests, to begin with."""

STRANGER: Final = RatePolicy(default=(RateLimit(120, 60.0),), search=(RateLimit(30, 60.0),))
"""For hosts of which nothing is known (GitHub, a mirror): gentle."""

UNLIMITED: Final = RatePolicy()
"""For this machine itself: nothing, until its headers name a limit."""

# A thread sleeps no longer at a time, so that it soon sees what another thread has learnt.
_LONGEST_NAP: Final = 1.0


class Throttle(Protocol):
    """Decides when a request may be sent, and learns from every answer."""

    def acquire(self, url: str) -> float:
        """Block until a request to `url` may be sent; return the seconds waited."""

    def report(
        self, url: str, status: int, headers: Mapping[str, str], took: float | None = None
    ) -> None:
        """Pass on an answer's status (0: none came), headers, and the seconds that it took."""


def host_of(url: str) -> str:
    """Return host and port of a URL, lower case, to which a server's limits apply."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def bucket_of(url: str) -> str:
    """``"search"`` for listings of records, else ``"default"``.

    Examples
    --------
    >>> bucket_of("https://zenodo.org/api/records?q=x")
    'search'
    >>> bucket_of("https://zenodo.org/api/records/1/files/a.zip/content")
    'default'
    """
    return SEARCH if urlsplit(url).path.rstrip("/").endswith("/api/records") else DEFAULT


def is_loopback(host: str) -> bool:
    """Whether a host (with or without port) is this machine.

    Examples
    --------
    >>> is_loopback("127.0.0.1:8080"), is_loopback("[::1]:80"), is_loopback("zenodo.org")
    (True, True, False)
    """
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def policy_for(host: str) -> RatePolicy:
    """Limits to start from with a host."""
    name = host.partition(":")[0]
    if name == "zenodo.org" or name.endswith(".zenodo.org"):
        return ZENODO
    return UNLIMITED if is_loopback(host) else STRANGER


class LocalThrottle:
    """The throttle of one process, shared by its threads.

    `policy` gives a host's initial limits.
    """

    def __init__(self, policy: Callable[[str], RatePolicy] = policy_for) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._budgets: dict[str, Budget] = {}
        self.waited = 0.0  # seconds, of all threads together

    def acquire(self, url: str) -> float:
        """Block until a request to `url` may be sent; return the seconds waited."""
        host, bucket = host_of(url), bucket_of(url)
        waited = 0.0
        while True:
            with self._lock:
                wait = min(self._budget(host).grant(bucket, time.monotonic()), _LONGEST_NAP)
                self.waited += wait
            if wait <= 0.0:
                return waited
            time.sleep(wait)
            waited += wait

    def report(
        self, url: str, status: int, headers: Mapping[str, str], took: float | None = None
    ) -> None:
        """Pass on an answer's status (0: none came), headers, and the seconds that it took."""
        with self._lock:
            budget = self._budget(host_of(url))
            budget.observe(bucket_of(url), time.monotonic(), status, headers, took)

    def _budget(self, host: str) -> Budget:
        if host not in self._budgets:
            self._budgets[host] = Budget(self._policy(host))
        return self._budgets[host]
