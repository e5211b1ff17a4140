"""One record as the first edition's writers take it, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zml_dask.raster.images import Images, rasterize_settled
from zml_dask.store.layout import ImageShape

LegacyFormat = Literal["pickle", "hdf5", "tree"]
"""``pickle``: ``images_<id>.pkl``; ``hdf5``: ``images_<id>.h5``; ``tree``: ``tree_<id>.json``."""

SEGMENT_DTYPE = np.dtype("<i8")
"""The type of the first edition's segments."""


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A file of a record.

    Attributes
    ----------
    path : str
    size : int or None
        Bytes of the file itself, for the tree.
    images : numpy.ndarray of uint32, shape (n, height, width), or None
        None where the file is not text: it is in the tree only.
    n_lines : numpy.ndarray of uint8 or uint16, shape (n,), or None
    """

    path: str
    size: int | None = None
    images: Images | None = None
    n_lines: NDArray[np.uint8 | np.uint16] | None = None

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
    record_id : int
    metadata : str or None
        The hit as JSON text: the ``metadata`` column of the records table.
    files : iterable of LegacyFile
        May be a generator: one file is held at a time.
    """

    record_id: int
    metadata: str | None
    files: Iterable[LegacyFile]


def file_from_text(
    path: str,
    text: bytes | None,
    *,
    size: int | None = None,
    n_lines: int | None = None,
    shape: ImageShape | None = None,
) -> LegacyFile:
    r"""Draw a file from its settled text, as it is staged.

    Parameters
    ----------
    path : str
    text : bytes or None
        Settled UTF-8; None where the file is not text.
    size : int or None
        Bytes of the file itself.
    n_lines : int or None
        Lines of `text`, where they are counted already.
    shape : ImageShape or None
        Size of the images; 80 by 80 where it is not given.

    Examples
    --------
    >>> [segment.shape for segment in file_from_text("a.py", b"x = 1\n" * 81).segments()]
    [(80, 80), (1, 80)]
    """
    if text is None:
        return LegacyFile(path, size)
    shape = shape or ImageShape()
    if n_lines is None:
        n_lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    images, counts = rasterize_settled(text, n_lines, shape.width, shape.height)
    return LegacyFile(path, size, images, counts)
