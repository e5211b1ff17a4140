"""The build as a Dask bag: partitions submitted, their results taken as they complete."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.bag as db
import distributed
from dask.base import annotate
from dask.task_spec import Task
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError

from zml_dask.errors import ZmlError
from zml_dask.pipeline.errors import BuildError
from zml_dask.pipeline.isolation import WorkerKilledError, judge
from zml_dask.pipeline.outcome import Outcome
from zml_dask.pipeline.partition import (
    RECORD_TOPIC,
    Job,
    Partition,
    PartitionResult,
    build_partitions,
)
from zml_dask.pipeline.partitioning import make_partition
from zml_dask.records.refs import RefTable

_LOST = (FutureCancelledError, CommClosedError, TimeoutError, ConnectionError)
"""What a lost cluster looks like; another OSError is some worker's own."""

Settled: TypeAlias = Callable[[Sequence[int]], Sequence[Outcome]]
"""Finds what became of records whose workers can no longer say."""

_RETRIES = 2
"""Times a task is tried again after an error of the storage, which may pass."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """A record that is given up, because it kills every worker that takes it."""

    record_id: int
    attempts: int
    error: WorkerKilledError


def partition_bag(partitions: Sequence[Partition], job: Job) -> db.Bag:
    """Return the bag whose partitions are ours, one task each, in the order given.

    Parameters
    ----------
    partitions : sequence of Partition
        References only: a graph never carries metadata.
    job : Job

    Returns
    -------
    dask.bag.Bag
        Of :class:`PartitionResult`.
    """
    # Made by hand: `from_sequence` cuts by count alone and would hash every
    # reference for a name that nothing here needs, and a mapping of its own would
    # be a second task for each partition.
    name = f"zml-records-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = {
        (name, number): Task((name, number), build_partitions, [partition], job=job)
        for number, partition in enumerate(partitions)
    }
    # Dask would begin with the last; a priority for each key says otherwise.
    with annotate(priority=lambda key: -key[1]):
        return db.Bag(graph, name, len(partitions))


def run_partitions(
    client: distributed.Client,
    partitions: Sequence[Partition],
    job: Job,
    settled: Settled,
) -> Iterator[PartitionResult | Condemned]:
    """Build partitions on a cluster; yield what becomes of them as they complete.

    Parameters
    ----------
    client : distributed.Client
    partitions : sequence of Partition
        In the order in which they are to be started.
    job : Job
    settled : callable
        Of some record ids, returns the outcomes of those that are staged or failed:
        what workers had done of a partition when they died.

    Yields
    ------
    PartitionResult or Condemned

    Raises
    ------
    BuildError
        If the cluster is lost, or a partition fails for another reason than a
        record of its own.
    ZmlError
        What a worker raised on purpose, such as a full disk.
    """
    submitted = _submit(client, partitions, job)
    completed = distributed.as_completed(submitted)
    try:
        for future in completed:
            partition = submitted.pop(future)
            try:
                yield from _result(future)
            except distributed.KilledWorker:
                known, again = _isolate(client, partition, settled)
                yield from known
                more = _submit(client, again, job)
                submitted.update(more)
                completed.update(more)
            finally:
                future.release()
    finally:
        client.cancel(list(submitted), reason="the build has stopped")


def _submit(
    client: distributed.Client, partitions: Sequence[Partition], job: Job
) -> dict[distributed.Future, Partition]:
    """Start partitions; those that come first have priority."""
    if not partitions:
        return {}
    bag: Any = partition_bag(partitions, job)
    # Optimising would find nothing to do, and lose the priorities.
    tasks = bag.to_delayed(optimize_graph=False)
    futures = client.compute(tasks, retries=_RETRIES, optimize_graph=False)
    return dict(zip(futures, partitions, strict=True))


def _result(future: distributed.Future) -> list[PartitionResult]:
    """Return a completed task's results, or say why there are none."""
    try:
        results: list[PartitionResult] = future.result()
    except (distributed.KilledWorker, ZmlError):
        raise
    except _LOST as error:
        raise BuildError(
            f"the Dask cluster was lost ({type(error).__name__}); what is staged is kept: "
            "run the same command again"
        ) from error
    except Exception as error:
        raise BuildError(
            f"a worker failed with {type(error).__name__}: {error}; what is staged is kept: "
            "run the same command again, with --debug for the traceback"
        ) from error
    return results


def _isolate(
    client: distributed.Client, partition: Partition, settled: Settled
) -> tuple[list[PartitionResult | Condemned], list[Partition]]:
    """Say what became of a partition whose workers died, and judge what is left of it."""
    numbers = [ref.record_id for ref in partition.refs]
    done = [outcome for outcome in settled(numbers) if not _is_old(outcome, partition)]
    known: list[PartitionResult | Condemned] = [PartitionResult(partition, tuple(done), None)]
    gone = {outcome.record_id for outcome in done}
    left = [number for number in numbers if number not in gone]
    if not left:
        return known, []
    verdict = judge(client, left)
    known += [
        Condemned(record_id, partition.attempts.get(record_id, 0) + 1, error)
        for record_id, error in verdict.condemned
    ]
    again = [_part_of(partition, set(record_ids)) for record_ids in verdict.retry]
    return known, again


def _is_old(outcome: Outcome, partition: Partition) -> bool:
    """Whether this is a failure of a build before, which this partition was to try again."""
    row = outcome.failure
    return row is not None and row.attempts <= partition.attempts.get(row.record_id, 0)


def _part_of(partition: Partition, record_ids: set[int]) -> Partition:
    refs = RefTable.of(ref for ref in partition.refs if ref.record_id in record_ids)
    return make_partition(refs, partition.attempts)


class LiveCounts:
    """Records done within partitions that still run, as their workers tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, set[int]] = {}
        self._finished: set[str] = set()

    def take(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Take a worker's word that a record is done."""
        _, told = event
        with self._lock:
            if told["partition"] not in self._finished:
                # Told again where a partition begins anew after a death.
                self._done.setdefault(told["partition"], set()).add(told["record"])

    def finish(self, partition: str) -> None:
        """Forget a partition whose result has arrived."""
        with self._lock:
            self._finished.add(partition)
            self._done.pop(partition, None)

    def total(self) -> int:
        """Records done in partitions without a result."""
        with self._lock:
            return sum(map(len, self._done.values()))


@contextmanager
def live_counts(client: distributed.Client) -> Iterator[LiveCounts]:
    """Listen to what workers tell of their records while the block lasts."""
    counts = LiveCounts()
    client.subscribe_topic(RECORD_TOPIC, counts.take)
    try:
        yield counts
    finally:
        client.unsubscribe_topic(RECORD_TOPIC)
