"""The job that stages records: a task is a partition of the catalogue, fetched, read and packed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from zml_dask.engine.activity import note_done, worker_folder, worker_name
from zml_dask.engine.job import Job, TaskReport
from zml_dask.errors import DatasetDamagedError, RecordError
from zml_dask.legacy.sources import SourceRecord
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.ledger import Ledger, staged_outcomes
from zml_dask.pipeline.outcome import Outcome, failure_row
from zml_dask.pipeline.process import WorkerContext, open_context, stage_records
from zml_dask.records.catalogue import Catalogue, RecordRef, RefTable
from zml_dask.store.staging import stage_failure
from zml_dask.store.staging.packs import STAGED_PACKS, pack_records, read_pack_index
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text

_SHARES = 16
"""Partitions a worker gets at least, where there are enough records. An archive's size says
little of its source: with four, one partition may hold two fifths of all the work."""

_NO_RECORDS = RefTable.of(())


@dataclass(frozen=True, slots=True)
class Partition:
    """Records that one task builds and packs; references only, never metadata.

    `name` is that of the pack that they are staged in: the same records have the same name.
    `attempts` says how often those records failed before that did, and `sources` where the files of
    each are, in an import.
    """

    name: str
    refs: RefTable
    attempts: Mapping[int, int] = field(default_factory=dict)
    sources: Mapping[int, SourceRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What became of a partition's records; counts, no content.

    `worker` is None where several had it, and died.
    """

    outcomes: tuple[Outcome, ...]
    worker: str | None


@dataclass(slots=True)
class Staged:
    """The records that workers reported as staged in this run, and failures by kind."""

    record_ids: list[int] = field(default_factory=list)
    n_images: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.failure is not None:
            self.failures[outcome.failure.kind] += 1
        else:
            self.record_ids.append(outcome.record_id)
            self.n_images += outcome.n_images


class StagingContext(Protocol):
    """What a worker opens to stage records."""

    @property
    def scratch(self) -> Path:
        """Its folder for temporary files."""


StagingT = TypeVar("StagingT", bound=StagingContext)


@dataclass(frozen=True)
class StagingJob(Job[Partition, StagingT, PartitionResult, Staged], Generic[StagingT]):
    """A job whose tasks stage records, from wherever they come: all but the reading of them.

    `storage` is the dataset. Only the driver needs `todo`, what is to be staged, and `ledger`.
    """

    name: ClassVar[str] = "records"

    storage: Storage
    options: BuildOptions
    todo: RefTable = _NO_RECORDS
    ledger: Ledger | None = None

    @abstractmethod
    def stage(self, task: Partition, refs: list[RecordRef], context: StagingT) -> Iterator[Outcome]:
        """Stage some of a partition's records, one after the other; yield what became of each."""

    def plan(self, workers: int) -> list[Partition]:
        """Cut the records into partitions, the largest archives first."""
        attempts = {} if self.ledger is None else self.ledger.attempts()
        return plan_partitions(self.todo, self.options, workers=workers, attempts=attempts)

    def for_workers(self) -> Self:
        """Return the job without the list of what is to be staged."""
        return replace(self, todo=_NO_RECORDS, ledger=None)

    def shared(self) -> tuple[Storage]:
        """Return the dataset's storage."""
        return (self.storage,)

    def run(self, task: Partition, context: StagingT) -> PartitionResult:
        """Stage a partition's records and pack them."""
        packed = self._packed(task)
        outcomes = [Outcome(record_id, "already") for record_id in sorted(packed)]
        todo = [ref for ref in task.refs if ref.record_id not in packed]
        for outcome in self.stage(task, todo, context):
            outcomes.append(outcome)
            note_done(outcome.record_id)
        if todo:
            record_ids = [ref.record_id for ref in todo]
            pack_records(self.storage, task.name, record_ids, scratch=context.scratch)
        return PartitionResult(tuple(outcomes), worker_name())

    def finish(self, results: Iterator[PartitionResult]) -> Staged:
        """Add up what was staged."""
        staged = Staged()
        for result in results:
            for outcome in result.outcomes:
                staged.add(outcome)
        return staged

    def items(self, task: Partition) -> list[int]:
        """Return the ids of a partition's records."""
        ids: list[int] = task.refs.record_ids.tolist()
        return ids

    def recover(self, task: Partition) -> tuple[PartitionResult | None, Partition | None]:
        """Find in staging what dead workers have done of a partition."""
        numbers = self.items(task)
        done = [
            outcome
            for outcome in staged_outcomes(self.storage, numbers)
            if not _is_old(outcome, task)
        ]
        gone = {outcome.record_id for outcome in done}
        left = [number for number in numbers if number not in gone]
        result = PartitionResult(tuple(done), None) if done else None
        return result, self.select(task, left) if left else None

    def select(self, task: Partition, items: Sequence[int]) -> Partition:
        """Return the partition of some of a partition's records."""
        refs = task.refs.take(np.isin(task.refs.record_ids, items))
        return make_partition(refs, task.attempts, task.sources)

    def give_up(self, task: Partition, item: int, error: RecordError) -> PartitionResult:
        """Stage the failure of a record that kills its workers."""
        row = failure_row(item, error, task.attempts.get(item, 0) + 1)
        stage_failure(self.storage, row)
        return PartitionResult((Outcome(item, "failed", failure=row),), None)

    def report(self, result: PartitionResult) -> TaskReport:
        """Count a partition's records, and say which failed."""
        failed = [each.failure for each in result.outcomes if each.failure is not None]
        return TaskReport(
            done=len(result.outcomes),
            failed=len(failed),
            n_files=sum(each.n_files for each in result.outcomes),
            n_images=sum(each.n_images for each in result.outcomes),
            lines=[
                # A server's or an archive's own words may be in it.
                f"record {row.record_id} failed: {row.kind}: "
                f"{escape_text(row.message.removeprefix(f'record {row.record_id} '))}"
                for row in failed
            ],
            events=[
                ("record", {"worker": result.worker, **each.to_json()}) for each in result.outcomes
            ],
        )

    def _packed(self, task: Partition) -> set[int]:
        """Return the records that a worker packed before its answer got lost."""
        packed: set[int] = set()
        for path in self.storage.list(STAGED_PACKS):
            if not path.startswith(f"{STAGED_PACKS}/{task.name}-"):
                continue
            with suppress(DatasetDamagedError):  # torn by a power cut: built again
                entries, _ = read_pack_index(self.storage, path)
                packed.update(entries["record_id"].to_pylist())
        return packed


