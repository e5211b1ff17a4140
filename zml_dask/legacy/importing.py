"""The 2018 dataset into the new form: read record by record, staged, committed.

The driver lists the source and makes a Dask bag of it; a partition
opens the source on its own, stages its records as a build does, and packs them.
What is staged or committed already is passed over, so that the same command goes
on where a dead one stopped.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from zml_dask.errors import UsageError
from zml_dask.legacy.bags import Compute, dealt, default_compute, map_partitions
from zml_dask.legacy.import_record import Describe, ImportedRecord, import_record
from zml_dask.legacy.sources import LegacySource, SourceRecord, open_source
from zml_dask.store.commit import CommitOptions, commit
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import StagingIndex, pack_records
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_record_ids, read_table

Progress: TypeAlias = Callable[[int, int, Sequence[ImportedRecord]], None]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How an import runs.

    Attributes
    ----------
    partition_records : int
        Records a partition: what a worker loses at most when it dies.
    retry_failed : bool
        Try records again that failed for good.
    scratch : pathlib.Path or None
        A local folder; the system's where it is None.
    """

    partition_records: int = 16
    retry_failed: bool = False
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Attributes
    ----------
    found : int
        Records in the source.
    imported, failed, already : int
    images : int
        Of the imported records.
    info : DatasetInfo
        The dataset after the commit.
    """

    found: int
    imported: int
    failed: int
    already: int
    images: int
    info: DatasetInfo


def import_legacy(
    source: str | Path,
    dataset: str | Path | Storage,
    *,
    describe: Describe,
    options: ImportOptions | None = None,
    notes: CommitOptions | None = None,
    compute: Compute = default_compute,
    progress: Progress | None = None,
) -> ImportResult:
    """Import a dataset of 2018 and commit it.

    Parameters
    ----------
    source : path
        A folder of 2018's records, or a squashfs image of one.
    dataset : str, path or Storage
        Made where it is not there; else the records are added to it.
    describe : callable
        Turns a hit into the columns of the records table; picklable.
    options : ImportOptions, optional
    notes : CommitOptions, optional
        What the commit notes in ``dataset.json``.
    compute : callable
        Computes a Dask bag; by default with the scheduler that is set, be it a
        cluster's. Its workers must see `source`.
    progress : callable, optional
        Told records done, records to do and what came of the last ones.

    Returns
    -------
    ImportResult

    Raises
    ------
    UsageError
        If `source` holds no record of 2018, or `dataset` has another image size.
    """
    options = options or ImportOptions()
    opened = open_source(source)
    records = opened.records()
    opened.close()
    if not records:
        raise UsageError(f"{opened.path} holds no record of 2018: no <id>/images_<id>.pkl or .h5")
    storage = Storage.open(dataset)
    todo = _to_do(storage, records, retry_failed=options.retry_failed)
    task = _Partition(opened, storage, describe, options.scratch)
    results: list[ImportedRecord] = []
    size = options.partition_records
    for done in map_partitions(task, dealt(todo, size), size, compute):
        results += done
        if progress is not None:
            progress(len(results), len(todo), done)
    # A task a partition, because each writes a whole shard or part.
    info = commit(
        storage,
        notes,
        map=lambda run, tasks: chain.from_iterable(
            map_partitions(_Each(run), list(tasks), 1, compute)
        ),
    )
    failed = sum(result.failure is not None for result in results)
    return ImportResult(
        found=len(records),
        imported=len(results) - failed,
        failed=failed,
        already=len(records) - len(todo),
        images=sum(result.n_images for result in results),
        info=info,
    )


@dataclass(frozen=True, slots=True)
class _Partition:
    """Imports the records of one partition; what a worker runs."""

    source: LegacySource
    storage: Storage
    describe: Describe
    scratch: Path | None

    def __call__(self, records: Iterable[SourceRecord]) -> list[ImportedRecord]:
        source = replace(self.source)  # type: ignore[type-var]  # threads share no open image
        scratch = Path(tempfile.mkdtemp(prefix="import-", dir=self.scratch))
        try:
            results = [
                import_record(source, record, self.storage, self.describe, scratch)
                for record in records
            ]
            if results:
                numbers = [result.record_id for result in results]
                pack_records(self.storage, f"import-{numbers[0]}", numbers, scratch=scratch)
            return results
        finally:
            source.close()
            shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Each:
    """Does something with each item of a partition."""

    function: Callable[[Any], Any]

    def __call__(self, items: Iterable[Any]) -> list[Any]:
        return [self.function(item) for item in items]


def _to_do(
    storage: Storage, records: list[SourceRecord], *, retry_failed: bool
) -> list[SourceRecord]:
    """Leave out what is committed, withdrawn, staged, or failed for good; the largest first."""
    staged = StagingIndex.load(storage)
    done = set(staged.record_id.tolist())
    failures = staged.failures.to_pylist()
    info = read_info(storage)
    if info is not None:
        if info.shape != ImageShape():
            raise UsageError(
                f"{storage.url} has images of {info.shape.height} by {info.shape.width}, and "
                "2018's are of 80 by 80; import into another dataset"
            )
        for table in ("records", "withdrawn"):
            done |= read_record_ids(storage, info, table)
        failures += read_table(storage, info, "failures").to_pylist()
    if not retry_failed:
        done |= {row["record_id"] for row in failures if row["permanent"]}
    todo = [record for record in records if record.record_id not in done]
    return sorted(todo, key=lambda record: (-record.size, record.record_id))
