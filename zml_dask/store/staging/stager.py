"""Staging one record: its files' normalised text and rows, published in one atomic write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.raster.text import visible_text
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA, STAGING, FileStatus, ImageShape
from zml_dask.store.staging.frames import (
    SPOOL_BYTES,
    BlobTrailer,
    Directory,
    FrameWriter,
    RowFrame,
    Spool,
    compress,
)
from zml_dask.store.storage import Storage
from zml_dask.store.tables import records_table
from zml_dask.text_safety import encodable

STAGED_RECORDS = f"{STAGING}/records"

_TEXT_COLUMNS = (
    ("text_sha256", pa.string()),
    ("n_images", pa.int32()),
    ("frame", pa.int32()),
    ("offset", pa.int64()),
    ("length", pa.int64()),
)
"""What is added on publishing: where the text is, -1 in `frame` for none."""


@dataclass(frozen=True, slots=True)
class StagedRecord:
    """What staging a record came to: counts, and bytes written."""

    record_id: int
    n_files: int
    n_images: int
    bytes: int


class RecordStager:
    r"""Takes the files of one record in any order, and stages them in path order.

    Memory is bounded for any record: texts beyond `max_memory` bytes, and rows beyond
    65,536, wait in `scratch`, a folder on a local disk. Use it as a context manager, so that
    scratch is removed in every case.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> hello = StagedFile("a/hello.py", "hello.py", "py", "Python", "programming", 9, None,
    ...                    "ascii", "ok", None, 1, 0)
    >>> with RecordStager(Path(folder), 7, ImageShape()) as stager:
    ...     stager.add(hello, b"print(1)\n")
    ...     staged = stager.finish(Storage.open(folder + "/zenodo-ml"), {"title": "Hello"})
    >>> staged.n_files, staged.n_images
    (1, 1)
    """

    def __init__(
        self, scratch: Path, record_id: int, shape: ImageShape, *, max_memory: int = SPOOL_BYTES
    ) -> None:
        self._record_id = record_id
        self._shape = shape
        self._texts = Spool(scratch, max_memory)
        self._blob = Spool(scratch, max_memory)
        self._rows = FileRows(scratch / f"rows-{uuid4().hex}")

    def add(self, file: StagedFile, text: bytes | None) -> None:
        """Take one file, and its normalised UTF-8 text; None where it is listed only.

        Of two files of the same path the order is kept.
        """
        self._rows.append(file, self._texts.append(text) if text else -1)

    def finish(self, storage: Storage, record_row: Mapping[str, Any]) -> StagedRecord:
        """Publish the record under ``staging/records/``, atomically.

        `record_row` has columns of the records table; its id and counts are set here.
        `StorageError` if it cannot be written.
        """
        frames = FrameWriter(self._blob)
        n_files = n_images = 0
        row_frames = []
        for batch in self._rows.in_path_order():
            placed, images = self._place_texts(batch, frames)
            offset, length = frames.write(compress(_to_stream(placed)))
            row_frames.append(RowFrame(offset, length, n_files, n_images, len(placed), images))
            n_files += len(placed)
            n_images += images
        frames.flush()
        row = {name: encodable(record_row.get(name)) for name in RECORDS_SCHEMA.names}
        row |= {"record_id": self._record_id, "n_files": n_files, "n_images": n_images}
        # Built here and not only at the commit: a row that does not fit the
        # table is this record's failure, not the whole commit's.
        records_table([row])
        record = frames.write(compress(msgspec.json.encode(row, enc_hook=str)))
        directory = Directory(tuple(frames.texts), tuple(row_frames), record)
        place = frames.write(compress(msgspec.json.encode(directory)))
        shape = self._shape
        trailer = BlobTrailer(*place, self._record_id, n_files, n_images, shape.height, shape.width)
        frames.write(trailer.to_bytes())
        size = self._blob.size
        path = f"{STAGED_RECORDS}/{self._record_id}"
        if self._blob.path is None:
            # Not durable: a blob that a power cut tears is seen by its trailer,
            # and its record is built again.
            storage.write(path, self._blob.join(), durable=False)
        else:
            storage.publish(self._blob.path, path)
        self.close()
        return StagedRecord(self._record_id, n_files, n_images, size)

    def _place_texts(
        self, batch: pa.RecordBatch, frames: FrameWriter
    ) -> tuple[pa.RecordBatch, int]:
        """Put the texts of some rows into frames; add their places to the rows."""
        placed: list[tuple[str | None, int, int, int, int]] = []
        width = self._shape.width
        for number, n_lines in zip(
            batch.column("text").to_pylist(), batch.column("n_lines").to_pylist(), strict=True
        ):
            if number < 0:
                placed.append((None, 0, -1, 0, 0))
                continue
            text = self._texts.get(number)
            digest = hashlib.sha256(visible_text(text, width)).hexdigest()
            frame, offset = frames.add_text(text)
            placed.append((digest, self._shape.n_images(n_lines), frame, offset, len(text)))
        columns = list(zip(*placed, strict=True)) if placed else [()] * 5
        arrays = batch.drop_columns(["text"])
        for (name, kind), values in zip(_TEXT_COLUMNS, columns, strict=True):
            arrays = arrays.append_column(name, pa.array(values, kind))
        return arrays, sum(columns[1])

    def close(self) -> None:
        """Free memory and scratch; stages nothing."""
        self._texts.close()
        self._blob.close()
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _to_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


ROW_FRAME_FILES = 8_192
"""Files whose rows go into one frame."""

_ROWS_IN_MEMORY = 65_536


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A row of the files table before it has any number; see `layout.FILES_SCHEMA`.

    `n_lines` are lines of the normalised text, 0 where there is none; `n_cut` is how many of them
    are longer than an image is wide.
    """

    path: str
    name: str
    extension: str
    language: str | None
    kind: str | None
    size: int | None
    sha256: str | None
    encoding: str | None
    status: FileStatus
    reason: str | None
    n_lines: int
    n_cut: int | None
    sha1_git: str | None = None