@dataclass(frozen=True)
class StageRecords(StagingJob[WorkerContext]):
    """Builds records of a catalogue into a dataset's staging."""

    catalogue: Catalogue = field(default_factory=lambda: Catalogue(""))

    def for_workers(self) -> Self:
        """Return the job without the list of records."""
        return replace(super().for_workers(), catalogue=replace(self.catalogue, refs=_NO_RECORDS))

    def open(self) -> AbstractContextManager[WorkerContext]:
        """Open a client, scratch space and the catalogue on a worker."""
        options = self.options
        if options.scratch is None:
            # On a Dask worker: on the node's own disk, and removed with the worker.
            folder = worker_folder()
            options = replace(options, scratch=None if folder is None else str(folder))
        return open_context(self.storage, options, self.catalogue)

    def stage(
        self, task: Partition, refs: list[RecordRef], context: WorkerContext
    ) -> Iterator[Outcome]:
        """Fetch, read and stage records."""
        return stage_records(refs, context, task.attempts)


def plan_partitions(
    refs: RefTable, options: BuildOptions, *, workers: int, attempts: Mapping[int, int]
) -> list[Partition]:
    """Cut records into partitions, the largest archives first.

    ``options.partition_records`` and ``partition_bytes`` bound a partition; a few records are
    shared evenly among `workers`. `attempts` says how often records failed before. A large archive
    is alone in its partition; the first ones are to be started first, so that no worker is left
    alone with one at the end.

    Examples
    --------
    >>> refs = RefTable.of(RecordRef(i, 0, 0, size) for i, size in enumerate([5, 900, 7], 1))
    >>> plan = plan_partitions(refs, BuildOptions(partition_bytes=100), workers=1, attempts={})
    >>> [[ref.record_id for ref in partition.refs] for partition in plan]
    [[2], [3], [1]]
    """
    most = min(options.partition_records, max(1, -(-len(refs) // (_SHARES * max(1, workers)))))
    return [
        make_partition(refs.take(np.array(group)), attempts)
        for group in _groups(refs, most, options.partition_bytes)
    ]


def make_partition(
    refs: RefTable,
    attempts: Mapping[int, int],
    sources: Mapping[int, SourceRecord] = MappingProxyType({}),
) -> Partition:
    """Name a partition after its records, so that packing it twice gives one pack."""
    ids = refs.record_ids
    digest = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    known = {number: attempts[number] for number in ids.tolist() if number in attempts}
    here = {number: sources[number] for number in ids.tolist()} if sources else {}
    return Partition(f"{ids[0]}-{digest}", refs, known, here)


def _groups(refs: RefTable, most: int, most_bytes: int) -> Iterator[list[int]]:
    """Yield positions in `refs`, largest archives first, in groups within both bounds."""
    sizes = refs.archive_bytes
    # Stable, by falling size: equal catalogues give equal partitions.
    order = np.argsort(-sizes, kind="stable")
    group: list[int] = []
    held = 0
    for position in order.tolist():
        size = int(sizes[position])
        if group and (len(group) >= most or held + size > most_bytes):
            yield group
            group, held = [], 0
        group.append(position)
        held += size
    if group:
        yield group


def _is_old(outcome: Outcome, task: Partition) -> bool:
    """Whether this failure is from an earlier build, and was to be tried again."""
    row = outcome.failure
    return row is not None and row.attempts <= task.attempts.get(row.record_id, 0)
