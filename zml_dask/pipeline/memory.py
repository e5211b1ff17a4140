"""What a worker needs at most, worked out from the limits before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

from dask.utils import format_bytes

from zml_dask.fetch.foreign import FOREIGN_MEMORY
from zml_dask.pipeline.options import BuildOptions
from zml_dask.store.layout import IMAGES

_INTERPRETER = 260 * 2**20
"""Python with NumPy, Numba, Arrow, Zarr and Dask, as measured on a worker at rest."""

_SPOOLS = 2 * 16 * 2**20
"""Text of a record and its compressed form, before either goes to scratch."""

_FETCH = 8 * 2**20
"""A download's pieces and a decompressor's window; archives themselves are on disk."""

_ROW = 1_500
"""Bytes that one file's row takes in memory while its record is sorted, at most."""

_PIXEL = 4


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a worker holds at once, at most.

    Attributes
    ----------
    record : int
        While it stages a record: text of the largest file in its several forms,
        what waits in memory before it goes to scratch, and the process beside it that
        reads 7z, RAR and the like.
    shard : int
        While it commits: the pixels of one shard and their compressed form.
    """

    record: int
    shard: int

    @property
    def worker(self) -> int:
        """What a worker must have: it does one or the other at a time."""
        return _INTERPRETER + max(self.record, self.shard)


def memory_need(options: BuildOptions, shard: int = IMAGES.shard) -> MemoryNeed:
    """Work out a worker's need from the limits, and from the images in a shard.

    Examples
    --------
    >>> need = memory_need(BuildOptions())
    >>> need.worker < 2**30
    True
    """
    # A file's bytes, decoded (up to four bytes a character), normalised (a tab
    # becomes four spaces), and as images: one line of one character fills 320 bytes.
    largest = options.limits.max_file_bytes
    lines = options.image.width * _PIXEL if options.export else 0
    file = largest * (1 + 4 + 4 + lines)
    record = file + FOREIGN_MEMORY + _SPOOLS + (1 + options.prefetch) * _FETCH + 65_536 * _ROW
    image = options.image.height * options.image.width * _PIXEL
    # One shard drawn, and its chunks encoded: source and codes barely shrink in
    # the worst case, which the quarter stands for.
    return MemoryNeed(record, shard * image * 5 // 4)


def memory_warning(need: MemoryNeed, limits: list[int]) -> str | None:
    """Say in one line where workers have less than they may need; None where it fits.

    Parameters
    ----------
    limits : list of int
        Bytes of each worker; 0 for no limit.

    Examples
    --------
    >>> memory_warning(memory_need(BuildOptions()), [2**32]) is None
    True
    """
    bounded = [limit for limit in limits if limit]
    if not bounded or min(bounded) >= need.worker:
        return None
    return (
        f"a worker may need {format_bytes(need.worker)} (a shard {format_bytes(need.shard)}, a "
        f"record {format_bytes(need.record)}) and the smallest has {format_bytes(min(bounded))}: "
        "records that do not fit will fail; use fewer, larger workers"
    )
