"""The binary form of a staged record and of a pack of them.

A *blob* is one staged record, and can be read by itself wherever it lies::

    text frames | row frames | record frame | directory frame | trailer

Every frame is one zstd frame with zstd's own checksum, so that every flipped bit is
detected. A text frame holds the normalised texts of several files one after
another; a row frame holds an Arrow stream of the rows of some files. The
directory contains the place of each frame, the trailer that of the directory, and how many
files and images the record has.

A *pack* is many blobs one after another, an index of them, and a trailer.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias
from uuid import uuid4

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa
import zstandard

from zml_dask.errors import DatasetDamagedError
from zml_dask.store.layout import ImageShape
from zml_dask.store.storage import Storage

TEXT_FRAME_BYTES = 512 * 1024
"""Normalised text that is gathered into one frame: enough for zstd to see repetition, little
enough that one file is read without reading much else."""

_LEVEL = 1  # staging is kept for hours; zstd-1 compresses 127,000 images/s at 543 bytes each
_BLOB = struct.Struct("<8sQQqqqIII")
_BLOB_MAGIC = b"ZMLBLOB2"
_PACK = struct.Struct("<8sQQI")
_PACK_MAGIC = b"ZMLPACK1"

BLOB_TRAILER_BYTES = _BLOB.size
PACK_TRAILER_BYTES = _PACK.size


def compress(data: bytes) -> bytes:
    """Compress to one zstd frame that carries its size and a checksum."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(data)


def decompress(frame: bytes, where: str) -> bytes:
    """Decompress one frame; `DatasetDamagedError` where its checksum does not fit."""
    try:
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise DatasetDamagedError(
            f"{where} is damaged ({error}); remove it and build again to fetch its records"
        ) from error


Place: TypeAlias = tuple[int, int]
"""Where a frame is within its blob: first byte and bytes."""


@dataclass(frozen=True, slots=True)
class RowFrame:
    """Where a frame of rows is within its blob, and what rows it holds."""

    offset: int
    length: int
    first_file: int
    first_image: int
    n_files: int
    n_images: int


@dataclass(frozen=True, slots=True)
class Directory:
    """Where everything is within a blob."""

    texts: tuple[Place, ...]
    rows: tuple[RowFrame, ...]
    record: Place


@dataclass(frozen=True, slots=True)
class BlobTrailer:
    """The last bytes of a blob."""

    directory_offset: int
    directory_length: int
    record_id: int
    n_files: int
    n_images: int
    height: int
    width: int

    def to_bytes(self) -> bytes:
        """Pack with magic and checksum."""
        return _sealed(_BLOB, _BLOB_MAGIC, *astuple(self))

    @classmethod
    def from_bytes(cls, tail: bytes, where: str) -> BlobTrailer:
        """Unpack what `to_bytes` returned; `DatasetDamagedError` for anything else."""
        fields = _unsealed(_BLOB, _BLOB_MAGIC, tail)
        if fields is not None:
            return cls(*fields)
        raise DatasetDamagedError(
            f"{where} is not a whole staged record; remove it and build again"
        )


def pack_trailer(index_offset: int, index_length: int) -> bytes:
    """Pack the last bytes of a pack."""
    return _sealed(_PACK, _PACK_MAGIC, index_offset, index_length)


def unpack_trailer(tail: bytes, where: str) -> tuple[int, int]:
    """Return where the index of a pack is; `DatasetDamagedError` if `tail` is no trailer."""
    fields = _unsealed(_PACK, _PACK_MAGIC, tail[-_PACK.size :])
    if fields is None:
        raise DatasetDamagedError(f"{where} is not a whole pack; remove it and build again")
    offset, length = fields
    return offset, length


def _sealed(form: struct.Struct, magic: bytes, *fields: int) -> bytes:
    """Pack fields between a magic and a checksum."""
    body = form.pack(magic, *fields, 0)[:-4]
    return body + struct.pack("<I", google_crc32c.value(body))


def _unsealed(form: struct.Struct, magic: bytes, data: bytes) -> list[int] | None:
    """Inverse of `_sealed`; None where it is not that."""
    if len(data) != form.size:
        return None
    found, *fields, checksum = form.unpack(data)
    return fields if found == magic and checksum == google_crc32c.value(data[:-4]) else None


class FrameWriter:
    """Writes frames to a blob, gathering texts into frames of some size."""

    def __init__(self, blob: Spool) -> None:
        self._blob = blob
        self._gathered: list[bytes] = []
        self._size = 0
        self.texts: list[Place] = []

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
            self.texts.append(self.write(compress(b"".join(self._gathered))))
            self._gathered, self._size = [], 0

    def write(self, data: bytes) -> Place:
        """Append bytes to the blob; return where they are."""
        offset = self._blob.size
        self._blob.append(data)
        return offset, len(data)


SPOOL_BYTES = 16 * 2**20
"""How much a spool holds in memory."""