STAGED_SCHEMA = pa.schema(
    [
        *(FILES_SCHEMA.field(column.name) for column in fields(StagedFile)),
        pa.field("text", pa.int64(), nullable=False),
    ]
)
"""A row of a file as it is added: what `StagedFile` holds, and the number of its text or -1."""


class FileRows:
    """Takes rows of one record's files in any order, and yields them in path order.

    Rows beyond 65,536 wait in an Arrow file at `path`, in scratch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = None
        self._rows: list[tuple[StagedFile, int]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, file: StagedFile, text: int) -> None:
        """Take a file and the number of its text, or -1."""
        self._rows.append((file, text))
        if len(self._rows) >= ROW_FRAME_FILES:
            self._gather()

    def _gather(self) -> None:
        if self._rows:
            self._batches.append(_to_batch(self._rows))
            self._rows = []
        if sum(map(len, self._batches)) >= _ROWS_IN_MEMORY:
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pa.ipc.new_file(str(self._path), STAGED_SCHEMA)
            for batch in self._batches:
                self._writer.write_batch(batch)
            self._batches = []

    def in_path_order(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows by the UTF-8 bytes of their paths, which is also code point order."""
        self._gather()
        table = pa.Table.from_batches(self._batches, STAGED_SCHEMA)
        if self._writer is not None:
            self._writer.close()
            spilled = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
            table = pa.concat_tables([spilled, table])
        # Members of one path keep the order they were added in.
        table = table.append_column("sequence", pa.array(range(len(table)), pa.int64()))
        order = pc.sort_indices(
            table.select(["path", "sequence"]),
            sort_keys=[("path", "ascending"), ("sequence", "ascending")],
        )
        table = table.drop_columns("sequence")
        for start in range(0, len(order), ROW_FRAME_FILES):
            rows = table.take(order.slice(start, ROW_FRAME_FILES)).combine_chunks()
            yield rows.to_batches()[0]

    def close(self) -> None:
        """Free the memory, and remove the file in scratch."""
        self._rows, self._batches = [], []
        if self._writer is not None:
            self._writer.close()
            self._path.unlink(missing_ok=True)
            self._writer = None


def _to_batch(rows: list[tuple[StagedFile, int]]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        name: [getattr(file, name) for file, _ in rows] for name in STAGED_SCHEMA.names[:-1]
    }
    columns["text"] = [number for _, number in rows]
    try:
        return pa.RecordBatch.from_pydict(columns, STAGED_SCHEMA)
    except UnicodeEncodeError:
        # A lone surrogate in a path, say: no table can hold it, so it is written as an escape.
        cleaned = {name: [encodable(value) for value in column] for name, column in columns.items()}
        return pa.RecordBatch.from_pydict(cleaned, STAGED_SCHEMA)
