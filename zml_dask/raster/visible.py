r"""What images give back of a text, found without drawing them.

Used to record, while a file is at hand, a hash that its images can later be held
to: ``to_text(*rasterize(text))`` and ``visible_text(settled)`` are the same.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from zml_dask.raster.text import WIDTH

_NEWLINE = 10
_SPACE = 32
_ONE = np.uintp(1)  # see `kernels` for why positions are unsigned


@njit(cache=True, nogil=True)
def _copy_visible(
    source: NDArray[np.uint8], target: NDArray[np.uint8], width: int
) -> int:  # pragma: no cover - compiled
    """Copy lines cut to `width` characters, without spaces at their end, each ended by a newline.

    Returns the bytes written; `target` must hold ``source.size + 1``.
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


def visible_text(settled: bytes, width: int = WIDTH) -> bytes:
    r"""Return what the images of a settled text show of it, as UTF-8.

    Parameters
    ----------
    settled : bytes
        UTF-8 with ``\n`` as the only line end and without tabs.
    width : int
        Characters a line holds.

    Returns
    -------
    bytes
        The lines, cut at `width` characters, without spaces at their end, each
        ended by ``\n``: what `raster.images.to_text` reads back.

    Examples
    --------
    >>> visible_text(b"ab  \ncdef", width=3)
    b'ab\ncde\n'
    """
    source = np.frombuffer(settled, np.uint8)
    target = np.empty(source.size + 1, np.uint8)
    return target[: _copy_visible(source, target, width)].tobytes()
