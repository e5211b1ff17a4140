"""What the tasks of a commit do: each writes one shard, or one part of a table, once and whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.allocator import keep_freed_buffers
from zml_dask.raster.images import Images, draw_settled, n_lines_dtype
from zml_dask.store.commit.index_columns import index_columns
from zml_dask.store.commit.plan import CommitPlan, CommitTask, check_current, load_plan
from zml_dask.store.commit.shards import ShardBuilder, ShardReader
from zml_dask.store.info import Part
from zml_dask.store.layout import (
    FILES_SCHEMA,
    RECORDS_SCHEMA,
    ArraySpec,
    ImageShape,
    image_arrays,
    row_shape,
    shard_path,
)
from zml_dask.store.manifest import WrittenObject
from zml_dask.store.staging.frames import RowFrame, StagingDamagedError
from zml_dask.store.staging.staged import DrawnText, read_staged
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

RECORDS_PER_ROW_GROUP = 1_024
"""Records' metadata is tens of kilobytes each: fewer rows to a group than of files."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task wrote; small, since all of them come together in one place."""

    task: CommitTask
    objects: tuple[WrittenObject, ...] = ()
    part: Part | None = None


def run_task(storage: Storage, task: CommitTask) -> TaskResult:
    """Do one task of a commit.

    Parameters
    ----------
    storage : Storage
    task : CommitTask
        Of the plan that lies in the storage's staging.

    Raises
    ------
    StagingDamagedError
        If what is staged is damaged.
    StalePlanError
        If another commit has begun since, or this one has ended.
    ShardDamagedError
        If the shard that is to be filled up is damaged.
    StorageError
    """
    keep_freed_buffers()
    plan = load_plan(storage, task.plan)
    # Asked again before anything is written: a worker that was thought lost may
    # come to this point when its shard has more rows by another commit.
    return perform(storage, storage, plan, task, partial(check_current, storage, task.plan))


def perform(
    source: Storage,
    target: Storage,
    plan: CommitPlan,
    task: CommitTask,
    check: Callable[[], None] = lambda: None,
) -> TaskResult:
    """Do a task with staged records from one storage and the result into another.

    The two are the dataset in a commit; a repair has its records staged aside.
    `check` is called just before anything is written, and may raise.
    """
    if task.kind == "images":
        return TaskResult(task, (_write_images(source, target, plan, task, check),))
    if task.kind == "indices":
        return TaskResult(task, tuple(_write_indices(source, target, plan, task, check)))
    if task.kind == "files":
        batches = _file_rows(source, plan, task)
        return TaskResult(task, part=write_part(target, "files", task.number, batches, check=check))
    rows = _record_rows(source, plan, task)
    part = write_part(
        target, "records", task.number, rows, row_group_rows=RECORDS_PER_ROW_GROUP, check=check
    )
    return TaskResult(task, part=part)


def _write_images(
    source: Storage,
    target: Storage,
    plan: CommitPlan,
    task: CommitTask,
    check: Callable[[], None],
) -> WrittenObject:
    spec = image_arrays(plan.shape)[0]
    builder = _begin_shard(target, spec, plan.shape, task)
    _draw(builder, _texts(source, plan, task), plan.shape)
    check()
    return write_shard(target, spec, plan.shape, task.number, _rows_in(spec, task), builder)


def _begin_shard(
    storage: Storage, spec: ArraySpec, shape: ImageShape, task: CommitTask
) -> ShardBuilder:
    """Open a builder; where part of the shard is committed already, begin with that."""
    row = row_shape(spec, shape)
    builder = ShardBuilder(spec, row)
    before = task.start - task.number * spec.shard
    if before:
        path = shard_path(spec.name, task.number, 1 + len(row))
        builder.carry_over(ShardReader(spec, row, storage.read(path)), before)
    return builder


def write_shard(
    storage: Storage,
    spec: ArraySpec,
    shape: ImageShape,
    shard: int,
    rows: int,
    builder: ShardBuilder,
) -> WrittenObject:
    """Write a shard that all its rows are in; return its row of the manifest.

    Raises
    ------
    StagingDamagedError
        If it got more or fewer rows than it should have.
    """
    if builder.rows != rows:
        raise StagingDamagedError(
            f"shard {shard} of {spec.name} should have {rows} rows and got {builder.rows}: "
            "what is staged does not fit its own counts; remove staging/ and build again"
        )
    data = builder.finish()
    row = row_shape(spec, shape)
    path = shard_path(spec.name, shard, 1 + len(row))
    storage.write(path, data)
    partial = rows < spec.shard
    return WrittenObject(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        rows,
        rows_digest(ShardReader(spec, row, data), spec, rows) if partial else None,
    )


