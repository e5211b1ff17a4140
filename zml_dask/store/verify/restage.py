"""Records of the dataset staged once more, to repair it or to hold it to its sources."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zml_dask.store.commit.plan import CommitPlan
from zml_dask.store.info import DatasetInfo
from zml_dask.store.staging.failures import failures_table
from zml_dask.store.staging.index import StagingIndex
from zml_dask.store.staging.staged import StagedReader, read_staged
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_rows, read_table

Restage = Callable[[Sequence[int], Storage], None]
"""Fetches records again and stages them into a storage of their own (or stages their
failures); the store itself knows no network."""

StageAgain = Callable[[Sequence[int]], AbstractContextManager[tuple[Storage, StagingIndex]]]
"""`restaged`, but for the records: gives the storage that they are staged in for the time being."""

Int64 = NDArray[np.int64]
FileKey = tuple[str, str | None, str | None, str]

_COMPARED = ("path", "sha256", "text_sha256", "status")


@dataclass(frozen=True, eq=False)
class RecordRows:
    """All records of the dataset in the order of their rows, and where their rows begin."""

    record_id: Int64
    n_files: Int64
    n_images: Int64
    first_file: Int64
    first_image: Int64

    @classmethod
    def read(cls, storage: Storage, info: DatasetInfo) -> RecordRows:
        """Read them from the records table."""
        table = read_table(storage, info, "records", ["record_id", "n_files", "n_images"])
        ids, files, images = (
            table[name].to_numpy().astype(np.int64) for name in table.schema.names
        )
        return cls(ids, files, images, np.cumsum(files) - files, np.cumsum(images) - images)


@contextmanager
def restaged(
    restage: Restage, record_ids: Sequence[int], scratch: Path | None = None
) -> Iterator[tuple[Storage, StagingIndex]]:
    """Have records staged into a temporary folder.

    Yields
    ------
    storage : Storage
    index : StagingIndex
        What arrived there; `failures` has the rest.
    """
    folder = tempfile.mkdtemp(prefix="zml-restaged-", dir=scratch)
    try:
        storage = Storage.open(folder)
        restage(record_ids, storage)
        yield storage, StagingIndex.load(storage)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recorded_files(
    storage: Storage, info: DatasetInfo, record_ids: Sequence[int]
) -> dict[int, list[FileKey]]:
    """Read what the files table says of some records' files, in row order."""
    found: dict[int, list[FileKey]] = {record_id: [] for record_id in record_ids}
    columns = ["record_id", *_COMPARED]
    for row in read_rows(storage, info, "files", columns, record_ids).to_pylist():
        found[row["record_id"]].append(_key(row))
    return found


def staged_files(reader: StagedReader) -> list[FileKey]:
    """Read the same of a staged record."""
    return [_key(row) for _, rows in reader.row_batches() for row in rows.to_pylist()]


def _key(row: dict[str, str]) -> FileKey:
    path, sha256, text_sha256, status = (row[name] for name in _COMPARED)
    return path, sha256, text_sha256, status


def plan_of(
    storage: Storage,
    index: StagingIndex,
    rows: RecordRows,
    start: int,
    stop: int,
    info: DatasetInfo,
) -> CommitPlan | str:
    """Plan as a commit would that records `start` to `stop` of the dataset get their own rows.

    Parameters
    ----------
    storage : Storage
        Where the records are staged again.
    index : StagingIndex
        Of what is staged there.
    rows : RecordRows
        Of the dataset.
    start, stop : int
        Positions in `rows`.
    info : DatasetInfo
        Of the dataset.

    Returns
    -------
    CommitPlan or str
        Or why it cannot be done.
    """
    ids = rows.record_id[start:stop]
    if not ids.size:
        return "no record has rows there"
    positions = np.searchsorted(index.record_id, ids)
    positions = np.minimum(positions, max(len(index) - 1, 0))
    if not len(index) or (index.record_id[positions] != ids).any():
        missing = np.setdiff1d(ids, index.record_id)
        return f"record {missing[0]} could not be had again"
    plan = CommitPlan(
        record_id=ids,
        source=index.source[positions],
        offset=index.offset[positions],
        length=index.length[positions],
        n_files=index.n_files[positions],
        n_images=index.n_images[positions],
        paths=index.paths,
        shape=info.shape,
        arrays=info.arrays,
        base=None,
        images_before=int(rows.first_image[start]),
        files_before=int(rows.first_file[start]),
        next_part={},
        failures=failures_table([]),
        notes={},
    )
    for position, record_id in enumerate(ids.tolist()):
        reader = read_staged(storage, plan.locate(position))
        if reader.shape != info.shape:
            return f"record {record_id} came back for images of another size"
        if (
            plan.n_files[position] != rows.n_files[start + position]
            or plan.n_images[position] != rows.n_images[start + position]
        ):
            return f"record {record_id} has other files by now than were committed"
    return plan
