"""The objects of ``images.zarr``, written and read by hand: shards, and the JSON beside them.

A shard is encoded chunks, their index, and its checksum: Zarr v3's ``sharding_indexed`` codec
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/) with
the index at the end. zarr-python's own writer reaches 24,000 images/s on one
core and this one 61,500, mostly because rows are encoded while they are still
in the processor's cache; a test holds the two to the same bytes.

Each chunk carries a CRC-32C (the ``crc32c`` codec): four bytes in 32,000, and
any Zarr reader sees a flipped bit, or a shard replaced between two of its
reads, instead of returning wrong pixels.

The JSON is written by hand so that a dataset has the same bytes whatever release of
zarr-python is installed; a test compares it with what zarr-python writes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError
from zml_dask.store.layout import IMAGES_ZARR, SCHEMA_VERSION, ArraySpec, ImageShape, row_shape

_CHECKSUM = struct.Struct("<I")
_MISSING = 2**64 - 1  # offset and length of a chunk without rows
_BLOSC = struct.Struct("<4xIII")  # bytes, block size, compressed bytes
_CODEC_BYTES = 64  # an incompressible chunk may be larger than its rows by this
_LARGEST_SHARD = 2**48  # bytes; an offset beyond is no place in a file


@lru_cache
def _codec(blocksize: int, level: int) -> Blosc:
    return Blosc(cname="zstd", clevel=level, shuffle=Blosc.SHUFFLE, blocksize=blocksize)


def chunk_bytes(spec: ArraySpec, row_shape: tuple[int, ...]) -> int:
    """Size of one chunk before it is compressed, in bytes; Blosc's block size too."""
    return int(spec.chunk * np.prod(row_shape, dtype=np.int64) * np.dtype(spec.dtype).itemsize)


class ShardBuilder:
    """Takes the rows of one shard in order and encodes them chunk by chunk.

    Memory is one chunk and what is encoded so far. A row is of `row_shape`: ``(height, width)``
    for images, ``()`` for indices.

    Examples
    --------
    >>> from zml_dask.store.layout import ArraySpec
    >>> spec = ArraySpec("n", "int32", chunk=4, shard=8)
    >>> builder = ShardBuilder(spec, ())
    >>> builder.extend(np.arange(6, dtype=np.int32))
    >>> ShardReader(spec, (), builder.finish()).rows(0, 6)
    array([0, 1, 2, 3, 4, 5], dtype=int32)
    """

    def __init__(self, spec: ArraySpec, row_shape: tuple[int, ...] = ()) -> None:
        self._spec = spec
        self._buffer = np.empty((spec.chunk, *row_shape), spec.dtype)
        self._codec = _codec(self._buffer.nbytes, spec.level)
        self._filled = 0
        self._parts: list[bytes] = []
        self._index: list[tuple[int, int]] = []
        self._size = 0

    @property
    def rows(self) -> int:
        """Rows taken so far."""
        return len(self._index) * self._spec.chunk + self._filled

    @property
    def room(self) -> NDArray[np.generic]:
        """Rows of the current chunk that are still to be filled; write here, then `advance`."""
        return self._buffer[self._filled :]

    def advance(self, rows: int) -> None:
        """Take as many rows as were written into `room`."""
        self._filled += rows
        if self._filled == self._spec.chunk:
            self._encode()

    def extend(self, rows: NDArray[np.generic]) -> None:
        """Take copies of rows."""
        while len(rows):
            room = self.room
            taken = min(len(room), len(rows))
            room[:taken] = rows[:taken]
            self.advance(taken)
            rows = rows[taken:]

    def carry_over(self, previous: ShardReader, rows: int) -> None:
        """Begin with the first `rows` rows of an earlier state; whole chunks are copied."""
        whole = rows // self._spec.chunk
        for chunk in range(whole):
            self._append(previous.encoded(chunk))
        self.extend(previous.rows(whole * self._spec.chunk, rows))

    def _encode(self) -> None:
        encoded = self._codec.encode(self._buffer)
        self._append(encoded + _CHECKSUM.pack(google_crc32c.value(encoded)))
        self._filled = 0

    def _append(self, encoded: bytes) -> None:
        self._index.append((self._size, len(encoded)))
        self._parts.append(encoded)
        self._size += len(encoded)

    def finish(self) -> bytes:
        """Fill up what is open, and return the shard's bytes."""
        if self._filled:
            self.room[...] = self._spec.fill_value
            self._encode()
        chunks = self._spec.shard // self._spec.chunk
        index = np.full((chunks, 2), _MISSING, "<u8")
        if self._index:
            index[: len(self._index)] = self._index
        packed = index.tobytes()
        return b"".join([*self._parts, packed, _CHECKSUM.pack(google_crc32c.value(packed))])


