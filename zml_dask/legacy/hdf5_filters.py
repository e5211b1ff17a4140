"""HDF5's filters "shuffle" and "deflate", as they make a chunk of a segment.

Done here and not by the library: isal deflates several times as fast as the zlib
within it, and pixels that are code points need no pass over eight bytes each.
"""

from __future__ import annotations

import numpy as np
from isal import isal_zlib
from numba import njit
from numpy.typing import NDArray

from zml_dask.legacy.record import SEGMENT_DTYPE
from zml_dask.raster.images import Images

DEFLATE_LEVEL = 1


class ChunkEncoder:
    """Turns segments into chunks, in memory that is used again.

    Examples
    --------
    >>> import zlib
    >>> chunk = ChunkEncoder().encode(np.array([[0x41, 0x20AC]], np.uint32))
    >>> zlib.decompress(chunk).hex(" ", 2)
    '41ac 0020 0000 0000 0000 0000 0000 0000'
    """

    def __init__(self) -> None:
        self._shuffled = np.empty(0, np.uint8)

    def encode(self, segment: Images) -> bytes:
        """Return the bytes of the chunk that is the whole of a segment as int64.

        Parameters
        ----------
        segment : numpy.ndarray of uint32, shape (lines, width)
        """
        size = segment.size * SEGMENT_DTYPE.itemsize
        if len(self._shuffled) < size:
            self._shuffled = np.empty(size, np.uint8)
        shuffled = self._shuffled[:size]
        _shuffle(segment.reshape(-1), shuffled)
        return isal_zlib.compress(shuffled, DEFLATE_LEVEL)


@njit(cache=True, nogil=True)
def _shuffle(
    pixels: NDArray[np.uint32], shuffled: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """Write the lowest bytes of all pixels, then the next ones, up to the eighth of an int64.

    Code points have three bytes; the rest is zero.
    """
    n = np.uintp(pixels.size)
    for i in range(n):
        pixel = pixels[i]
        shuffled[i] = pixel
        shuffled[n + i] = pixel >> 8
        shuffled[n + n + i] = pixel >> 16
    for i in range(n + n + n, np.uintp(shuffled.size)):
        shuffled[i] = 0
