"""What the tasks of a commit do: each writes one shard, or one part of a table, once and whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError
from zml_dask.raster.images import Images, n_lines_dtype, rasterize_into
from zml_dask.raster.language import language_group
from zml_dask.store.commit.plan import CommitPlan, CommitTask, check_current, load_plan
from zml_dask.store.info import Part, WrittenObject
from zml_dask.store.layout import (
    FILES_BY_LANGUAGE_SCHEMA,
    FILES_SCHEMA,
    ArraySpec,
    ImageShape,
    row_shape,
    shard_path,
)
from zml_dask.store.shards import ShardBuilder, ShardReader
from zml_dask.store.staging.frames import DrawnText, StagedReader
from zml_dask.store.storage import Storage
from zml_dask.store.summary import RECORD_COLUMNS, summarise
from zml_dask.store.tables import ROW_GROUP_ROWS, records_table, row_groups, write_part

_RECORDS_AT_ONCE = 1_024
"""Records whose rows are held as Python objects."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task wrote; small, since the driver gathers all of them."""

    task: CommitTask
    objects: tuple[WrittenObject, ...] = ()
    part: Part | None = None
    summary: pa.Table | None = None


def run_task(storage: Storage, task: CommitTask) -> TaskResult:
    """Do one task of the commit whose plan is in the storage's staging.

    `DatasetDamagedError` if what is staged, or the shard that is to be filled up, is damaged;
    `ZmlError` if another commit has begun since, or this one has ended.
    """
    plan = load_plan(storage, task.plan)
    # Checked again before anything is written: a worker that was considered lost may get
    # here after another commit has added rows to its shard.
    return Work(storage, storage, plan, task, partial(check_current, storage, task.plan)).perform()