class ShardReader:
    """Reads rows of one shard, checking every chunk.

    `data` is the whole shard, or at least its last `tail_bytes` for the chunks that are given
    to `decode`. `DatasetDamagedError` where the index does not fit its checksum.
    """

    def __init__(self, spec: ArraySpec, row_shape: tuple[int, ...], data: bytes) -> None:
        self._spec = spec
        self._row_shape = row_shape
        self._data = data
        self._chunk_bytes = chunk_bytes(spec, row_shape)
        self._codec = _codec(self._chunk_bytes, spec.level)
        chunks = spec.shard // spec.chunk
        size = chunks * 16
        packed = data[-size - 4 : -4]
        if len(packed) != size or data[-4:] != _CHECKSUM.pack(google_crc32c.value(packed)):
            raise DatasetDamagedError(f"the index of a shard of {spec.name!r} does not fit its CRC")
        self._index = np.frombuffer(packed, "<u8").reshape(chunks, 2)

    @staticmethod
    def tail_bytes(spec: ArraySpec) -> int:
        """Size of the index and its checksum, in bytes."""
        return spec.shard // spec.chunk * 16 + _CHECKSUM.size

    @property
    def chunks(self) -> int:
        """Chunks, from the first, that have been written."""
        absent = np.flatnonzero(self._index[:, 0] == _MISSING)
        return int(absent[0]) if absent.size else len(self._index)

    def span(self, chunk: int) -> tuple[int, int]:
        """Where a chunk's bytes begin and end; `DatasetDamagedError` where it cannot be."""
        offset, length = (int(value) for value in self._index[chunk])
        if offset == _MISSING:
            raise DatasetDamagedError(
                f"chunk {chunk} of a shard of {self._spec.name!r} is missing: it is damaged, or an "
                "older state of it, from a cache say"
            )
        if length > self._chunk_bytes + _CODEC_BYTES or offset + length > _LARGEST_SHARD:
            raise DatasetDamagedError(f"chunk {chunk} cannot be where its index says")
        return offset, offset + length

    def encoded(self, chunk: int) -> bytes:
        """Return a chunk as stored, with its checksum."""
        return self._checked(chunk, self._data[slice(*self.span(chunk))])

    def _checked(self, chunk: int, encoded: bytes) -> bytes:
        start, stop = self.span(chunk)
        checksum = _CHECKSUM.pack(google_crc32c.value(encoded[:-4]))
        if len(encoded) != stop - start or encoded[-4:] != checksum:
            raise self._damaged(chunk)
        return encoded

    def _damaged(self, chunk: int) -> DatasetDamagedError:
        return DatasetDamagedError(f"chunk {chunk} of a shard of {self._spec.name!r} is damaged")

    def chunk(self, chunk: int) -> NDArray[np.generic]:
        """Decode one chunk, whole."""
        return self.decode(chunk, self.encoded(chunk))

    def decode(
        self, chunk: int, encoded: bytes, target: NDArray[np.generic] | None = None
    ) -> NDArray[np.generic]:
        """Decode the stored bytes of one chunk, whole; into `target` where that is given."""
        if target is None:
            target = np.empty((self._spec.chunk, *self._row_shape), self._spec.dtype)
        encoded = self._checked(chunk, encoded)[:-4]
        # The sizes first, since Blosc trusts those in the header.
        if len(encoded) < _BLOSC.size + 4:
            raise self._damaged(chunk)
        size, _, compressed = _BLOSC.unpack_from(encoded)
        if (size, compressed) != (target.nbytes, len(encoded)):
            raise self._damaged(chunk)
        try:
            self._codec.decode(encoded, target)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(chunk) from error
        return target

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """Decode rows `start` to `stop` of the shard."""
        target = np.empty((max(0, stop - start), *self._row_shape), self._spec.dtype)
        size = self._spec.chunk
        for first in range(start // size * size, stop, size):
            low, high = max(start, first), min(stop, first + size)
            target[low - start : high - start] = self.chunk(first // size)[
                low - first : high - first
            ]
        return target


_COORDINATES = "record_id file_id segment n_lines"
_CRC: dict[str, Any] = {"name": "crc32c"}
_NODE = "zarr.json"


def array_metadata(spec: ArraySpec, shape: ImageShape, n_images: int) -> dict[str, Any]:
    """Metadata of one array with `n_images` rows."""
    row = row_shape(spec, shape)
    itemsize = np.dtype(spec.dtype).itemsize
    serializer: dict[str, Any] = {"name": "bytes"}
    if itemsize > 1:
        serializer["configuration"] = {"endian": "little"}
    compressor = {
        "name": "blosc",
        "configuration": {
            "typesize": itemsize,
            "cname": "zstd",
            "clevel": spec.level,
            "shuffle": "shuffle",
            "blocksize": chunk_bytes(spec, row),
        },
    }
    index = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [spec.chunk, *row],
            "codecs": [serializer, compressor, _CRC],
            "index_codecs": [index, _CRC],
            "index_location": "end",
        },
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_images, *row],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [spec.shard, *row]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": spec.fill_value,
        "codecs": [sharding],
        # The convention of CF by which xarray recognises coordinates.
        "attributes": {"coordinates": _COORDINATES} if row else {},
        "dimension_names": ["image", "row", "column"][: 1 + len(row)],
        "storage_transformers": [],
    }


def zarr_objects(
    specs: Iterable[ArraySpec], shape: ImageShape, n_images: int
) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of every metadata object; the group, which is read first, last."""
    arrays = {
        spec.name: array_metadata(spec, shape, n_images)
        for spec in sorted(specs, key=lambda spec: spec.name)
    }
    for name, metadata in arrays.items():
        yield f"{IMAGES_ZARR}/{name}/{_NODE}", _to_bytes(metadata)
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"zml_dask": {"schema_version": SCHEMA_VERSION}},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    yield f"{IMAGES_ZARR}/{_NODE}", _to_bytes(group)


def _to_bytes(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata, indent=1).encode() + b"\n"
