"""Compiled loops over UTF-8 bytes: the hot path of the whole system.

Numba, because a loop that looks at each byte once beats every arrangement of
NumPy calls several times over (``benchmarks/rasterise.py`` compares them), and
needs no compiler on the user's machine. The compiled code is cached on disk.
All kernels release the GIL and take only valid, normalised input; the modules
beside this one see to that.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NEWLINE = 10
_RETURN = 13
_TAB = 9
_SPACE = 32
TAB_WIDTH = 4


@njit(cache=True, nogil=True)
def settle(
    source: NDArray[np.uint8], target: NDArray[np.uint8], width: int
) -> tuple[int, int, int]:  # pragma: no cover - compiled
    r"""Copy UTF-8 `source` into `target` with ``\r\n``, ``\r`` -> ``\n`` and tab -> 4 spaces.

    Returns the bytes written, the number of lines, and how many are longer
    than `width` characters. `target` must hold ``4 * source.size`` bytes.
    """
    n = 0
    n_lines = 0
    n_cut = 0
    column = 0
    size = source.size
    i = 0
    open_line = False
    while i < size:
        byte = source[i]
        i += 1
        if byte == _NEWLINE or byte == _RETURN:
            if byte == _RETURN and i < size and source[i] == _NEWLINE:
                i += 1
            target[n] = _NEWLINE
            n += 1
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
                n += 1
            column += TAB_WIDTH
            continue
        target[n] = byte
        n += 1
        if byte & 0xC0 != 0x80:  # not a UTF-8 continuation byte
            column += 1
    if open_line:
        n_lines += 1
        if column > width:
            n_cut += 1
    return n, n_lines, n_cut


@njit(cache=True, nogil=True)
def count_lines(
    settled: NDArray[np.uint8], width: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Count the lines of settled UTF-8, and those longer than `width` characters."""
    n_lines = 0
    n_cut = 0
    start = 0
    size = settled.size
    for i in range(size + 1):
        if i < size and settled[i] != _NEWLINE:
            continue
        if i == size and start == size:
            break  # a final newline opens no further line
        n_lines += 1
        if i - start > width:  # in bytes; only then is it worth counting characters
            column = 0
            for j in range(start, i):
                column += settled[j] & 0xC0 != 0x80
            n_cut += column > width
        start = i + 1
    return n_lines, n_cut


@njit(cache=True, nogil=True)
def _skip_line(text: NDArray[np.uint8], i: int, stop: int) -> int:  # pragma: no cover - compiled
    """Return where the line after the one that holds byte `i` begins."""
    while i < stop and text[i] != _NEWLINE:
        i += 1
    return i + 1


@njit(cache=True, nogil=True)
def _decode(
    text: NDArray[np.uint8], i: int
) -> tuple[np.uint32, int]:  # pragma: no cover - compiled
    """Return the code point whose UTF-8 begins at byte `i`, and where the next one begins."""
    lead = np.uint32(text[i])
    if lead < 0x80:
        return lead, i + 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | text[i + 1] & 0x3F, i + 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (text[i + 1] & 0x3F) << 6 | text[i + 2] & 0x3F, i + 3
    return (
        (lead & 0x07) << 18
        | (text[i + 1] & 0x3F) << 12
        | (text[i + 2] & 0x3F) << 6
        | text[i + 3] & 0x3F
    ), i + 4


@njit(cache=True, nogil=True)
def _draw_line(
    text: NDArray[np.uint8], i: int, stop: int, row: NDArray[np.uint32]
) -> int:  # pragma: no cover - compiled
    """Draw the line that begins at byte `i` into `row`; return where the next one begins."""
    width = row.size
    # Most lines are ASCII: find the line's end, then widen it in one loop that
    # the compiler turns into vector instructions.
    end = i
    limit = min(stop, i + width)
    seen = np.uint8(0)
    while end < limit and text[end] != _NEWLINE:
        seen |= text[end]
        end += 1
    if seen < 0x80:
        column = end - i
        for k in range(column):
            row[k] = text[i + k]
        i = end
    else:
        column = 0
        while column < width and i < stop and text[i] != _NEWLINE:
            row[column], i = _decode(text, i)
            column += 1
    for rest in range(column, width):
        row[rest] = _SPACE
    return _skip_line(text, i, stop)


@njit(cache=True, nogil=True)
def draw(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    skip: int,
    images: NDArray[np.uint32],
    n_lines: NDArray[np.uint8 | np.uint16],
) -> int:  # pragma: no cover - compiled
    """Draw the files ``text[starts[k]:stops[k]]`` one after another into `images`.

    The first `skip` images of the first file are passed over. Drawing stops
    when `images` is full. Every pixel of a drawn image is written; images that
    are not reached are left alone. Returns the number of images drawn.
    """
    capacity, height, _ = images.shape
    image = 0
    for k in range(starts.size):
        i = starts[k]
        stop = stops[k]
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
            images[image, row:] = _SPACE
            image += 1
    return image


@njit(cache=True, nogil=True)
def undraw(
    images: NDArray[np.uint32], n_lines: NDArray[np.int64], target: NDArray[np.uint32]
) -> int:  # pragma: no cover - compiled
    """Write the lines of `images` without trailing spaces, each ended by a newline.

    Returns the number of code points written; `target` must hold
    ``images.shape[0] * height * (width + 1)``.
    """
    n = 0
    width = images.shape[2]
    for image in range(images.shape[0]):
        for row in range(n_lines[image]):
            stop = width
            while stop > 0 and images[image, row, stop - 1] == _SPACE:
                stop -= 1
            for column in range(stop):
                target[n] = images[image, row, column]
                n += 1
            target[n] = _NEWLINE
            n += 1
    return n