class Spool:
    """Byte strings one after another, read back by number.

    Beyond `max_memory` bytes, all of them are in one file in the folder `scratch`, on a local disk.

    Examples
    --------
    >>> with Spool(Path("/tmp")) as spool:
    ...     number = spool.append(b"text")
    ...     spool.get(number), spool.size
    (b'text', 4)
    """

    def __init__(self, scratch: Path, max_memory: int = SPOOL_BYTES) -> None:
        self._path = scratch / f"spool-{uuid4().hex}"
        self._max_memory = max_memory
        self._items: list[bytes] = []
        self._stops = array("q", [0])
        self._file: int | None = None

    def append(self, data: bytes) -> int:
        """Add a byte string; return its number."""
        stop = self._stops[-1] + len(data)
        if self._file is None and stop > self._max_memory:
            self._spill()
        if self._file is None:
            self._items.append(data)
        else:
            _write_all(self._file, data)
        self._stops.append(stop)
        return len(self._stops) - 2

    def get(self, number: int) -> bytes:
        """Return the byte string that `append` gave `number`."""
        if self._file is None:
            return self._items[number]
        start, stop = self._stops[number], self._stops[number + 1]
        return os.pread(self._file, stop - start, start)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._stops[-1]

    @property
    def path(self) -> Path | None:
        """The file in scratch, if there is one."""
        return None if self._file is None else self._path

    def join(self) -> bytes:
        """Return everything as one byte string; only for a spool in memory."""
        return b"".join(self._items)

    def _spill(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        for item in self._items:
            _write_all(self._file, item)
        self._items.clear()

    def close(self) -> None:
        """Free the memory, and remove the file in scratch if it is still there."""
        self._items.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


_WHOLE_BYTES = 4 * 2**20
"""A blob up to this size is read by one request; a larger one frame by frame."""


@dataclass(frozen=True, slots=True)
class StagedLocation:
    """Where a staged record's blob lies: an object, and bytes within it."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DrawnText:
    """Normalised text of one file, and which of its images are wanted."""

    text: bytes
    first_image: int
    n_images: int


class StagedReader:
    """Reads one staged record, frame by frame, so that memory is bounded by the frame."""

    def __init__(self, storage: Storage, location: StagedLocation) -> None:
        self._storage = storage
        self._location = location
        self._blob: bytes | None = None
        if location.length <= _WHOLE_BYTES:
            self._blob = storage.read_range(
                location.path, location.offset, location.offset + location.length
            )
        self._where = f"{location.path} at byte {location.offset}"
        self._frame: tuple[int, bytes] = (-1, b"")

    def _read(self, offset: int, length: int) -> bytes:
        if self._blob is not None:
            return self._blob[offset : offset + length]
        start = self._location.offset + offset
        return self._storage.read_range(self._location.path, start, start + length)

    def _frame_at(self, place: Place) -> bytes:
        return decompress(self._read(*place), self._where)

    @cached_property
    def trailer(self) -> BlobTrailer:
        """Counts and image shape of the record."""
        tail = self._read(max(0, self._location.length - BLOB_TRAILER_BYTES), BLOB_TRAILER_BYTES)
        return BlobTrailer.from_bytes(tail, self._where)

    @cached_property
    def _directory(self) -> Directory:
        place = self.trailer.directory_offset, self.trailer.directory_length
        return msgspec.json.decode(self._frame_at(place), type=Directory)

    @property
    def shape(self) -> ImageShape:
        """Image shape that the counts are for."""
        return ImageShape(self.trailer.height, self.trailer.width)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record's row of the records table."""
        row: dict[str, Any] = msgspec.json.decode(self._frame_at(self._directory.record))
        return row

    def row_batches(
        self, first_image: int | None = None, stop_image: int | None = None
    ) -> Iterator[tuple[RowFrame, pa.RecordBatch]]:
        """Yield rows frame by frame: all, or only frames with some of the images asked for."""
        for frame in self._directory.rows:
            if first_image is not None and frame.first_image + frame.n_images <= first_image:
                continue
            if stop_image is not None and frame.first_image >= stop_image:
                return
            stream = self._frame_at((frame.offset, frame.length))
            yield frame, pa.ipc.open_stream(stream).read_next_batch()

    def __iter__(self) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        """Yield each file's row and normalised text (None where it has none), in path order."""
        for _, rows in self.row_batches():
            for row in rows.to_pylist():
                number = row["frame"]
                yield (
                    row,
                    self._text_at(number, row["offset"], row["length"]) if number >= 0 else None,
                )

    def draw_texts(self, first_image: int, stop_image: int) -> Iterator[DrawnText]:
        """Yield the texts of images `first_image` to `stop_image` of the record, in order."""
        for frame, rows in self.row_batches(first_image, stop_image):
            counts = rows.column("n_images").to_numpy().astype(np.int64)
            stops = frame.first_image + np.cumsum(counts)
            starts = stops - counts
            wanted = np.flatnonzero((counts > 0) & (stops > first_image) & (starts < stop_image))
            numbers, offsets, lengths = (
                rows.column(name).to_numpy()[wanted].tolist()
                for name in ("frame", "offset", "length")
            )
            skips = np.maximum(first_image - starts[wanted], 0)
            takes = np.minimum(stops[wanted], stop_image) - starts[wanted] - skips
            for number, offset, length, skip, take in zip(
                numbers, offsets, lengths, skips.tolist(), takes.tolist(), strict=True
            ):
                yield DrawnText(self._text_at(number, offset, length), skip, take)

    def _text_at(self, number: int, offset: int, length: int) -> bytes:
        if self._frame[0] != number:
            self._frame = number, self._frame_at(self._directory.texts[number])
        return self._frame[1][offset : offset + length]
