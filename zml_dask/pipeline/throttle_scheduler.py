"""The cluster's half of the throttle: one budget a server, kept on the Dask scheduler.

Every request of every worker passes through here, in the order in which they were
asked for. A worker's question stays open until its turn has come, so that nobody
polls, no worker starves, and what a dying worker waited for goes to the next. Permits
are given one at a time: a round trip takes a millisecond and the servers in question
permit two requests a second, so permits lent out ahead would save nothing and lie idle
with workers that are busy reading.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin

from zml_dask.net.throttle import Budget, RatePolicy, policy_for

# A budget that waits for answers on their way says so by a wait of next to
# nothing; an answer wakes the line anyway.
_SHORTEST_NAP: Final = 0.005
# Nothing is slept through for longer: neither a pause nor a limit raised since.
_LONGEST_NAP: Final = 1.0

_NO_ANSWER: Final = 0


@dataclass(slots=True)
class _Waiter:
    worker: str
    turn: asyncio.Future[bool]


@dataclass(slots=True)
class _Line:
    """Those who wait to send a request to one server, of one kind; first come, first served."""

    bucket: str
    budget: Budget
    waiters: deque[_Waiter] = field(default_factory=deque)
    # Permits given to workers that have not yet told how the request went.
    under_way: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Task[None] | None = None
    next_at: float = 0.0


class ThrottlePlugin(SchedulerPlugin):
    """On the scheduler: who may send a request to which server when.

    Parameters
    ----------
    policy : callable
        Host -> limits to start from, until the server's headers say otherwise.
    """

    name = "zml-throttle"
    idempotent = True

    def __init__(self, policy: Callable[[str], RatePolicy] = policy_for) -> None:
        self._policy = policy
        self._budgets: dict[str, Budget] = {}
        self._lines: dict[tuple[str, str], _Line] = {}

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to answer the workers and the driver."""
        scheduler.handlers["zml_acquire"] = self.acquire
        scheduler.handlers["zml_throttle_state"] = self.state
        scheduler.stream_handlers["zml-report"] = self.report

    async def acquire(self, worker: str, host: str, bucket: str) -> bool:
        """Answer when this worker may send its request.

        Returns
        -------
        bool
            False where the worker is gone, so that nobody will.
        """
        line = self._line(host, bucket)
        waiter = _Waiter(worker, asyncio.get_running_loop().create_future())
        line.waiters.append(waiter)
        if line.server is None or line.server.done():
            line.server = asyncio.create_task(self._serve(line))
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
        line = self._line(host, bucket)
        line.under_way[worker] -= 1
        line.budget.observe(bucket, time.monotonic(), status, headers, took)
        self._wake(host)

    def remove_worker(self, scheduler: distributed.Scheduler, worker: str, **kwargs: Any) -> None:
        """Give the share of a worker that left or died to the others."""
        for (host, bucket), line in self._lines.items():
            for waiter in [each for each in line.waiters if each.worker == worker]:
                line.waiters.remove(waiter)
                if not waiter.turn.done():
                    waiter.turn.set_result(False)
            for _ in range(line.under_way.pop(worker, 0)):
                # Sent or not, nobody knows; it counts from when it was permitted.
                line.budget.observe(bucket, time.monotonic(), _NO_ANSWER, {})
            self._wake(host)

    def state(self) -> list[dict[str, Any]]:
        """Lines in which somebody waits, for whoever shows progress."""
        now = time.monotonic()
        return [
            {
                "host": host,
                "bucket": line.bucket,
                "waiting": len(line.waiters),
                "seconds": max(0.0, line.next_at - now),
                "paused": line.budget.paused_for(now),
            }
            for (host, _), line in self._lines.items()
            if line.waiters
        ]

    async def _serve(self, line: _Line) -> None:
        """Let the waiters of a line go, each as soon as the budget has room."""
        while line.waiters:
            if line.waiters[0].turn.done():  # its worker hung up: Dask cancelled the answer
                line.waiters.popleft()
                continue
            now = time.monotonic()
            wait = line.budget.grant(line.bucket, now)
            if wait <= 0.0:
                waiter = line.waiters.popleft()
                line.under_way[waiter.worker] += 1
                waiter.turn.set_result(True)
                continue
            line.next_at = now + wait
            line.changed.clear()
            nap = min(max(wait, _SHORTEST_NAP), _LONGEST_NAP)
            try:
                await asyncio.wait_for(line.changed.wait(), nap)
            except TimeoutError:
                continue  # the time has come

    def _line(self, host: str, bucket: str) -> _Line:
        if (host, bucket) not in self._lines:
            budget = self._budgets.setdefault(host, Budget(self._policy(host)))
            self._lines[host, bucket] = _Line(bucket, budget)
        return self._lines[host, bucket]

    def _wake(self, host: str) -> None:
        for (other, _), line in self._lines.items():
            if other == host:
                line.changed.set()
