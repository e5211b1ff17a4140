"""One throttle for all workers of a cluster, wherever they run.

A server limits the address or the account, not the process: so a budget of its own
for each worker would either break the limit or leave most of it unused.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from typing import Final

import distributed

from zml_dask.engine.clusters.plugin import call, install, install_from_worker, tell, this_worker
from zml_dask.errors import ZmlError
from zml_dask.net.throttle import LocalThrottle, bucket_of, host_of
from zml_dask.pipeline.throttle_scheduler import ThrottlePlugin

# All that a budget reads; the rest of an answer's headers need not travel.
_HEADERS: Final = frozenset(
    {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after", "date"}
)

_local = LocalThrottle()
_with_plugin: weakref.WeakSet[distributed.Client] = weakref.WeakSet()


class ThrottleLostError(ZmlError):
    """The scheduler, which keeps the cluster's budget, does not answer any more."""


class ClusterThrottle:
    """The throttle that all workers of a cluster share; outside one, that of the process.

    To be made in a Dask task; may then be used by any thread of the worker.

    Attributes
    ----------
    waited : float
        Seconds that this worker's threads together have waited through it.

    Examples
    --------
    >>> throttle = ClusterThrottle()
    >>> throttle.acquire("http://127.0.0.1:8080/api/records/1")
    0.0
    """

    def __init__(self) -> None:
        self._worker = this_worker()
        self._lock = threading.Lock()
        self.waited = 0.0
        if self._worker is not None:
            install_from_worker(self._worker, ThrottlePlugin())

    def acquire(self, url: str) -> float:
        """Block until a request to `url` may be sent; return the seconds waited.

        Raises
        ------
        ThrottleLostError
            Where the scheduler is gone, or this worker on its way out.
        """
        if self._worker is None:
            waited = _local.acquire(url)
        else:
            began = time.monotonic()
            self._ask(self._worker, url)
            waited = time.monotonic() - began
        with self._lock:
            self.waited += waited
        return waited

    def report(
        self, url: str, status: int, headers: Mapping[str, str], took: float | None = None
    ) -> None:
        """Pass on an answer's status (0: none came), headers, and the seconds that it took."""
        if self._worker is None:
            _local.report(url, status, headers, took)
            return
        tell(
            self._worker,
            "zml-report",
            host=host_of(url),
            bucket=bucket_of(url),
            status=status,
            took=took,
            headers={name: text for name, text in headers.items() if name.lower() in _HEADERS},
        )

    @staticmethod
    def _ask(worker: distributed.Worker, url: str) -> None:
        try:
            permitted = call(
                worker,
                "zml_acquire",
                worker=worker.address,
                host=host_of(url),
                bucket=bucket_of(url),
            )
        except (OSError, RuntimeError) as error:  # the connection, or the worker's event loop
            raise ThrottleLostError(
                f"the cluster's throttle does not answer ({type(error).__name__}): the scheduler "
                "has ended or this worker is leaving; what is staged is kept"
            ) from error
        if not permitted:
            raise ThrottleLostError("this worker has left the cluster; another takes its work")


def throttle_waiting(client: distributed.Client) -> float:
    """Tell for how long the servers' limits hold the workers up, for progress lines.

    Parameters
    ----------
    client : distributed.Client

    Returns
    -------
    float
        Seconds until every line of waiting requests moves again; 0.0 where
        nothing waits.
    """
    if client not in _with_plugin:
        install(client, ThrottlePlugin())
        _with_plugin.add(client)
    lines = client.sync(client.scheduler.zml_throttle_state)
    return max((float(line["seconds"]) for line in lines), default=0.0)
