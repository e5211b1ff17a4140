"""A record for the legacy (2018) writers, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zml_dask.raster.images import Images, n_lines_dtype, rasterize_into
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import StagedReader

LegacyFormat = Literal["pickle", "hdf5", "tree"]
"""``pickle``: ``images_<id>.pkl``; ``hdf5``: ``images_<id>.h5``; ``tree``: ``tree_<id>.json``."""

SEGMENT_DTYPE = np.dtype("<i8")
"""The type of the legacy segments."""

MAX_PIXELS = 2 * 100_000 * 80
"""More pixels than a file of 2018 has: it was smaller than 100,000 bytes, a row has at least one
byte, and the last line may be repeated with one row per character. Also the limit for arrays that
a pickle refers to repeatedly."""

Segments: TypeAlias = list[NDArray[Any]]
"""A file's segments in order, each (lines, width)."""


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A file of a record: its size in bytes, for the tree, and its images.

    `images`, (n, height, width), and `n_lines`, those of each image, are None if the file is not
    text: then it is only in the tree.
    """

    path: str
    size: int | None = None
    images: Images | None = None
    n_lines: NDArray[np.integer[Any]] | None = None

    def segments(self) -> Iterable[Images]:
        """Yield each image without padding rows, (lines, width)."""
        if self.images is None or self.n_lines is None:
            return
        for image, lines in zip(self.images, self.n_lines.tolist(), strict=True):
            yield image[:lines]


@dataclass(frozen=True, slots=True)
class LegacyRecord:
    """A record: its JSON as harvested, and its files in path order, each path once.

    `metadata` is the column of that name in the records table. `files` may be a generator, so that
    one file is in memory at a time.
    """

    record_id: int
    metadata: str | None
    files: Iterable[LegacyFile]


class Canvas:
    r"""Draws files from their normalised text, as it is staged, into memory that is reused.

    The images of a file are valid until the next one is drawn: new memory for every file would
    cost more than the drawing.

    Examples
    --------
    >>> file = Canvas().file("a.py", b"x = 1\n" * 81)
    >>> [segment.shape for segment in file.segments()]
    [(80, 80), (1, 80)]
    """

    def __init__(self, shape: ImageShape | None = None) -> None:
        self._shape = shape or ImageShape()
        self._grow(64)

    def _grow(self, capacity: int) -> None:
        height, width = self._shape.height, self._shape.width
        self._images = np.empty((capacity, height, width), np.uint32)
        self._n_lines = np.empty(capacity, n_lines_dtype(height))

    def file(
        self, path: str, text: bytes | None, *, size: int | None = None, n_lines: int | None = None
    ) -> LegacyFile:
        """Draw a file from its normalised UTF-8; None if it is not text."""
        if text is None:
            return LegacyFile(path, size)
        if n_lines is None:
            n_lines = text.count(b"\n") + bool(text and not text.endswith(b"\n"))
        n = -(-n_lines // self._shape.height)
        if n > len(self._images):
            self._grow(2 * n)
        rasterize_into([text], self._images[:n], self._n_lines[:n])
        return LegacyFile(path, size, self._images[:n], self._n_lines[:n])


def staged_record(staged: StagedReader) -> LegacyRecord:
    """Return a record whose files are drawn from the staged text when needed."""
    row = staged.record
    return LegacyRecord(row["record_id"], row["metadata"], _files(staged))


def _files(staged: StagedReader) -> Iterator[LegacyFile]:
    canvas = Canvas(staged.shape)
    for row, text in staged:
        # An empty file is a text without lines: a key without segments.
        drawn = b"" if row["status"] == "empty" else text
        yield canvas.file(row["path"], drawn, size=row["size"], n_lines=row["n_lines"])