def _rows_in(spec: ArraySpec, task: CommitTask) -> int:
    """Rows of a task's shard once it is done, those that were in it before included."""
    return task.stop - task.number * spec.shard


def rows_digest(reader: ShardReader, spec: ArraySpec, rows: int) -> str:
    """SHA-256 of the first `rows` rows of a shard, decoded, C order, little-endian."""
    digest = hashlib.sha256()
    for start in range(0, rows, spec.chunk):
        decoded = reader.rows(start, min(rows, start + spec.chunk))
        digest.update(decoded.astype(np.dtype(spec.dtype).newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _texts(storage: Storage, plan: CommitPlan, task: CommitTask) -> Iterator[DrawnText]:
    for position, begin, end in plan.records_of(task.start, task.stop):
        yield from read_staged(storage, plan.locate(position)).draw_texts(begin, end)


def _draw(builder: ShardBuilder, texts: Iterable[DrawnText], shape: ImageShape) -> None:
    """Draw texts into a shard, a chunk at a time while it is in the processor's cache."""
    counted = np.empty(len(builder.room) + builder.rows, n_lines_dtype(shape.height))
    batch: list[bytes] = []
    skip = waiting = 0

    def draw(count: int) -> None:
        room = cast(Images, builder.room[:count])
        drawn = draw_settled(batch, room, counted[:count], skip=skip)
        if drawn != count:
            raise StagingDamagedError(
                f"texts that should fill {count} images filled {drawn}; "
                "remove staging/ and build again"
            )
        builder.advance(count)

    for text in texts:
        if not batch:
            skip = text.first_image
        batch.append(text.text)
        waiting += text.n_images
        while waiting >= (room := len(builder.room)):
            draw(room)
            waiting -= room
            batch = [text.text] if waiting else []
            skip = text.first_image + text.n_images - waiting
    if waiting:
        draw(waiting)


def _write_indices(
    source: Storage,
    target: Storage,
    plan: CommitPlan,
    task: CommitTask,
    check: Callable[[], None],
) -> Iterator[WrittenObject]:
    specs = image_arrays(plan.shape)[1:]
    builders = {spec.name: _begin_shard(target, spec, plan.shape, task) for spec in specs}
    for position, begin, end in plan.records_of(task.start, task.stop):
        for frame, rows in read_staged(source, plan.locate(position)).row_batches(begin, end):
            columns = _index_columns(plan, position, frame, rows)
            low = max(begin - frame.first_image, 0)
            high = min(end - frame.first_image, frame.n_images)
            for name, values in columns.items():
                builders[name].extend(values[low:high])
    check()
    for spec in specs:
        builder = builders[spec.name]
        yield write_shard(target, spec, plan.shape, task.number, _rows_in(spec, task), builder)


def _index_columns(
    plan: CommitPlan, position: int, frame: RowFrame, rows: pa.RecordBatch
) -> dict[str, NDArray[np.generic]]:
    """Rows of the index arrays for the images of one frame of files."""
    counts = rows.column("n_images").to_numpy().astype(np.int64)
    ids = int(plan.first_file[position]) + frame.first_file + np.arange(len(rows))
    return index_columns(
        int(plan.record_id[position]),
        ids,
        counts,
        rows.column("n_lines").to_numpy().astype(np.int64),
        plan.shape.height,
    )


def _file_rows(storage: Storage, plan: CommitPlan, task: CommitTask) -> Iterator[pa.RecordBatch]:
    for position in range(task.start, task.stop):
        for frame, rows in read_staged(storage, plan.locate(position)).row_batches():
            counts = rows.column("n_images").to_numpy().astype(np.int64)
            first = int(plan.first_image[position]) + frame.first_image
            numbered = {
                "file_id": int(plan.first_file[position]) + frame.first_file + np.arange(len(rows)),
                "record_id": np.full(len(rows), plan.record_id[position]),
                "first_image": first + np.cumsum(counts) - counts,
            }
            columns = [
                pa.array(numbered[name]) if name in numbered else rows.column(name)
                for name in FILES_SCHEMA.names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=FILES_SCHEMA)


def _record_rows(storage: Storage, plan: CommitPlan, task: CommitTask) -> Iterator[pa.Table]:
    for start in range(task.start, task.stop, RECORDS_PER_ROW_GROUP):
        stop = min(task.stop, start + RECORDS_PER_ROW_GROUP)
        rows = [read_staged(storage, plan.locate(p)).record for p in range(start, stop)]
        yield pa.Table.from_pylist(rows, RECORDS_SCHEMA)
