"""Who may send a request when: the interface of the throttle, and its form in one process.

A cluster needs one budget for all of its workers; that form lives where Dask is
known and fulfils the same `Throttle`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import urlsplit

from zml_dask.net.budget import DEFAULT, SEARCH, Budget, RateLimit, RatePolicy

ZENODO: Final = RatePolicy(
    default=(RateLimit(60, 60.0), RateLimit(2000, 3600.0)),
    search=(RateLimit(30, 60.0), RateLimit(2000, 3600.0)),
)
"""Zenodo's published limits for guests, to begin with."""

STRANGER: Final = RatePolicy(default=(RateLimit(120, 60.0),), search=(RateLimit(30, 60.0),))
"""For hosts of which nothing is known (GitHub, a mirror): gentle."""

UNLIMITED: Final = RatePolicy()
"""For this machine itself: nothing, until its headers name a limit."""

# Long waits are cut up so that what another thread learns is heeded soon.
_LONGEST_NAP: Final = 1.0


class Throttle(Protocol):
    """Asked before, and told after, every request."""

    def acquire(self, url: str) -> float:
        """Block until a request to `url` may be sent; return the seconds waited."""
        ...

    def report(
        self, url: str, status: int, headers: Mapping[str, str], took: float | None = None
    ) -> None:
        """Pass on an answer's status (0: none came), headers, and the seconds that it took."""
        ...


def host_of(url: str) -> str:
    """Host and port of a URL, lower case: what a server's limits hang on."""
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

    Parameters
    ----------
    policy : callable
        Host -> `RatePolicy` to start from.

    Attributes
    ----------
    waited : float
        Seconds that all threads together have waited.
    """

    def __init__(self, policy: Callable[[str], RatePolicy] = policy_for) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._budgets: dict[str, Budget] = {}
        self.waited = 0.0

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
