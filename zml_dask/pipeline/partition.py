"""A partition of the build on a worker: its records one after another, the next one underway."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import distributed

from zml_dask.allocator import keep_freed_buffers
from zml_dask.engine.clusters.plugin import is_leaving, this_worker
from zml_dask.engine.clusters.scratch import worker_scratch
from zml_dask.errors import RecordError
from zml_dask.pipeline.isolation import in_hand
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.outcome import Outcome, Timings
from zml_dask.pipeline.process import (
    FetchAttempt,
    is_staged,
    process_fetched,
    record_failure,
)
from zml_dask.pipeline.throttle import ClusterThrottle
from zml_dask.pipeline.workbench import Source, Workbench, workbench
from zml_dask.records.record import Record
from zml_dask.records.refs import RecordRef, RefTable
from zml_dask.store.staging.frames import StagingDamagedError
from zml_dask.store.staging.packs import STAGED_PACKS, pack_records, read_pack_index
from zml_dask.store.storage import Storage

RECORD_TOPIC = "zml-record"
"""Under which workers tell the driver, through the scheduler, of each record they are done with."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every partition of a build needs, small enough to travel with each.

    Attributes
    ----------
    storage : Storage
        The dataset.
    source : Source
        The catalogue.
    options : BuildOptions
    """

    storage: Storage
    source: Source
    options: BuildOptions


@dataclass(frozen=True, slots=True)
class Partition:
    """Records that one task builds and packs.

    Attributes
    ----------
    name : str
        Of the pack that they are staged in; the same records have the same name.
    refs : RefTable
    attempts : mapping of int to int
        How often those records failed before that did.
    """

    name: str
    refs: RefTable
    attempts: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What became of a partition's records; counts, no content.

    Attributes
    ----------
    partition : Partition
    outcomes : tuple of Outcome
    worker : str or None
        None where several had it, and died.
    """

    partition: Partition
    outcomes: tuple[Outcome, ...]
    worker: str | None


def build_partitions(partitions: Iterable[Partition], job: Job) -> list[PartitionResult]:
    """Build each partition of an iterable: what the bag maps over its own partitions."""
    return [build_partition(partition, job) for partition in partitions]


def build_partition(partition: Partition, job: Job) -> PartitionResult:
    """Build a partition's records into staging and pack them.

    While one record is read, the next is fetched by another thread, so that
    neither network nor processor waits for the other.

    Parameters
    ----------
    partition : Partition
    job : Job

    Returns
    -------
    PartitionResult

    Raises
    ------
    StorageError
        If the dataset cannot be written; what was staged before stays.
    """
    keep_freed_buffers()
    options = job.options
    if options.scratch is None:
        options = replace(options, scratch=str(worker_scratch()))
    packed = _packed(partition, job.storage)
    outcomes = [Outcome(record_id, "already") for record_id in sorted(packed)]
    todo = [ref for ref in partition.refs if ref.record_id not in packed]
    if todo:
        with workbench(job.storage, options, job.source, throttle=ClusterThrottle()) as bench:
            for outcome in _build_records(todo, partition.attempts, job.source, bench):
                outcomes.append(outcome)
                _tell(partition.name, outcome)
            record_ids = [ref.record_id for ref in todo]
            pack_records(job.storage, partition.name, record_ids, scratch=bench.scratch)
    return PartitionResult(partition, tuple(outcomes), _worker_name())


def _packed(partition: Partition, storage: Storage) -> set[int]:
    """Return the records of a partition that were packed by a worker whose answer got lost."""
    packed: set[int] = set()
    for path in storage.list(STAGED_PACKS):
        if not path.startswith(f"{STAGED_PACKS}/{partition.name}-"):
            continue
        with suppress(StagingDamagedError):  # torn by a power cut: built again
            entries, _ = read_pack_index(storage, path)
            packed.update(entries["record_id"].to_pylist())
    return packed


class _Underway(NamedTuple):
    """A record that is being fetched, or was and waits to be read."""

    ref: RecordRef
    future: Future[FetchAttempt | RecordError | None]
    held: ExitStack


def _build_records(
    refs: Iterable[RecordRef], attempts: Mapping[int, int], source: Source, bench: Workbench
) -> Iterator[Outcome]:
    """Yield the outcome of each record in turn, fetching ahead."""
    ahead: deque[_Underway] = deque()
    waiting = deque(refs)
    with ExitStack() as stack:
        # Left in this order: no fetch may outlive the scratch folder it writes to.
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="zml-fetch"))
        stack.callback(_discard, ahead)
        while waiting or ahead:
            while waiting and len(ahead) <= bench.options.prefetch:
                ref = waiting.popleft()
                # From here on, for a record may as well kill while it is fetched.
                held = ExitStack()
                held.enter_context(in_hand(ref.record_id))
                ahead.append(_Underway(ref, pool.submit(_fetch, ref, source, bench), held))
            ref, future, held = ahead.popleft()
            with held:
                attempt = future.result()
                if is_leaving():
                    # It would stage what another builds as well, after the commit perhaps.
                    if isinstance(attempt, FetchAttempt):
                        attempt.close()
                    raise distributed.Reschedule
                tried = attempts.get(ref.record_id, 0) + 1
                if attempt is None:
                    yield Outcome(ref.record_id, "already")
                elif isinstance(attempt, RecordError):
                    yield record_failure(ref.record_id, attempt, bench, tried, Timings())
                else:
                    yield process_fetched(attempt, bench, attempts=tried)


def _fetch(ref: RecordRef, source: Source, bench: Workbench) -> FetchAttempt | RecordError | None:
    """Fetch one record; None where it is staged already, since a lost worker's may be."""
    if is_staged(bench.storage, ref.record_id):
        return None
    try:
        record: Record = source.read(ref)
    except RecordError as error:
        return error
    return FetchAttempt(record, bench)


def _discard(ahead: deque[_Underway]) -> None:
    """Throw away what was fetched ahead and will not be read."""
    for _, future, _ in ahead:
        future.cancel()
    for _, future, held in ahead:
        with suppress(Exception), held:  # the partition fails for a reason of its own
            attempt = None if future.cancelled() else future.result()
            if isinstance(attempt, FetchAttempt):
                attempt.close()


def _tell(partition: str, outcome: Outcome) -> None:
    """Tell the driver that a record is done, for its progress; the result is what counts."""
    worker = this_worker()
    if worker is not None:
        worker.log_event(RECORD_TOPIC, {"partition": partition, "record": outcome.record_id})


def _worker_name() -> str:
    worker = this_worker()
    return "local" if worker is None else str(worker.address)
