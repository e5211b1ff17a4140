"""One record as the legacy writers take it, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zml_dask.raster.images import Images, n_lines_dtype, rasterize_into
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import StagedReader

LegacyFormat = Literal["pickle", "hdf5", "tree"]
"""``pickle``: ``images_<id>.pkl``; ``hdf5``: ``images_<id>.h5``; ``tree``: ``tree_<id>.json``."""

SEGMENT_DTYPE = np.dtype("<i8")
"""The type of the legacy segments."""


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A file of a record.

    Attributes
    ----------
    size : int or None
        Bytes of the file itself, for the tree.
    images : numpy.ndarray of uint32, shape (n, height, width), or None
        None where the file is not text: it is in the tree only.
    n_lines : numpy.ndarray of int, shape (n,), or None
    """

    path: str
    size: int | None = None
    images: Images | None = None
    n_lines: NDArray[np.integer[Any]] | None = None

    def segments(self) -> Iterable[Images]:
        """Yield each image without the rows that only pad it, uint32 (lines, width)."""
        if self.images is None or self.n_lines is None:
            return
        for image, lines in zip(self.images, self.n_lines.tolist(), strict=True):
            yield image[:lines]


@dataclass(frozen=True, slots=True)
class LegacyRecord:
    """A record: its files in path order, each path once, and its JSON as harvested.

    Attributes
    ----------
    metadata : str or None
        The hit as JSON text: the ``metadata`` column of the records table.
    files : iterable of LegacyFile
        May be a generator: one file is held at a time.
    """

    record_id: int
    metadata: str | None
    files: Iterable[LegacyFile]


class Canvas:
    r"""Draws files from their normalised text, as it is staged, into memory that is used again.

    The images of a file are valid until the next one is drawn: fresh memory for
    every file would cost more than drawing does.

    Parameters
    ----------
    shape : ImageShape, optional
        Size of the images.

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
        """Draw a file.

        Parameters
        ----------
        text : bytes or None
            Normalised UTF-8; None where the file is not text.
        size : int or None
            Bytes of the file itself.
        n_lines : int or None
            Lines of `text`, where they are counted already.
        """
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
    """Return a record that draws its files from the staged text as they are asked for."""
    row = staged.record
    return LegacyRecord(row["record_id"], row["metadata"], _files(staged))


def _files(staged: StagedReader) -> Iterator[LegacyFile]:
    canvas = Canvas(staged.shape)
    for row, text in staged:
        # An empty file is text without lines: a key without segments.
        drawn = b"" if row["status"] == "empty" else text
        yield canvas.file(row["path"], drawn, size=row["size"], n_lines=row["n_lines"])