@dataclass(frozen=True)
class Work:
    """A task of a commit, and where it reads the staged records and writes the result.

    `source` and `target` are both the dataset in a commit; a repair has its records staged aside.
    `check` is called just before anything is written, and may raise.
    """

    source: Storage
    target: Storage
    plan: CommitPlan
    task: CommitTask
    check: Callable[[], None] = lambda: None

    def perform(self) -> TaskResult:
        """Do the task."""
        if self.task.kind == "images":
            return TaskResult(self.task, (self._write_images(),))
        if self.task.kind == "indices":
            return TaskResult(self.task, tuple(self._write_indices()))
        if self.task.kind == "files_by_language":
            return self._write_sorted_files()
        if self.task.kind == "files":
            return TaskResult(self.task, part=self._write_part(self._file_rows()))
        return TaskResult(self.task, part=self._write_part(self._record_rows()))

    def _write_part(self, rows: Iterable[pa.RecordBatch | pa.Table]) -> Part:
        return write_part(self.target, self.task.kind, self.task.number, rows, check=self.check)

    def _staged(self, position: int) -> StagedReader:
        return StagedReader(self.source, self.plan.locate(position))

    def _begin_shard(self, spec: ArraySpec) -> ShardBuilder:
        """Open a builder; where part of the shard is committed already, begin with that."""
        row = row_shape(spec, self.plan.shape)
        builder = ShardBuilder(spec, row)
        before = self.task.start - self.task.number * spec.shard
        if before:
            data = self.target.read(shard_path(spec.name, self.task.number, 1 + len(row)))
            builder.carry_over(ShardReader(spec, row, data), before)
        return builder

    def _end_shard(self, spec: ArraySpec, builder: ShardBuilder) -> WrittenObject:
        task, first = self.task, self.task.number * spec.shard
        return write_shard(
            self.target,
            spec,
            self.plan.shape,
            task.number,
            task.stop - first,
            builder,
            was_partial=task.start > first,
        )

    def _write_images(self) -> WrittenObject:
        spec = self.plan.arrays[0]
        builder = self._begin_shard(spec)
        _draw(builder, self._texts(), self.plan.shape)
        self.check()
        return self._end_shard(spec, builder)

    def _texts(self) -> Iterator[DrawnText]:
        for position, begin, end in self.plan.records_of(self.task.start, self.task.stop):
            yield from self._staged(position).draw_texts(begin, end)

    def _write_indices(self) -> Iterator[WrittenObject]:
        specs = self.plan.arrays[1:]
        builders = {spec.name: self._begin_shard(spec) for spec in specs}
        for position, begin, end in self.plan.records_of(self.task.start, self.task.stop):
            for frame, rows in self._staged(position).row_batches(begin, end):
                first_file = int(self.plan.first_file[position]) + frame.first_file
                columns = index_columns(
                    int(self.plan.record_id[position]),
                    first_file + np.arange(len(rows)),
                    rows.column("n_images").to_numpy().astype(np.int64),
                    rows.column("n_lines").to_numpy().astype(np.int64),
                    self.plan.shape.height,
                )
                low = max(begin - frame.first_image, 0)
                high = min(end - frame.first_image, frame.n_images)
                for name, values in columns.items():
                    builders[name].extend(values[low:high])
        self.check()
        for spec in specs:
            yield self._end_shard(spec, builders[spec.name])

    def _file_rows(self) -> Iterator[pa.RecordBatch]:
        for position in range(self.task.start, self.task.stop):
            yield from self._rows_of(position, self._staged(position))

    def _rows_of(self, position: int, record: StagedReader) -> Iterator[pa.RecordBatch]:
        """Give the rows of one record's files, numbered."""
        plan = self.plan
        for frame, rows in record.row_batches():
            counts = rows.column("n_images").to_numpy().astype(np.int64)
            first = int(plan.first_image[position]) + frame.first_image
            made = {
                "file_id": int(plan.first_file[position]) + frame.first_file + np.arange(len(rows)),
                "record_id": np.full(len(rows), plan.record_id[position]),
                "language_group": _groups(rows.column("language")),
                "first_image": first + np.cumsum(counts) - counts,
            }
            columns = [
                pa.array(made[name]) if name in made else rows.column(name)
                for name in FILES_SCHEMA.names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=FILES_SCHEMA)

    def _write_sorted_files(self) -> TaskResult:
        """Write files of some records ordered by language, and count them while they are here."""
        described: list[dict[str, Any]] = []

        def rows() -> Iterator[pa.RecordBatch]:
            for position in range(self.task.start, self.task.stop):
                record = self._staged(position)
                described.append({name: record.record.get(name) for name in RECORD_COLUMNS})
                for batch in self._rows_of(position, record):
                    yield batch.select(FILES_BY_LANGUAGE_SCHEMA.names)

        groups = [_encoded(group) for group in row_groups(rows(), ROW_GROUP_ROWS)]
        files = pa.concat_tables(groups or [FILES_BY_LANGUAGE_SCHEMA.empty_table()])
        files = files.unify_dictionaries().combine_chunks()
        part = self._write_part(in_language_order(files))
        return TaskResult(self.task, part=part, summary=summarise(files, records_table(described)))

    def _record_rows(self) -> Iterator[pa.Table]:
        for start in range(self.task.start, self.task.stop, _RECORDS_AT_ONCE):
            stop = min(self.task.stop, start + _RECORDS_AT_ONCE)
            yield records_table([self._staged(position).record for position in range(start, stop)])


def write_shard(
    storage: Storage,
    spec: ArraySpec,
    shape: ImageShape,
    shard: int,
    rows: int,
    builder: ShardBuilder,
    *,
    was_partial: bool = False,
) -> WrittenObject:
    """Write a shard that contains all its rows; return its row of the manifest.

    `was_partial`: an earlier commit ended in it. `DatasetDamagedError` if the builder got more
    or fewer rows than `rows`.
    """
    if builder.rows != rows:
        raise DatasetDamagedError(
            f"shard {shard} of {spec.name} should have {rows} rows and got {builder.rows}: "
            "what is staged does not fit its own counts; remove staging/ and build again"
        )
    data = builder.finish()
    row = row_shape(spec, shape)
    path = shard_path(spec.name, shard, 1 + len(row))
    storage.write(path, data)
    partial = rows < spec.shard
    reader = ShardReader(spec, row, data)
    return WrittenObject(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        rows,
        rows_digest(reader, spec, rows) if partial else None,
        rows_digest(reader, spec, rows, last_chunk=True) if partial or was_partial else None,
    )


