"""Staging one record: its files' normalised text and rows, published in one atomic write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pyarrow as pa

from zml_dask.raster.text import visible_text
from zml_dask.store.layout import RECORDS_SCHEMA, STAGING, ImageShape
from zml_dask.store.staging.file_rows import FileRows, StagedFile
from zml_dask.store.staging.frame_writer import FrameWriter
from zml_dask.store.staging.frames import (
    BlobTrailer,
    Directory,
    RowFrame,
    TextFrame,
    compress,
)
from zml_dask.store.staging.spool import SPOOL_BYTES, Spool
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
        self._rows = FileRows(scratch / f"rows-{uuid4().hex}")

    def add(self, file: StagedFile, text: bytes | None) -> None:
        """Take one file.

        Parameters
        ----------
        file : StagedFile
            In any order; where two have one path, the order given is kept.
        text : bytes or None
            Its normalised UTF-8 text; None where it is listed only.
        """
        self._rows.append(file, self._texts.append(text) if text else -1)

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
        row = _clean_row(record_row) | {
            "record_id": self._record_id,
            "n_files": n_files,
            "n_images": n_images,
        }
        # Built here and not only at the commit: a row that does not fit the
        # table is this record's failure, not the whole commit's.
        records_table([row])
        record = frames.write(
            compress(json.dumps(row, separators=(",", ":"), default=str).encode())
        )
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

    def _place_texts(
        self, batch: pa.RecordBatch, frames: FrameWriter
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
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encodable(row.get(name)) for name in RECORDS_SCHEMA.names}


def _to_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
