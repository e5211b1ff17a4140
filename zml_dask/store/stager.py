"""Staging one record: its files' settled text and rows, published in one atomic write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.raster.visible import visible_text
from zml_dask.store.frames import (
    TEXT_FRAME_BYTES,
    BlobTrailer,
    Directory,
    RowFrame,
    TextFrame,
    compress,
)
from zml_dask.store.layout import RECORDS_SCHEMA, STAGING, FileStatus, ImageShape
from zml_dask.store.spool import SPOOL_BYTES, Spool
from zml_dask.store.storage import Storage

STAGED_RECORDS = f"{STAGING}/records"

ROW_FRAME_FILES = 8_192
"""Files whose rows go into one frame."""

_ROWS_IN_MEMORY = 65_536

STAGED_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("n_lines", pa.int32(), nullable=False),
        pa.field("n_cut", pa.int32()),
        pa.field("text", pa.int64(), nullable=False),
    ]
)
"""A row of a file as it is added: what `StagedFile` holds, and the number of its text or -1."""

_TEXT_COLUMNS = (
    ("text_sha256", pa.string()),
    ("n_images", pa.int32()),
    ("frame", pa.int32()),
    ("offset", pa.int64()),
    ("length", pa.int64()),
)
"""What is added on publishing: where the text is, -1 in `frame` for none."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A row of the files table before it has any number; see `layout.FILES_SCHEMA`.

    Attributes
    ----------
    path, name, extension : str
    language, kind : str or None
    size : int or None
        Bytes of the file itself.
    sha256 : str or None
        Of the file's own bytes, hex.
    encoding : str or None
    status : FileStatus
    reason : str or None
    n_lines : int
        Lines of the settled text; 0 where there is none.
    n_cut : int or None
        How many of them are longer than an image is wide.
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


@dataclass(frozen=True, slots=True)
class StagedRecord:
    """What staging a record came to: counts, and bytes written."""

    record_id: int
    n_files: int
    n_images: int
    bytes: int


