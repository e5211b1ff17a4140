"""Compiled loops over UTF-8 bytes, in which most of the computing time is spent.

With Numba, a loop that visits each byte once is several times as fast as any combination of NumPy
calls (``benchmarks/rasterise.py`` compares them), and users need no compiler. The compiled code
is cached on disk. All kernels release the GIL and rely on valid, normalised input from the other
modules.

Positions are unsigned: a signed index may be negative, which Numba would check at every access,
and the compiler could not use vector instructions. The drawing loop takes three times as long with
signed positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zml_dask.compiled import compiled

_NEWLINE = 10
_RETURN = 13
_TAB = 9
_SPACE = 32
_ONE = np.uintp(1)  # with a plain 1, the sum of an unsigned number would be a float
TAB_WIDTH = 4


@compiled
def normalize(
    source: NDArray[np.uint8], target: NDArray[np.uint8], width: int
) -> tuple[int, int, int]:  # pragma: no cover - compiled
    r"""Copy UTF-8 `source` into `target` with ``\r\n``, ``\r`` -> ``\n`` and tab -> 4 spaces.

    Returns the bytes written, the number of lines, and of those longer than `width` characters.
    `target` must have ``4 * source.size`` bytes.
    """
    n = np.uintp(0)
    n_lines = 0
    n_cut = 0
    column = 0
    size = np.uintp(source.size)
    i = np.uintp(0)
    open_line = False
    while i < size:
        byte = source[i]
        i += _ONE
        if byte == _NEWLINE or byte == _RETURN:
            if byte == _RETURN and i < size and source[i] == _NEWLINE:
                i += _ONE
            target[n] = _NEWLINE
            n += _ONE
            n_lines += 1
            if column > width:
                n_cut += 1
            column = 0
            open_line = False
            continue
        open_line = True
        if byte == _TAB:
            for _ in range(TAB_WIDTH):
                target[n] = _SPACE
                n += _ONE
            column += TAB_WIDTH
            continue
        target[n] = byte
        n += _ONE
        if byte & 0xC0 != 0x80:  # not a UTF-8 continuation byte
            column += 1
    if open_line:
        n_lines += 1
        if column > width:
            n_cut += 1
    return int(n), n_lines, n_cut


@compiled
def count_lines(
    text: NDArray[np.uint8], width: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Count the lines of normalised UTF-8, and those longer than `width` characters."""
    n_lines = 0
    n_cut = 0
    start = np.uintp(0)
    size = np.uintp(text.size)
    while start < size:  # a final newline begins no further line
        end = start
        while end < size and text[end] != _NEWLINE:
            end += _ONE
        n_lines += 1
        if end - start > width:  # in bytes; only then is it worth counting characters
            column = 0
            for i in range(start, end):
                column += text[i] & 0xC0 != 0x80
            n_cut += column > width
        start = end + _ONE
    return n_lines, n_cut


@compiled
def _skip_line(
    text: NDArray[np.uint8], i: np.uintp, stop: np.uintp
) -> np.uintp:  # pragma: no cover - compiled
    """Return the start of the line after the one with byte `i`."""
    while i < stop and text[i] != _NEWLINE:
        i += _ONE
    return i + _ONE


@compiled
def _decode(
    text: NDArray[np.uint8], i: np.uintp
) -> tuple[np.uint32, np.uintp]:  # pragma: no cover - compiled
    """Return the code point whose UTF-8 begins at byte `i`, and the start of the next one."""
    lead = np.uint32(text[i])
    if lead < 0x80:
        return lead, i + _ONE
    more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
    point = lead & (0x3F >> more)
    for _ in range(more):
        i += _ONE
        point = point << 6 | text[i] & 0x3F
    return point, i + _ONE


@compiled
def _fill(row: NDArray[np.uint32], start: np.uintp) -> None:  # pragma: no cover - compiled
    """Fill a row with spaces, from a column to the end."""
    for column in range(start, np.uintp(row.size)):
        row[column] = _SPACE


