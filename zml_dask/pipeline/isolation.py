"""Records that kill their workers: found, judged, and kept from their neighbours.

Dask retries the task of a worker that died, and gives up with `KilledWorker` after a
few deaths; it cannot know which of the task's records was the cause, nor whether any
was (a node may simply have been taken away). So each worker says which records it has
in hand, from the beginning of the fetch to the end of the reading, and a plugin on the
scheduler notes what was in hand when a worker died. As one record is fetched while
another is read, that makes suspects only: each is retried alone, and three deaths
with nothing else in hand condemn it. Everything else is built again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import distributed
from dask.utils import format_bytes
from distributed.diagnostics.plugin import SchedulerPlugin

from zml_dask.engine.clusters.plugin import install, install_from_worker, tell, this_worker
from zml_dask.errors import RecordError, Stage

DEATHS_TO_CONDEMN: Final = 3
"""Workers that a record must kill. Fewer may be chance: preemption, a broken node."""


class WorkerKilledError(RecordError):
    """Every worker that took the record died."""

    kind: ClassVar[str] = "worker_killed"
    stage: ClassVar[Stage] = "worker"
    permanent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the records of a partition whose workers died.

    Attributes
    ----------
    condemned : tuple of (int, WorkerKilledError)
        Records to be noted as failed for good.
    retry : tuple of tuple of int
        Partitions to be submitted in place of the dead one.
    """

    condemned: tuple[tuple[int, WorkerKilledError], ...]
    retry: tuple[tuple[int, ...], ...]


class DeathWatch(SchedulerPlugin):
    """On the scheduler: which record each worker has in hand, and which were there at deaths."""

    name = "zml-death-watch"
    idempotent = True

    def __init__(self) -> None:
        self._in_hand: dict[str, set[int]] = {}
        self._suspected: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._told: dict[int, int] = {}

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to listen to the workers and to answer the driver."""
        scheduler.stream_handlers["zml-take"] = self._take
        scheduler.stream_handlers["zml-put-down"] = self._put_down
        scheduler.handlers["zml_deaths"] = self.deaths

    def log_event(self, topic: str, msg: Any) -> None:
        """Note what a worker had in hand that left without being asked to.

        The event says, as no other hook does, whether the departure was expected.
        """
        if topic != "all" or not isinstance(msg, dict) or msg.get("action") != "remove-worker":
            return
        records = self._in_hand.pop(msg["worker"], set())
        if not msg["expected"]:
            self._suspected.update(records)
            if len(records) == 1:
                self._deaths.update(records)

    def deaths(self, record_ids: Sequence[int]) -> dict[int, int]:
        """Deaths with each of these records in hand, of those that had any.

        Of a lone record those count at which a worker had nothing else in hand. Where
        they are no more than when it was last asked about, it is charged with one: its
        task was given up although it was never seen (it killed faster than its message
        travelled), and must not be retried for ever.
        """
        if len(record_ids) == 1:
            (number,) = record_ids
            if self._deaths[number] <= self._told.get(number, 0):
                self._deaths[number] += 1
            self._told[number] = self._deaths[number]
            return {number: self._deaths[number]}
        return {n: self._suspected[n] for n in record_ids if self._suspected[n]}

    def _take(self, worker: str, record_id: int) -> None:
        self._in_hand.setdefault(worker, set()).add(record_id)

    def _put_down(self, worker: str, record_id: int) -> None:
        self._in_hand.get(worker, set()).discard(record_id)


def watch_deaths(client: distributed.Client) -> None:
    """Have the scheduler note which records workers die of."""
    install(client, DeathWatch())


@contextmanager
def in_hand(record_id: int) -> Iterator[None]:
    """Say that this worker has a record in hand, for as long as the block lasts.

    Costs the worker nothing to speak of, and outside a Dask task does nothing.

    Examples
    --------
    >>> with in_hand(1234567):
    ...     pass
    """
    worker = this_worker()
    if worker is None:
        yield
        return
    install_from_worker(worker, DeathWatch())
    tell(worker, "zml-take", record_id=record_id)
    try:
        yield
    finally:
        tell(worker, "zml-put-down", record_id=record_id)


def judge(client: distributed.Client, record_ids: Sequence[int]) -> Verdict:
    """Say what to do with a partition that ended in `KilledWorker`.

    Parameters
    ----------
    client : distributed.Client
    record_ids : sequence of int
        The partition's records that are neither staged nor failed.

    Returns
    -------
    Verdict
    """
    found: Mapping[int, int] = client.sync(client.scheduler.zml_deaths, record_ids=list(record_ids))
    limits = [each["memory_limit"] for each in _workers(client) if each["memory_limit"]]
    return verdict(record_ids, found, min(limits, default=None))


def verdict(
    record_ids: Sequence[int], deaths: Mapping[int, int], memory_limit: int | None = None
) -> Verdict:
    """The judgement itself, from the deaths that each record was in hand at.

    Parameters
    ----------
    record_ids : sequence of int
    deaths : mapping of int to int
    memory_limit : int, optional
        A worker's, in bytes, for the message.

    Returns
    -------
    Verdict
        A record is condemned only where it was alone: among others, another may have
        killed what it was in hand at. Suspects are retried each alone; the
        unsuspected together; and where nobody is suspected, in halves.

    Examples
    --------
    >>> verdict([1, 2, 3, 4], {3: 1}).retry
    ((3,), (1, 2, 4))
    >>> verdict([1, 2, 3, 4], {}).retry
    ((1, 2), (3, 4))
    """
    if len(record_ids) == 1 and deaths.get(record_ids[0], 0) >= DEATHS_TO_CONDEMN:
        number = record_ids[0]
        return Verdict(((number, _condemnation(number, deaths[number], memory_limit)),), ())
    suspects = [n for n in record_ids if deaths.get(n, 0)]
    others = tuple(n for n in record_ids if not deaths.get(n, 0))
    retry: list[tuple[int, ...]] = [(number,) for number in suspects]
    if suspects or len(others) < 2:
        retry += [others] if others else []
    else:
        middle = len(others) // 2
        retry += [others[:middle], others[middle:]]
    return Verdict((), tuple(retry))


def _condemnation(record_id: int, deaths: int, memory_limit: int | None) -> WorkerKilledError:
    memory = "" if memory_limit is None else f" ({format_bytes(memory_limit)} each)"
    return WorkerKilledError(
        f"record {record_id} killed {deaths} workers, most likely by needing more memory than "
        f"they have{memory}; give workers more and build with --retry-failed"
    )


def _workers(client: distributed.Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())