def rows_digest(
    reader: ShardReader, spec: ArraySpec, rows: int, *, last_chunk: bool = False
) -> str:
    """SHA-256 of the first `rows` rows of a shard, decoded, C order, little-endian.

    With `last_chunk`, of those in the last chunk alone.
    """
    digest = hashlib.sha256()
    first = (rows - 1) // spec.chunk * spec.chunk if last_chunk else 0
    for start in range(first, rows, spec.chunk):
        decoded = reader.rows(start, min(rows, start + spec.chunk))
        digest.update(decoded.astype(np.dtype(spec.dtype).newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _draw(builder: ShardBuilder, texts: Iterable[DrawnText], shape: ImageShape) -> None:
    """Draw texts into a shard, a chunk at a time while it is in the processor's cache."""
    counted = np.empty(len(builder.room) + builder.rows, n_lines_dtype(shape.height))
    batch: list[bytes] = []
    skip = waiting = 0

    def draw(count: int) -> None:
        room = cast(Images, builder.room[:count])
        drawn = rasterize_into(batch, room, counted[:count], skip=skip)
        if drawn != count:
            raise DatasetDamagedError(
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


def _groups(languages: pa.StringArray) -> pa.StringArray:
    encoded = languages.dictionary_encode()
    groups = map(language_group, encoded.dictionary.to_pylist())
    return pa.array(groups, pa.string()).take(encoded.indices)


def _encoded(rows: pa.Table) -> pa.Table:
    """Encode texts, of which few are different, as dictionaries."""
    columns = [
        column.dictionary_encode() if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    return pa.table(columns, names=rows.schema.names)


def in_language_order(files: pa.Table) -> Iterator[pa.Table]:
    """Yield rows of ``files_by_language`` by language (null last) and extension.

    `files` are in the order of `file_id`, with dictionary-encoded texts, in one chunk.
    """
    keys = []
    for name in ("language", "extension"):
        encoded = pc.dictionary_encode(files[name].combine_chunks())
        values = np.array(encoded.dictionary.to_pylist(), object)
        rank = np.empty(len(values) + 1, np.int64)
        rank[np.argsort(values, kind="stable")] = np.arange(len(values))
        rank[-1] = len(values)
        keys.append(rank[pc.fill_null(encoded.indices, len(values)).to_numpy()])
    language, extension = keys
    order = np.argsort(language * (int(extension.max(initial=0)) + 1) + extension, kind="stable")
    for start in range(0, len(order), ROW_GROUP_ROWS):
        rows = files.take(pa.array(order[start : start + ROW_GROUP_ROWS]))
        yield rows.cast(FILES_BY_LANGUAGE_SCHEMA)


def index_columns(
    record_id: int | NDArray[np.int64],
    file_id: NDArray[np.int64],
    n_images: NDArray[np.int64],
    n_lines: NDArray[np.int64],
    height: int,
) -> dict[str, NDArray[np.generic]]:
    """Calculate rows of the index arrays from columns of the files table.

    These are int64, shape (n,), but `record_id` may be one number; `height` is lines per image.
    The rows have shape (n_images.sum(),).

    Examples
    --------
    >>> columns = index_columns(7, np.array([0, 1]), np.array([2, 1]), np.array([81, 5]), 80)
    >>> columns["segment"].tolist(), columns["n_lines"].tolist()
    ([0, 1, 0], [80, 1, 5])
    """
    total = int(n_images.sum())
    stops = np.cumsum(n_images)
    lines = np.full(total, height, np.int64)
    filled = n_images > 0
    lines[stops[filled] - 1] = (n_lines - (n_images - 1) * height)[filled]
    return {
        "record_id": np.repeat(np.broadcast_to(record_id, n_images.shape), n_images),
        "file_id": np.repeat(file_id, n_images),
        "segment": (np.arange(total) - np.repeat(stops - n_images, n_images)).astype(np.int32),
        "n_lines": lines.astype(n_lines_dtype(height)),
    }
