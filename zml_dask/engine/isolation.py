"""Records that kill their workers: found, given up, and kept from their neighbours.

Dask retries the task of a worker that died, and gives up with `KilledWorker` after a few
deaths; it cannot know which of the task's records was the cause, nor whether any was (a
node may simply have been taken away). So each worker says which records are active on it,
from the beginning of the fetch to the end of the reading, and a plugin on the scheduler
notes what was active when a worker died. As one record is fetched while another is read,
that makes suspects only: each is retried alone, and three deaths with nothing else active
are proof. Everything else is done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin

DEATHS_TO_GIVE_UP: Final = 3
"""Workers that a record must kill. Fewer may be chance: preemption, a broken node."""


def retries(items: Sequence[int], deaths: Mapping[int, int]) -> list[list[int]]:
    """Return the groups in which to try a dead task's records again; none for one to give up.

    `items` are the task's records that are neither done nor failed, and `deaths` the deaths at
    which each was active. A record is given up only where it was alone: among others, another may
    have killed what it was active on. Suspects are retried each alone; the unsuspected together;
    and where nobody is suspected, in halves.

    Examples
    --------
    >>> retries([1, 2, 3, 4], {3: 1})
    [[3], [1, 2, 4]]
    >>> retries([1, 2, 3, 4], {})
    [[1, 2], [3, 4]]
    >>> retries([3], {3: 3})
    []
    """
    if len(items) == 1:
        return [] if deaths.get(items[0], 0) >= DEATHS_TO_GIVE_UP else [list(items)]
    suspects = [n for n in items if deaths.get(n, 0)]
    others = [n for n in items if not deaths.get(n, 0)]
    middle = 0 if suspects else len(others) // 2
    groups = [[number] for number in suspects] + [others[:middle], others[middle:]]
    return [group for group in groups if group]


class DeathWatch(SchedulerPlugin):
    """Records on the scheduler which records are active on each worker, and which were at deaths.

    Records are distinguished by their job (its token) and their id.
    """

    name = "zml-death-watch"
    idempotent = True

    def __init__(self) -> None:
        self._active: dict[str, set[tuple[str, int]]] = {}
        self._suspected: Counter[tuple[str, int]] = Counter()
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._last_answer: dict[tuple[str, int], int] = {}

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to listen to the workers and to answer the driver."""
        scheduler.stream_handlers["zml-active"] = self._begin
        scheduler.stream_handlers["zml-inactive"] = self._end
        scheduler.handlers["zml_deaths"] = self.deaths
        scheduler.handlers["zml_forget"] = self.forget

    def log_event(self, topic: str, msg: Any) -> None:
        """Note what was active on a worker that left unexpectedly.

        The event says, as no other hook does, whether the departure was expected.
        """
        if topic != "all" or not isinstance(msg, dict) or msg.get("action") != "remove-worker":
            return
        records = self._active.pop(msg["worker"], set())
        if not msg["expected"]:
            self._suspected.update(records)
            if len(records) == 1:
                self._deaths.update(records)

    def deaths(self, job: str, items: Sequence[int]) -> dict[int, int]:
        """Return the number of deaths at which each of these records was active, if any.

        Of a lone record those count at which nothing else was active on the worker. Where
        they are no more than at the last question, it is charged with one: its task was
        given up although it was never seen (it killed faster than its message travelled),
        and must not be retried forever.
        """
        if len(items) == 1:
            key = (job, items[0])
            if self._deaths[key] <= self._last_answer.get(key, 0):
                self._deaths[key] += 1
            self._last_answer[key] = self._deaths[key]
            return {items[0]: self._deaths[key]}
        return {n: self._suspected[job, n] for n in items if self._suspected[job, n]}

    def forget(self, job: str) -> None:
        """Forget a job that has ended."""
        for counts in (self._suspected, self._deaths, self._last_answer):
            for key in [key for key in counts if key[0] == job]:
                del counts[key]

    def _begin(self, worker: str, job: str, item: int) -> None:
        self._active.setdefault(worker, set()).add((job, item))

    def _end(self, worker: str, job: str, item: int) -> None:
        self._active.get(worker, set()).discard((job, item))


def deaths_of(client: distributed.Client, job: str, items: Sequence[int]) -> Mapping[int, int]:
    """Ask the scheduler at how many deaths each of a job's records was active."""
    found: Mapping[int, int] = client.sync(client.scheduler.zml_deaths, job=job, items=list(items))
    return found
