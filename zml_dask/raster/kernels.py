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
    capacity, height, width = images.shape
    image = 0
    for k in range(starts.size):
        i = starts[k]
        stop = stops[k]
        if k == 0 and skip > 0:
            passed = 0
            while i < stop and passed < skip * height:
                if text[i] == _NEWLINE:
                    passed += 1
                i += 1
        row = 0
        while i < stop:
            if row == 0 and image == capacity:
                return image
            column = 0
            while i < stop:
                byte = text[i]
                i += 1
                if byte < 0x80:
                    if byte == _NEWLINE:
                        break
                    point = np.uint32(byte)
                elif byte < 0xE0:
                    point = (np.uint32(byte & 0x1F) << 6) | np.uint32(text[i] & 0x3F)
                    i += 1
                elif byte < 0xF0:
                    point = (
                        (np.uint32(byte & 0x0F) << 12)
                        | (np.uint32(text[i] & 0x3F) << 6)
                        | np.uint32(text[i + 1] & 0x3F)
                    )
                    i += 2
                else:
                    point = (
                        (np.uint32(byte & 0x07) << 18)
                        | (np.uint32(text[i] & 0x3F) << 12)
                        | (np.uint32(text[i + 1] & 0x3F) << 6)
                        | np.uint32(text[i + 2] & 0x3F)
                    )
                    i += 3
                images[image, row, column] = point
                column += 1
                if column == width:
                    while i < stop and text[i] != _NEWLINE:
                        i += 1
                    i += 1
                    break
            for rest in range(column, width):
                images[image, row, rest] = _SPACE
            row += 1
            if row == height:
                n_lines[image] = height
                image += 1
                row = 0
        if row > 0:
            n_lines[image] = row
            for blank in range(row, height):
                for rest in range(width):
                    images[image, blank, rest] = _SPACE
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
