"""The state of each record so far, and hence what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError, ObjectMissingError
from zml_dask.pipeline.outcome import Outcome
from zml_dask.records.catalogue import RefTable
from zml_dask.store.commit.plan import check_not_repacking, check_staged_shape
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import FAILURES_SCHEMA, ImageShape
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging import StagedReader, StagingIndex
from zml_dask.store.staging.packs import failure_rows
from zml_dask.store.storage import Storage

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Ledger:
    """Record ids by their state; each an ascending int64 array.

    `committed` are in the dataset, or withdrawn from it; `index` is all that is staged. `failures`
    (`store.layout.FAILURES_SCHEMA`) are the last known failure of every record that has failed
    and is neither committed nor staged, of which the dataset does not know `uncommitted_failures`
    yet.
    """

    committed: Ids
    index: StagingIndex
    failures: pa.Table
    uncommitted_failures: int

    @property
    def staged(self) -> Ids:
        """Records built, and not yet committed."""
        return self.index.record_id

    @property
    def failed(self) -> Ids:
        """Records that failed."""
        ids: Ids = self.failures["record_id"].to_numpy()
        return ids

    @property
    def failed_permanently(self) -> Ids:
        """Records for which trying again is pointless."""
        table = self.failures.filter(self.failures["permanent"])
        ids: Ids = table["record_id"].to_numpy()
        return ids

    def attempts(self) -> dict[int, int]:
        """How often each failed record was tried."""
        ids, counts = (self.failures[name].to_pylist() for name in ("record_id", "attempts"))
        return dict(zip(ids, counts, strict=True))

    def todo(self, refs: RefTable, *, retry_failed: bool = False) -> RefTable:
        """Return the records of a catalogue that are left to build.

        With `retry_failed`, those that failed permanently are among them.
        """
        done = [self.committed, self.staged]
        if not retry_failed:
            done.append(self.failed_permanently)
        missing = ~np.isin(refs.record_ids, np.concatenate(done))
        return refs.take(missing)


def load_ledger(
    storage: Storage, info: DatasetInfo | None, *, shape: ImageShape | None = None
) -> Ledger:
    """Read the state of all records from the dataset and its staging.

    `info` is None where nothing is committed yet. Raises `UsageError` if records were staged for
    another image size than `shape`, or the dataset's shards are being rewritten.
    """
    index = StagingIndex.load(storage)
    info = info or DatasetInfo()
    snapshot = Snapshot(storage, info)
    committed = snapshot.done()
    if shape is not None:
        check_not_repacking(storage, info)
        check_staged_shape(index, ~np.isin(index.record_id, committed), shape)
    known = snapshot.scan("failures", with_withdrawn=True).cast(FAILURES_SCHEMA)
    failures = _last_failures([known, index.failures], [committed, index.record_id])
    new = ~np.isin(index.failures["record_id"].to_numpy(), committed)
    return Ledger(np.unique(committed), index, failures, int(new.sum()))


def staged_outcomes(storage: Storage, record_ids: Sequence[int]) -> list[Outcome]:
    """Return what staging knows of some records: those that are staged, and those that failed."""
    index = StagingIndex.load(storage)
    wanted = np.flatnonzero(np.isin(index.record_id, record_ids))
    columns = (index.record_id, index.n_files, index.n_images)
    outcomes = [
        Outcome(record_id, "already", n_files, n_images)
        for record_id, n_files, n_images in zip(
            *(column[wanted].tolist() for column in columns), strict=True
        )
    ]
    outcomes += [
        Outcome(row.record_id, "failed", failure=row)
        for row in failure_rows(index.failures)
        if row.record_id in record_ids
    ]
    return outcomes


def remove_damaged(storage: Storage) -> list[str]:
    """Read all that is staged and remove what is damaged; its records are then built again.

    Returns the paths of what was removed.
    """
    index = StagingIndex.load(storage)
    damaged = list(index.damaged)
    for position in range(index.record_id.size):
        location = index.locate(position)
        if location.path in damaged:
            continue
        try:
            reader = StagedReader(storage, location)
            for _ in reader:
                pass
        except (DatasetDamagedError, ObjectMissingError):
            damaged.append(location.path)
    storage.remove(damaged)
    return damaged


def _last_failures(tables: list[pa.Table], done: list[Ids]) -> pa.Table:
    """Return each record's last failure, leaving out those that have been built since."""
    table = pa.concat_tables(tables)
    ids = table["record_id"].to_numpy()
    # Of equal ids np.unique keeps the first: the last, seen from the end.
    _, first = np.unique(ids[::-1], return_index=True)
    last = len(ids) - 1 - first
    built = np.isin(ids[last], np.concatenate(done))
    return table.take(pa.array(last[~built]))
