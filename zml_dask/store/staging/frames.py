"""The binary form of a staged record and of a pack of them.

A *blob* is one staged record, and can be read by itself wherever it lies::

    text frames | row frames | record frame | directory frame | trailer

Every frame is one zstd frame with zstd's own checksum, so that no flipped byte
goes unseen. A text frame holds the normalised texts of several files one after
another; a row frame holds an Arrow stream of the rows of some files. The
directory says where each frame is, the trailer where the directory is; the
trailer alone says how many files and images the record has.

A *pack* is many blobs one after another, an index of them, and a trailer.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self, TypeAlias
from uuid import uuid4

import google_crc32c
import zstandard

from zml_dask.errors import DatasetDamagedError

TEXT_FRAME_BYTES = 512 * 1024
"""Normalised text that is gathered into one frame: enough for zstd to see repetition, little
enough that one file is read without reading much else."""

_LEVEL = 1  # staging lives for hours; zstd-1 takes in 127,000 images/s at 543 bytes each
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
            f"{where} is damaged ({error}); remove it and build again: its records are fetched anew"
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
        """Inverse of `to_bytes`; `DatasetDamagedError` where it is not one."""
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
    """Return where the index of a pack is; `DatasetDamagedError` where `tail` is not a trailer."""
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

    Parameters
    ----------
    scratch : Path
        Folder on a local disk for what does not stay in memory.
    max_memory : int
        Bytes kept in memory; beyond, everything goes to one file in `scratch`.

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
        """The file in scratch, if the spool outgrew its memory."""
        return None if self._file is None else self._path

    def join(self) -> bytes:
        """Return everything as one byte string; only for a spool still in memory."""
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
