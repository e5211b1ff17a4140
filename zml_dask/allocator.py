"""The C library's allocator in Dask's workers: buffers that are used again are kept.

Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``, so that what pandas frees
goes back to the system at once. For a worker that encodes one chunk after another, each
in buffers of 1.6 MB, it means that every buffer is mapped and zeroed anew: encoding a
chunk takes twice the time, and a whole build half as long again.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

_DASK_TRIM_THRESHOLD: Final = "65536"
# From <malloc.h> of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Zstandard's own workspace at level 4 takes 5 MB.
_LARGEST_KEPT: Final = 8 * 1024 * 1024
_MOST_KEPT: Final = 16 * 1024 * 1024


@cache
def keep_freed_buffers() -> bool:
    """Undo Dask's own setting of the allocator, in this process, once; return whether it was set.

    At most 16 MiB stay with each of the allocator's arenas. A threshold that somebody set on
    purpose is left alone, and so is another C library than glibc.

    Examples
    --------
    >>> keep_freed_buffers() == keep_freed_buffers()  # once for each process
    True
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != _DASK_TRIM_THRESHOLD:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT))
        and bool(mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
    )
