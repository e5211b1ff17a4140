"""Reading a staged record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from zml_dask.store.layout import ImageShape
from zml_dask.store.staging.frames import (
    BLOB_TRAILER_BYTES,
    BlobTrailer,
    Directory,
    Place,
    RowFrame,
    decompress,
)
from zml_dask.store.storage import Storage

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
    """Normalised text of one file and which of its images are asked for."""

    text: bytes
    first_image: int
    n_images: int


class StagedReader:
    """One staged record; read by frames, so that memory is bounded by the frame."""

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
        """Give rows frame by frame: all, or only frames that hold some of the images asked for."""
        for frame in self._directory.rows:
            if first_image is not None and frame.first_image + frame.n_images <= first_image:
                continue
            if stop_image is not None and frame.first_image >= stop_image:
                return
            stream = self._frame_at((frame.offset, frame.length))
            yield frame, pa.ipc.open_stream(stream).read_next_batch()

    def __iter__(self) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        """Give each file's row and normalised text (None where it has none), in path order."""
        for _, rows in self.row_batches():
            for row in rows.to_pylist():
                number = row["frame"]
                yield (
                    row,
                    self._text_at(number, row["offset"], row["length"]) if number >= 0 else None,
                )

    def draw_texts(self, first_image: int, stop_image: int) -> Iterator[DrawnText]:
        """Give the texts that fill the record's images `first_image` to `stop_image`, in order."""
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