class RecordStager:
    r"""Takes the files of one record as they come and stages them in path order.

    Memory is bounded whatever the record: texts beyond 16 MiB and rows beyond
    65,536 wait in `scratch`. Use as a context manager, so that scratch is
    cleaned whatever happens.

    Parameters
    ----------
    scratch : Path
        Folder on a local disk.
    record_id : int
    shape : ImageShape
        Size of the dataset's images; sets how many a text fills.
    max_memory : int
        Bytes of text held in memory.

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
        self,
        scratch: Path,
        record_id: int,
        shape: ImageShape,
        *,
        max_memory: int = SPOOL_BYTES,
    ) -> None:
        self._scratch = scratch
        self._record_id = record_id
        self._shape = shape
        self._texts = Spool(scratch, max_memory)
        self._blob = Spool(scratch, max_memory)
        self._rows: list[tuple[StagedFile, int]] = []
        self._batches: list[pa.RecordBatch] = []
        self._spilled = _SpilledRows(scratch / f"rows-{uuid4().hex}")

    def add(self, file: StagedFile, text: bytes | None) -> None:
        """Take one file.

        Parameters
        ----------
        file : StagedFile
            In any order; where two have one path, the order given is kept.
        text : bytes or None
            Its settled UTF-8 text; None where it is listed only.
        """
        self._rows.append((file, self._texts.append(text) if text else -1))
        if len(self._rows) >= ROW_FRAME_FILES:
            self._gather_rows()

    def finish(self, storage: Storage, record_row: Mapping[str, Any]) -> StagedRecord:
        """Publish the record under ``staging/records/``, atomically.

        Parameters
        ----------
        storage : Storage
            The dataset's.
        record_row : mapping
            Columns of the records table; its id and counts are set here.

        Returns
        -------
        StagedRecord

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        self._gather_rows()
        frames = _FrameWriter(self._blob)
        n_files = n_images = 0
        row_frames = []
        for batch in self._sorted_rows():
            placed, images = self._place_texts(batch, frames)
            offset, length = frames.write(compress(_to_stream(placed)))
            row_frames.append(RowFrame(offset, length, n_files, n_images, len(placed), images))
            n_files += len(placed)
            n_images += images
        frames.flush()
        row = _clean_row(record_row) | {
            "record_id": self._record_id,
            "n_files": n_files,
            "n_images": n_images,
        }
        # Built here and not only at the commit: a row that does not fit the
        # table is this record's failure, not the whole commit's.
        pa.RecordBatch.from_pylist([row], schema=RECORDS_SCHEMA)
        record = frames.write(compress(json.dumps(row, separators=(",", ":")).encode()))
        directory = Directory(tuple(frames.texts), tuple(row_frames), TextFrame(*record))
        offset, length = frames.write(directory.to_bytes())
        trailer = BlobTrailer(
            offset,
            length,
            self._record_id,
            n_files,
            n_images,
            self._shape.height,
            self._shape.width,
        )
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

    def _gather_rows(self) -> None:
        if not self._rows:
            return
        self._batches.append(_to_batch(self._rows))
        self._rows = []
        if sum(map(len, self._batches)) >= _ROWS_IN_MEMORY:
            self._spilled.extend(self._batches)
            self._batches = []

    def _sorted_rows(self) -> Iterator[pa.RecordBatch]:
        """Give all rows in path order, by UTF-8 bytes, which is also code point order."""
        table = pa.concat_tables(
            [self._spilled.table(), pa.Table.from_batches(self._batches, STAGED_SCHEMA)]
        )
        table = table.append_column("sequence", pa.array(range(len(table)), pa.int64()))
        order = pc.sort_indices(
            table.select(["path", "sequence"]),
            sort_keys=[("path", "ascending"), ("sequence", "ascending")],
        )
        table = table.drop_columns("sequence")
        for start in range(0, len(order), ROW_FRAME_FILES):
            rows = table.take(order.slice(start, ROW_FRAME_FILES)).combine_chunks()
            yield rows.to_batches()[0]

    def _place_texts(
        self, batch: pa.RecordBatch, frames: _FrameWriter
    ) -> tuple[pa.RecordBatch, int]:
        """Put the texts of some rows into frames; return the rows with where they are."""
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
        """Free memory and scratch; nothing is staged by it."""
        self._texts.close()
        self._blob.close()
        self._spilled.close()
        self._rows, self._batches = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _FrameWriter:
    """Writes frames to a blob, gathering texts into frames of some size."""

    def __init__(self, blob: Spool) -> None:
        self._blob = blob
        self._gathered: list[bytes] = []
        self._size = 0
        self.texts: list[TextFrame] = []

    def add_text(self, text: bytes) -> tuple[int, int]:
        """Add a text; return the number of its frame, and where in the frame it begins."""
        if self._size and self._size + len(text) > TEXT_FRAME_BYTES:
            self.flush()
        place = len(self.texts), self._size
        self._gathered.append(text)
        self._size += len(text)
        return place

    def flush(self) -> None:
        """Write out the frame that is being gathered."""
        if self._gathered:
            self.texts.append(TextFrame(*self.write(compress(b"".join(self._gathered)))))
            self._gathered, self._size = [], 0

    def write(self, data: bytes) -> tuple[int, int]:
        """Append bytes to the blob; return where they begin, and how many they are."""
        offset = self._blob.size
        self._blob.append(data)
        return offset, len(data)


class _SpilledRows:
    """Rows of a huge record, waiting in one Arrow file in scratch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = None

    def extend(self, batches: list[pa.RecordBatch]) -> None:
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pa.ipc.new_file(str(self._path), STAGED_SCHEMA)
        for batch in batches:
            self._writer.write_batch(batch)

    def table(self) -> pa.Table:
        if self._writer is None:
            return STAGED_SCHEMA.empty_table()
        self._writer.close()
        return pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()

    def close(self) -> None:
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
        # A lone surrogate in a path, say: no table can hold it, so it is spelt out.
        cleaned = {name: [_clean(value) for value in column] for name, column in columns.items()}
        return pa.RecordBatch.from_pydict(cleaned, STAGED_SCHEMA)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _clean(row.get(name)) for name in RECORDS_SCHEMA.names}


def _to_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
