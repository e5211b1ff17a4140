"""Segments of 2018 to the text that draws the same images, as far as there is one.

A dataset of ours is drawn from text, 80 lines an image. The first edition's
segments are such lines but for a few of its oddities; each of them is handled
here, and what is changed is said in a note that goes into the file's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import ZmlError
from zml_dask.raster.images import to_text
from zml_dask.store.layout import ImageShape

_NEWLINE = 10
_MAX_CODE_POINT = 0x10FFFF


class NotTextError(ZmlError):
    """A file's segments cannot have been drawn from lines of text."""


@dataclass(frozen=True, slots=True)
class RecoveredText:
    r"""The text of a file, from its segments.

    Attributes
    ----------
    text : bytes
        UTF-8; a line a row, without the spaces at its end.
    n_lines : int
    note : str or None
        What of the segments was changed; None where drawing `text` gives
        exactly these segments.
    """

    text: bytes
    n_lines: int
    note: str | None


def compact(segment: NDArray[Any]) -> NDArray[Any]:
    """Return a segment in the smallest type that holds it; others are left as they are.

    Examples
    --------
    >>> compact(np.full((1, 80), 32)).dtype.name, compact(np.full((1, 80), 0x1F600)).dtype.name
    ('uint8', 'uint32')
    """
    if segment.size == 0 or segment.dtype.kind not in "iu":
        return segment
    low, high = segment.min(), segment.max()
    if low < 0 or high > _MAX_CODE_POINT:
        return segment
    return segment.astype(np.uint8 if high < 256 else np.uint32)


def recover_text(
    segments: Sequence[NDArray[Any]], shape: ImageShape | None = None
) -> RecoveredText:
    r"""Read a file's segments as text.

    - An empty segment, which 2018 appended to a file whose lines are a multiple
      of 80, is no image and is left out.
    - A segment of fewer than 80 rows that is not the last one, which 2018 never
      wrote, is padded with blank lines to 80: its image stays the same.
    - A segment of more than 80 rows (2018 wrote a last line that stood alone
      as a row for each of its characters) goes on in the next image.
    - A row narrower than 80 is padded with spaces.

    Parameters
    ----------
    segments : sequence of numpy.ndarray, shape (lines, width)
    shape : ImageShape, optional
        Size of the images to draw.

    Raises
    ------
    NotTextError
        If a value is no code point, or a row is wider than an image or holds a
        newline.

    Examples
    --------
    >>> odd = [np.full((80, 80), 97), np.empty((0, 0))]
    >>> recover_text(odd).n_lines, recover_text(odd).note
    (80, '1 empty segment left out')
    """
    shape = shape or ImageShape()
    pieces: list[bytes] = []
    n_lines = n_empty = n_padded = n_tall = 0
    for number, segment in enumerate(segments):
        if segment.size == 0:
            n_empty += 1
            continue
        if n_lines % shape.height:  # the one before was too short
            blank = -n_lines % shape.height
            pieces.append(b"\n" * blank)
            n_lines += blank
            n_padded += 1
        rows = _rows(segment, number, shape.width)
        n_tall += len(rows) > shape.height
        pieces.append(to_text(rows[np.newaxis], [len(rows)]).encode("utf-8", "surrogatepass"))
        n_lines += len(rows)
    notes = [
        f"{count} {'segment' if count == 1 else 'segments'} {what}"
        for count, what in (
            (n_padded, f"padded with blank lines to {shape.height}"),
            (n_tall, f"of over {shape.height} rows divided"),
        )
        if count
    ]
    if n_empty:
        notes.insert(0, f"{n_empty} empty {'segment' if n_empty == 1 else 'segments'} left out")
    return RecoveredText(b"".join(pieces), n_lines, "; ".join(notes) or None)


def _rows(segment: NDArray[Any], number: int, width: int) -> NDArray[np.uint32]:
    """Return a segment as code points, (lines, width)."""
    if segment.ndim != 2 or segment.shape[1] > width:
        raise NotTextError(
            f"segment {number} has the shape {segment.shape}, and an image is {width} wide"
        )
    if segment.dtype.kind == "f" and np.array_equal(segment, np.trunc(segment)):
        segment = segment.astype(np.int64)  # as 2018's loader pads
    if segment.dtype.kind not in "iu" or segment.min() < 0 or segment.max() > _MAX_CODE_POINT:
        raise NotTextError(f"segment {number} holds values that are no code points")
    if (segment == _NEWLINE).any():
        raise NotTextError(f"segment {number} holds a newline within a row")
    rows = segment.astype(np.uint32)
    missing = width - segment.shape[1]
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=32) if missing else rows
