"""One throttle for all workers of a cluster, wherever they run.

A server limits the address or the account, not the process: a budget of its own for
each worker would either break the limit or leave most of it unused. So the budgets are
kept on the Dask scheduler. Every request of every worker asks there, and is answered in
the order of asking. A worker's question stays open until its turn has come, so that
nobody polls, no worker starves, and what a dying worker waited for goes to the next.
Permits are given one at a time: a round trip takes a millisecond and the servers in
question permit two requests a second, so permits lent out ahead would save nothing and
lie idle with workers that are busy reading.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin

from zml_dask.engine.activity import call, install_from_worker, tell
from zml_dask.errors import ClusterError
from zml_dask.net.throttle import Budget, RatePolicy, bucket_of, host_of, policy_for

# All that a budget reads; the rest of an answer's headers need not travel.
_HEADERS: Final = frozenset(
    {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after", "date"}
)

_with_plugin: weakref.WeakSet[distributed.Client] = weakref.WeakSet()

# A budget that waits for answers on their way says so by a wait of next to
# nothing; an answer wakes the queue anyway.
_SHORTEST_NAP: Final = 0.005
# Nothing is slept through for longer: neither a pause nor a limit raised since.
_LONGEST_NAP: Final = 1.0

_NO_ANSWER: Final = 0


class ClusterThrottle:
    """The throttle that all workers of a cluster share, as one of them uses it in its tasks."""

    def __init__(self, worker: distributed.Worker) -> None:
        self._worker = worker
        install_from_worker(worker, ThrottlePlugin())

    def acquire(self, url: str) -> float:
        """Block until a request to `url` may be sent; return the seconds waited.

        Raises `ClusterError` where the scheduler has ended or this worker is leaving.
        """
        began = time.monotonic()
        try:
            permitted = call(
                self._worker,
                "zml_acquire",
                worker=self._worker.address,
                host=host_of(url),
                bucket=bucket_of(url),
            )
        except (OSError, RuntimeError) as error:  # the connection, or the worker's event loop
            raise ClusterError(
                f"the cluster's throttle does not answer ({type(error).__name__}): the scheduler "
                "has ended or this worker is leaving; what is staged is kept"
            ) from error
        if not permitted:
            raise ClusterError("this worker has left the cluster; another takes its work")
        return time.monotonic() - began

    def report(
        self, url: str, status: int, headers: Mapping[str, str], took: float | None = None
    ) -> None:
        """Pass on an answer's status (0: none came), headers, and the seconds that it took."""
        tell(
            self._worker,
            "zml-report",
            host=host_of(url),
            bucket=bucket_of(url),
            status=status,
            took=took,
            headers={name: text for name, text in headers.items() if name.lower() in _HEADERS},
        )


def throttle_waiting(client: distributed.Client) -> tuple[float, str]:
    """Return what delays the workers, for progress lines.

    That is the seconds until every queue of waiting requests moves again (0.0 where nothing
    waits), and which server fails and how ("" for none).
    """
    if client not in _with_plugin:
        client.register_plugin(ThrottlePlugin())
        _with_plugin.add(client)
    seconds, trouble = client.sync(client.scheduler.zml_waiting)
    return float(seconds), str(trouble)


@dataclass(slots=True)
class _Waiter:
    worker: str
    turn: asyncio.Future[bool]


@dataclass(slots=True)
class _Queue:
    """Workers that wait to send a request of one kind to a server; first come, first served."""

    bucket: str
    budget: Budget
    waiters: deque[_Waiter] = field(default_factory=deque)
    # Permits given to workers that have not yet reported how the request went.
    under_way: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Task[None] | None = None
    next_at: float = 0.0


class ThrottlePlugin(SchedulerPlugin):
    """Decides on the scheduler who may send a request to which server when.

    `policy` gives a host's limits to start from, until the server's headers say otherwise.
    """

    name = "zml-throttle"
    idempotent = True

    def __init__(self, policy: Callable[[str], RatePolicy] = policy_for) -> None:
        self._policy = policy
        self._budgets: dict[str, Budget] = {}
        self._queues: dict[tuple[str, str], _Queue] = {}

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to answer the workers and the driver."""
        scheduler.handlers["zml_acquire"] = self.acquire
        scheduler.handlers["zml_waiting"] = self.waiting
        scheduler.stream_handlers["zml-report"] = self.report

    async def acquire(self, worker: str, host: str, bucket: str) -> bool:
        """Answer True when this worker may send its request, or False if the worker has left."""
        queue = self._line(host, bucket)
        waiter = _Waiter(worker, asyncio.get_running_loop().create_future())
        queue.waiters.append(waiter)
        if queue.server is None or queue.server.done():
            queue.server = asyncio.create_task(self._serve(queue))
        return await waiter.turn

    def report(
        self,
        worker: str,
        host: str,
        bucket: str,
        status: int,
        headers: Mapping[str, str],
        took: float | None = None,
    ) -> None:
        """Learn from an answer that a worker got; a 429 stops all of them."""
        queue = self._line(host, bucket)
        queue.under_way[worker] -= 1
        queue.budget.observe(bucket, time.monotonic(), status, headers, took)
        self._wake(host)

    def remove_worker(self, scheduler: distributed.Scheduler, worker: str, **kwargs: Any) -> None:
        """Free the share of a worker that left or died for the others."""
        for (host, bucket), queue in self._queues.items():
            for waiter in [each for each in queue.waiters if each.worker == worker]:
                queue.waiters.remove(waiter)
                if not waiter.turn.done():
                    waiter.turn.set_result(False)
            for _ in range(queue.under_way.pop(worker, 0)):
                # Sent or not, nobody knows; it counts from when it was permitted.
                queue.budget.observe(bucket, time.monotonic(), _NO_ANSWER, {})
            self._wake(host)

    def waiting(self) -> tuple[float, str]:
        """Return what :func:`throttle_waiting` does."""
        now = time.monotonic()
        seconds = [queue.next_at - now for queue in self._queues.values() if queue.waiters]
        failing = {host: budget.trouble for host, budget in self._budgets.items()}
        trouble = "; ".join(f"{host} {what}" for host, what in failing.items() if what)
        return max([0.0, *seconds]), trouble

    async def _serve(self, queue: _Queue) -> None:
        """Let the waiters of a queue go, each as soon as the budget permits."""
        while queue.waiters:
            if queue.waiters[0].turn.done():  # its worker hung up: Dask cancelled the answer
                queue.waiters.popleft()
                continue
            now = time.monotonic()
            wait = queue.budget.grant(queue.bucket, now)
            if wait <= 0.0:
                waiter = queue.waiters.popleft()
                queue.under_way[waiter.worker] += 1
                waiter.turn.set_result(True)
                continue
            queue.next_at = now + wait
            queue.changed.clear()
            nap = min(max(wait, _SHORTEST_NAP), _LONGEST_NAP)
            try:
                await asyncio.wait_for(queue.changed.wait(), nap)
            except TimeoutError:
                continue  # the time has come

    def _line(self, host: str, bucket: str) -> _Queue:
        if (host, bucket) not in self._queues:
            budget = self._budgets.setdefault(host, Budget(self._policy(host)))
            self._queues[host, bucket] = _Queue(bucket, budget)
        return self._queues[host, bucket]

    def _wake(self, host: str) -> None:
        for (other, _), queue in self._queues.items():
            if other == host:
                queue.changed.set()
