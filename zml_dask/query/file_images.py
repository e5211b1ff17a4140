"""Files one after another, with their images, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from zml_dask.query.selection import Selection, image_lines
from zml_dask.raster.images import Images, to_text
from zml_dask.store.image_reader import ImageReader, Int64
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.snapshot import Snapshot

_FILES_AT_ONCE = 16_384
_IMAGES_AT_ONCE = 1_024
"""26 MB at 80 by 80."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of the files table; `layout.FILES_SCHEMA` says what each column is."""

    file_id: int
    record_id: int
    path: str
    name: str
    extension: str
    language: str | None
    language_group: str | None
    kind: str | None
    size: int | None
    sha256: str | None
    sha1_git: str | None
    text_sha256: str | None
    encoding: str | None
    status: str
    reason: str | None
    n_lines: int
    n_cut: int | None
    first_image: int
    n_images: int


@dataclass(frozen=True, slots=True)
class FileImages:
    """A file and those of its images that are selected; unpacks as ``file, images``.

    Attributes
    ----------
    file : FileRow
    images : numpy.ndarray of uint32, shape (n, height, width)
    segment : numpy.ndarray of int64, shape (n,)
        Number of each image within the file.
    """

    file: FileRow
    images: Images
    segment: Int64

    def __iter__(self) -> Iterator[FileRow | Images]:
        yield self.file
        yield self.images

    @property
    def text(self) -> str:
        """The images as text."""
        height = self.images.shape[1]
        n_lines = np.full(self.segment.shape, self.file.n_lines, np.int64)
        return to_text(self.images, image_lines(n_lines, self.segment, height))


def iterate_files(snapshot: Snapshot, selection: Selection) -> Iterator[FileImages]:
    """Yield the files of a selection with their images; no chunk is read twice.

    Memory holds 1,024 images, or those of the largest file, and 16,384 rows of
    the table.
    """
    pieces = _Pieces(snapshot.images, selection)
    for start in range(0, selection.file_id.size, _FILES_AT_ONCE):
        several = slice(start, start + _FILES_AT_ONCE)
        begins, ends = selection.images_of(several)
        table = snapshot.take("files", selection.file_id[several], FILES_SCHEMA.names)
        for row, begin, end in zip(_rows(table), begins.tolist(), ends.tolist(), strict=True):
            segment = selection.rows.positions(begin, end) - row.first_image
            yield FileImages(row, pieces.take(begin, end), segment)


def _rows(table: pa.Table) -> Iterator[FileRow]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from (FileRow(**row) for row in batch.to_pylist())


class _Pieces:
    """Reads the selected images front to back, some whole chunks at a time."""

    def __init__(self, reader: ImageReader, selection: Selection) -> None:
        self._reader = reader
        self._rows = selection.rows
        self._held: Images = reader.read(np.empty(0, np.int64))
        self._start = 0

    def take(self, begin: int, end: int) -> Images:
        """Return images `begin` to `end`; what came before them is let go."""
        held = self._held[begin - self._start :]
        stop = self._start + len(self._held)
        more = []
        while stop < end:
            piece = self._rows.piece(stop, _IMAGES_AT_ONCE, self._reader.spec.chunk)
            more.append(self._reader.read(piece))
            stop += piece.size
        self._held = np.concatenate([held, *more]) if more else held
        self._start = begin
        return self._held[: end - begin].copy()
