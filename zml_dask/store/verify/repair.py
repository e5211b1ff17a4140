"""Repair: damaged objects are made again by the commit's own tasks, and replaced where they fit.

Everything is made in a folder aside and compared with the recorded SHA-256 first, so
that a repair never writes anything but what was committed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError, StorageError, UsageError
from zml_dask.store.commit.plan import CommitPlan, CommitTask, TaskKind
from zml_dask.store.commit.tasks import Work, in_language_order, write_shard
from zml_dask.store.info import DatasetInfo, committed_info
from zml_dask.store.layout import DERIVED, FILES_BY_LANGUAGE_SCHEMA, IMAGES_ZARR, ArraySpec
from zml_dask.store.shards import ShardBuilder, zarr_objects
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging.frames import StagedReader
from zml_dask.store.staging.packs import StagingIndex, failures_table
from zml_dask.store.storage import Storage
from zml_dask.store.tables import digest_of, read_manifest, write_part
from zml_dask.store.verify.meaning import FILE_COLUMNS, Report, index_rows, numbers, record_counts

Restage = Callable[[Sequence[int], Storage], None]
"""Fetches records again and stages them into a storage of their own (or stages their
failures); the store itself knows no network."""

Int64 = NDArray[np.int64]
FileKey = tuple[str, str | None, str | None, str]

DONE = "repaired: "
"""How a note about a repaired object begins; its path follows."""

_COMPARED = ("path", "sha256", "text_sha256", "status")


class _CannotRepairError(Exception):
    """Why an object cannot be made again."""


def repair(storage: Storage, report: Report, restage: Restage | None = None) -> Report:
    """Make damaged or missing objects again, as far as possible.

    Metadata, index arrays and the files by language follow from the tables; shards
    of images and parts of the files table from the records, which `restage`
    fetches again. Without it only what follows from the tables is repaired. The ``notes`` of the
    result are what was repaired, its ``problems`` what could not be, and why.
    """
    outcome = Report(storage.url)
    try:
        info = committed_info(storage)
        recorded = {part.path: part.sha256 for group in info.tables.values() for part in group}
        # Tables first, since the rest is made from them.
        recorded |= {path: o.sha256 for path, o in read_manifest(storage, info).items()}
    except (DatasetDamagedError, UsageError, StorageError):
        outcome.problems += report.problems
        return outcome
    damaged = {p.path: p for p in report.problems if p.kind in ("damaged", "missing")}
    with tempfile.TemporaryDirectory(prefix="zml-repair-", ignore_cleanup_errors=True) as folder:
        aside = Storage.open(folder)
        for path in (path for path in recorded if path in damaged):
            try:
                _make(storage, aside, info, path, restage)
            except (_CannotRepairError, StorageError) as error:
                outcome.add("unreadable", path, str(error))
                continue
            if aside.exists(path) and digest_of(aside.read(path)) == recorded[path]:
                storage.write(path, aside.read(path))
                outcome.notes.append(DONE + path)
            else:
                what = "its source has other files by now, or another release wrote it"
                outcome.add("unreadable", path, what)
    tried = {problem.path for problem in outcome.problems}
    repaired = {note.removeprefix(DONE) for note in outcome.notes}
    outcome.problems += [p for p in report.problems if p.path not in tried | repaired]
    return outcome


def _make(
    storage: Storage, aside: Storage, info: DatasetInfo, path: str, restage: Restage | None
) -> None:
    """Make one object again in a storage aside."""
    metadata = dict(zarr_objects(info.arrays, info.shape, info.counts.images))
    if path in metadata:
        aside.write(path, metadata[path], durable=False)
        return
    folder, name = path.split("/")[:2]
    if folder == DERIVED:
        table = name.removesuffix(".parquet")
        raise _CannotRepairError(f"run zml-dask derive DATASET {table} --again")
    if folder == IMAGES_ZARR:
        spec, shard = info.array(name), int(path.split("/")[3])
        start, stop = shard * spec.shard, min((shard + 1) * spec.shard, info.counts.images)
        if name != "images":
            _make_index(storage, aside, info, spec, shard)
            return
        counts = record_counts(storage, info)
        ends = np.cumsum(counts[2])
        owners = (ends - counts[2] < stop) & (ends > start)
        kind: TaskKind = "images"
    else:
        table = folder.removesuffix(".parquet")
        parts = info.tables[table]
        at = next(number for number, part in enumerate(parts) if part.path == path)
        first = sum(part.rows for part in parts[:at])
        shard = int(path.split("-")[1])
        if table == "files_by_language":
            wanted = np.arange(first, first + parts[at].rows)
            files = Snapshot(storage, info).take("files", wanted, FILES_BY_LANGUAGE_SCHEMA.names)
            write_part(aside, table, shard, in_language_order(files))
            return
        if table != "files":
            raise _CannotRepairError("nothing else holds what it says; restore it from a backup")
        counts = record_counts(storage, info)
        ends = np.cumsum(counts[1])
        owners = (ends - counts[1] >= first) & (ends <= first + parts[at].rows) & (counts[1] > 0)
        kind, start, stop = "files", 0, 0
    if restage is None:
        raise _CannotRepairError("its records must be fetched again; give their catalogue")
    low, high = np.flatnonzero(owners)[[0, -1]].tolist()
    with restaged(restage, counts[0][low : high + 1].tolist()) as (source, index):
        plan = _plan_of(index, counts, low, high + 1, info)
        task = CommitTask(kind, shard, start, stop if kind == "images" else high + 1 - low, "")
        Work(source, aside, plan, task).perform()


def _make_index(
    storage: Storage, aside: Storage, info: DatasetInfo, spec: ArraySpec, shard: int
) -> None:
    """Make a shard of an index array again from the files table."""
    start, stop = shard * spec.shard, min((shard + 1) * spec.shard, info.counts.images)
    builder = ShardBuilder(spec)
    for _, batch in Snapshot(storage, info).batches("files", FILE_COLUMNS):
        columns = numbers(batch)
        first = int(columns["first_image"][0]) if len(batch) else stop
        total = int(columns["n_images"].sum())
        if first < stop and first + total > start:
            values = index_rows(columns, info.shape.height)
            builder.extend(values[spec.name][max(start - first, 0) : stop - first])
    write_shard(aside, spec, info.shape, shard, stop - start, builder)


def _plan_of(
    index: StagingIndex,
    counts: tuple[Int64, Int64, Int64],
    start: int,
    stop: int,
    info: DatasetInfo,
) -> CommitPlan:
    """Plan, as a commit would, that records `start` to `stop` of the dataset get their own rows.

    `counts` are ids, files and images of all records, in the order of their rows.
    """
    ids, n_files, n_images = (column[start:stop] for column in counts)
    missing = np.setdiff1d(ids, index.record_id)
    if missing.size:
        raise _CannotRepairError(f"record {missing[0]} could not be had again")
    positions = np.searchsorted(index.record_id, ids)
    changed = (index.n_files[positions] != n_files) | (index.n_images[positions] != n_images)
    if changed.any():
        raise _CannotRepairError(
            f"record {ids[changed][0]} has other files by now than were committed"
        )
    return CommitPlan(
        **index.columns(positions),
        paths=index.paths,
        shape=info.shape,
        arrays=info.arrays,
        base=None,
        images_before=int(counts[2][:start].sum()),
        files_before=int(counts[1][:start].sum()),
        next_part={},
        failures=failures_table([]),
        notes={},
    )


@contextmanager
def restaged(restage: Restage, record_ids: Sequence[int]) -> Iterator[tuple[Storage, StagingIndex]]:
    """Stage records again into a temporary folder.

    Yields its storage, and the index of what arrived; its `failures` has the rest.
    """
    with tempfile.TemporaryDirectory(prefix="zml-restaged-", ignore_cleanup_errors=True) as folder:
        storage = Storage.open(folder)
        restage(record_ids, storage)
        yield storage, StagingIndex.load(storage)


def recorded_files(
    storage: Storage, info: DatasetInfo, record_ids: Sequence[int]
) -> dict[int, list[FileKey]]:
    """Read what the files table says of some records' files, in row order."""
    found: dict[int, list[FileKey]] = {record_id: [] for record_id in record_ids}
    columns = ["record_id", *_COMPARED]
    where = pc.field("record_id").isin(list(record_ids))
    rows = Snapshot(storage, info).scan("files", columns, where, with_withdrawn=True)
    for row in rows.to_pylist():
        found[row["record_id"]].append(_key(row))
    return found


def staged_files(reader: StagedReader) -> list[FileKey]:
    """Read the same of a staged record."""
    return [_key(row) for _, rows in reader.row_batches() for row in rows.to_pylist()]


def _key(row: dict[str, str]) -> FileKey:
    path, sha256, text_sha256, status = (row[name] for name in _COMPARED)
    return path, sha256, text_sha256, status