@compiled
def _draw_line(
    text: NDArray[np.uint8], i: np.uintp, stop: np.uintp, row: NDArray[np.uint32]
) -> np.uintp:  # pragma: no cover - compiled
    """Draw the line that begins at byte `i` into `row`; return the start of the next line."""
    width = np.uintp(row.size)
    # Most lines are ASCII: find the end of the line, then widen it in one loop, for which the
    # compiler uses vector instructions.
    end = i
    limit = min(stop, i + width)
    seen = np.uint8(0)
    while end < limit and text[end] != _NEWLINE:
        seen |= text[end]
        end += _ONE
    if seen < 0x80:
        column = end - i
        for k in range(column):
            row[k] = text[i + k]
        i = end
    else:
        column = np.uintp(0)
        while column < width and i < stop and text[i] != _NEWLINE:
            row[column], i = _decode(text, i)
            column += _ONE
    _fill(row, column)
    return _skip_line(text, i, stop)


@compiled
def rasterize(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    skip: int,
    images: NDArray[np.uint32],
    n_lines: NDArray[np.uint8 | np.uint16],
) -> int:  # pragma: no cover - compiled
    """Draw the files ``text[starts[k]:stops[k]]`` one after another into `images`.

    The first `skip` images of the first file are left out. Drawing stops when `images` is full.
    Returns the number of images written, which are written completely.
    """
    capacity, height, _ = images.shape
    image = 0
    for k in range(starts.size):
        i = np.uintp(starts[k])
        stop = np.uintp(stops[k])
        if k == 0:
            for _ in range(skip * height):
                i = _skip_line(text, i, stop)
        row = 0
        while i < stop:
            if row == 0 and image == capacity:
                return image
            i = _draw_line(text, i, stop, images[image, row])
            row += 1
            if row == height:
                n_lines[image] = height
                image += 1
                row = 0
        if row > 0:
            n_lines[image] = row
            for blank in range(row, height):
                _fill(images[image, blank], np.uintp(0))
            image += 1
    return image


@compiled
def unrasterize(
    images: NDArray[np.uint32], n_lines: NDArray[np.int64], target: NDArray[np.uint32]
) -> int:  # pragma: no cover - compiled
    """Write the lines of `images` without trailing spaces, each ended by a newline.

    Returns the number of code points written; `target` must have the size
    ``images.shape[0] * height * (width + 1)``.
    """
    n = np.uintp(0)
    for image in range(images.shape[0]):
        for row in range(n_lines[image]):
            line = images[image, row]
            stop = np.uintp(line.size)
            while stop > 0 and line[stop - _ONE] == _SPACE:
                stop -= _ONE
            for column in range(stop):
                target[n + column] = line[column]
            n += stop
            target[n] = _NEWLINE
            n += _ONE
    return int(n)


@compiled
def copy_visible(
    source: NDArray[np.uint8], target: NDArray[np.uint8], width: int
) -> int:  # pragma: no cover - compiled
    """Copy lines, cut to `width` characters and without trailing spaces, each ended by a newline.

    Returns the bytes written; `target` must have ``source.size + 1``.
    """
    n = np.uintp(0)
    i = np.uintp(0)
    size = np.uintp(source.size)
    while i < size:
        start = i
        while i < size and source[i] != _NEWLINE:
            i += _ONE
        stop = i
        i += _ONE
        if stop - start > width:  # in bytes; only then is it worth counting characters
            column = 0
            j = start
            while j < stop:
                if source[j] & 0xC0 != 0x80:  # not a UTF-8 continuation byte
                    if column == width:
                        break
                    column += 1
                j += _ONE
            stop = j
        while stop > start and source[stop - _ONE] == _SPACE:
            stop -= _ONE
        for k in range(stop - start):
            target[n + k] = source[start + k]
        n += stop - start
        target[n] = _NEWLINE
        n += _ONE
    return int(n)
