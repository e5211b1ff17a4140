"""The import of the legacy dataset (2018): its records are staged and committed as by a build."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from zml_dask.engine.activity import active, check_staying, worker_folder
from zml_dask.engine.job import OpenExecutor, run_job
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.log import build_log
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.errors import StorageError, UsageError
from zml_dask.legacy.import_record import import_record
from zml_dask.legacy.sources import LegacySource, SourceRecord, open_source
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.inputs import check_target
from zml_dask.pipeline.ledger import load_ledger
from zml_dask.pipeline.outcome import Outcome, Timings, failure_row
from zml_dask.pipeline.process import row_of_hit
from zml_dask.pipeline.stage import Partition, Staged, StagingJob, make_partition
from zml_dask.records.catalogue import RecordRef, RefTable
from zml_dask.store.commit import CommitOptions, CommitStaged, software_versions
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import stage_failure
from zml_dask.store.storage import Storage

_PARTITION_RECORDS = 16
"""What a worker loses at most when it dies: legacy records are read fast, and are large."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Records found in the source, and what became of them; images of those imported.

    `info` describes the dataset after the commit.
    """

    found: int
    imported: int
    failed: int
    already: int
    images: int
    info: DatasetInfo


@dataclass(frozen=True, slots=True)
class ImportContext:
    """What a worker opens for an import; the source belongs to one thread."""

    source: LegacySource
    scratch: Path


@dataclass(frozen=True)
class ImportLegacy(StagingJob[ImportContext]):
    """Imports records of the legacy dataset into a dataset's staging.

    Only the driver needs `records`.
    """

    source: Path = Path()
    records: Mapping[int, SourceRecord] = field(default_factory=dict)

    def plan(self, workers: int) -> list[Partition]:
        """Cut the records into partitions, the largest first."""
        return [
            make_partition(part.refs, part.attempts, self.records) for part in super().plan(workers)
        ]

    def for_workers(self) -> ImportLegacy:
        """Return the job without its records."""
        return replace(super().for_workers(), records={})

    @contextmanager
    def open(self) -> Iterator[ImportContext]:
        """Open the source, and a folder for temporary files."""
        source = open_source(self.source)
        parent = self.options.scratch or worker_folder()
        try:
            with TemporaryDirectory("", "import-", parent, ignore_cleanup_errors=True) as folder:
                yield ImportContext(source, Path(folder))
        finally:
            source.close()

    def stage(
        self, task: Partition, refs: list[RecordRef], context: ImportContext
    ) -> Iterator[Outcome]:
        """Read and stage records."""
        for ref in refs:
            check_staying()
            with active(ref.record_id):
                outcome = self._import(
                    task.sources[ref.record_id], context, task.attempts.get(ref.record_id, 0) + 1
                )
            yield outcome

    def _import(self, record: SourceRecord, context: ImportContext, attempts: int) -> Outcome:
        started = time.perf_counter()
        try:
            staged = import_record(
                context.source, record, self.storage, row_of_hit, context.scratch
            )
        except StorageError:
            raise  # the dataset's storage failed, not the record
        except Exception as error:  # noqa: BLE001 - becomes the record's row; the import goes on
            row = failure_row(record.record_id, error, attempts)
            stage_failure(self.storage, row)
            return Outcome(record.record_id, "failed", failure=row)
        timings = Timings(read=time.perf_counter() - started)
        return Outcome(
            record.record_id, "staged", staged.n_files, staged.n_images, record.size, timings
        )


def import_legacy(
    source: str | Path,
    dataset: str | Path | Storage,
    open_executor: OpenExecutor,
    *,
    retry_failed: bool = False,
    scratch: Path | None = None,
    progress: BuildProgress | None = None,
) -> ImportResult:
    """Import a legacy dataset (2018) and commit it; pickles are read without being run.

    Interrupted, the same call goes on where it stopped. `source` is a folder of legacy records, or
    a squashfs image of one; workers must see it. The dataset is made where it does not exist; else
    the records are added to it. With `retry_failed`, records that failed permanently are tried
    again. `UsageError` if `source` holds no legacy record, or `dataset` has another image size;
    `ZmlError` if another process works on the dataset.
    """
    progress = progress or SilentProgress()
    opened = open_source(source)
    records = {record.record_id: record for record in opened.records()}
    opened.close()
    if not records:
        raise UsageError(f"{opened.path} holds no record of 2018: no <id>/images_<id>.pkl or .h5")
    storage = Storage.open(dataset)
    with dataset_lock(storage, on_wait=progress.say) as lock, build_log(storage) as log:
        info = check_target(storage)
        if info is not None and info.shape != ImageShape():
            raise UsageError(
                f"{storage.url} has images of {info.shape.height} by {info.shape.width}, and "
                "2018's are of 80 by 80; import into another dataset"
            )
        ledger = load_ledger(storage, info, shape=ImageShape())
        refs = RefTable.of(RecordRef(each.record_id, 0, 0, each.size) for each in records.values())
        todo = ledger.todo(refs, retry_failed=retry_failed)
        staged = Staged()
        options = BuildOptions(
            partition_records=_PARTITION_RECORDS, scratch=None if scratch is None else str(scratch)
        )
        job = ImportLegacy(storage, options, todo, ledger, source=opened.path, records=records)
        log.write("start", source=str(opened.path), todo=len(todo), software=software_versions())
        if len(todo) or len(ledger.staged) or ledger.uncommitted_failures:
            with open_executor() as executor:
                staged = run_job(job, executor, lock=lock, log=log, progress=progress)
                commit = CommitStaged(
                    storage, CommitOptions(software=software_versions()), staged.record_ids
                )
                info = run_job(commit, executor, lock=lock, progress=progress)
        log.write("end", committed=bool(info))
    return ImportResult(
        found=len(records),
        imported=len(staged.record_ids),
        failed=staged.failures.total(),
        already=len(records) - len(todo),
        images=staged.n_images,
        info=info or DatasetInfo(),
    )
