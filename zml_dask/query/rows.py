"""Which images of a dataset are selected: one bit per image, however they were chosen.

Ten million images take 1.25 MB, so that a selection can travel within a Dask
graph; ranges would take more wherever files are scattered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zml_dask.store.image_reader import ImageReader
from zml_dask.store.image_reader import Int64 as Int64
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    import dask.array as da

_WINDOW = 2**22
"""Rows whose mask is made at once, 4 MB; a multiple of eight."""

_AT_ONCE = 2**20
"""Rows that are put in order at once."""

_BLOCK = 4_096
"""Rows of which the selected ones are counted together; a multiple of eight."""


@dataclass(frozen=True)
class Rows:
    """A set of rows of ``images.zarr``, in ascending order, out of `total`.

    `bits` has one bit per row, the first in the highest place (`numpy.packbits`).

    Examples
    --------
    >>> rows = Rows.of_runs(np.array([2, 7]), np.array([3, 1]), total=10)
    >>> len(rows), rows.positions().tolist(), rows.positions(1, 3).tolist()
    (4, [2, 3, 4, 7], [3, 4])
    """

    bits: NDArray[np.uint8]
    total: int

    @classmethod
    def all(cls, total: int) -> Rows:
        """Every row."""
        bits = np.full(-(-total // 8), 0xFF, np.uint8)
        if total % 8:
            bits[-1] = 0xFF00 >> total % 8 & 0xFF
        return cls(bits, total)

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> Rows:
        """Rows where `mask`, of shape (total,), is true."""
        return cls(np.packbits(mask), mask.size)

    @classmethod
    def of_positions(cls, positions: Int64, total: int) -> Rows:
        """Rows of the given numbers, in any order."""
        builder = RowsBuilder(total)
        builder.add(positions)
        return builder.finish()

    @classmethod
    def of_runs(cls, first: Int64, count: Int64, total: int) -> Rows:
        """Runs of `count` rows from `first` on; runs do not overlap."""
        builder = RowsBuilder(total)
        builder.add_runs(first, count)
        return builder.finish()

    def __and__(self, other: Rows) -> Rows:
        return Rows(self.bits & other.bits, self.total)

    @cached_property
    def _starts(self) -> Int64:
        """How many rows are selected before each block."""
        return self._starts_of(_BLOCK)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def mask(self) -> NDArray[np.bool_]:
        """Whether each row is selected, bool, shape (total,)."""
        return np.unpackbits(self.bits, count=self.total).astype(np.bool_)

    def positions(self, start: int = 0, stop: int | None = None) -> Int64:
        """Numbers of the `start`-th to `stop`-th selected rows, ascending, int64."""
        stop = len(self) if stop is None else min(stop, len(self))
        if stop <= start:
            return np.empty(0, np.int64)
        low = int(np.searchsorted(self._starts, start, "right")) - 1
        high = int(np.searchsorted(self._starts, stop, "left"))
        bits = np.unpackbits(self.bits[low * (_BLOCK // 8) : high * (_BLOCK // 8)])
        found = np.flatnonzero(bits) + low * _BLOCK
        skipped = int(self._starts[low])
        return found[start - skipped : stop - skipped].astype(np.int64)

    def chunk_starts(self, chunk: int) -> Int64:
        """How many selected rows come before each chunk of `chunk` rows, and in all.

        Of chunks that a byte does not end with, several are taken for one.
        """
        return self._starts_of(math.lcm(chunk, 8))

    def _starts_of(self, size: int) -> Int64:
        """How many rows are selected before each `size` rows, a multiple of eight, and in all."""
        if not self.bits.size:
            return np.zeros(1, np.int64)
        bits, step = self.bits, size // 8
        if step % 8 == 0:  # eight bytes at a time
            bits = np.pad(bits, (0, -bits.size % 8)).view(np.uint64)
            step //= 8
        counts = np.bitwise_count(bits)
        if step > 1:
            counts = np.add.reduceat(counts, np.arange(0, counts.size, step), dtype=np.int64)
        return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def piece(self, start: int, limit: int, chunk: int) -> Int64:
        """Return up to `limit` rows from the `start`-th on, ending where a chunk ends."""
        found = self.positions(start, start + limit + 1)
        if found.size <= limit:
            return found
        # The next piece begins with the chunk of the first row over the limit.
        whole = int(np.searchsorted(found, found[limit] // chunk * chunk))
        return found[: whole or limit]

    def rank(self, rows: Int64) -> Int64:
        """Return how many selected rows come before each of some rows (at most `total`).

        Examples
        --------
        >>> Rows.of_positions(np.array([2, 4]), total=8).rank(np.array([2, 3, 8])).tolist()
        [0, 1, 2]
        """
        if not rows.size:
            return rows
        # Only between the least and the greatest: most callers ask for neighbours.
        block = int(rows.min()) // _BLOCK
        first = block * (_BLOCK // 8)
        byte, bit = np.divmod(rows - first * 8, 8)
        bits = np.append(self.bits[first : first + int(byte.max()) + 1], np.uint8(0))
        before = np.cumsum(np.bitwise_count(bits), dtype=np.int64) - np.bitwise_count(bits)
        within = np.bitwise_count(bits[byte] & ~(0xFF >> bit).astype(np.uint8))
        rank: Int64 = self._starts[block] + before[byte] + within
        return rank

    def block_sizes(self, shard: int) -> tuple[int, ...]:
        """Sizes of blocks of about a shard's rows that divide no shard.

        A Dask array cut so reads no chunk of the store twice.
        """
        if not len(self):
            return (0,)
        sizes: list[int] = []
        open_rows = 0
        for rows in np.diff(self.chunk_starts(shard)).tolist():
            if open_rows and open_rows + rows > shard:
                sizes.append(open_rows)
                open_rows = 0
            open_rows += rows
        return (*sizes, open_rows) if open_rows else tuple(sizes)


class RowsBuilder:
    """Collects rows that come in batches, out of `total`, in memory for their bits and one batch.

    Examples
    --------
    >>> builder = RowsBuilder(10)
    >>> builder.add(np.array([8, 1]))
    >>> builder.add_runs(np.array([4, 2]), np.array([2, 1]))
    >>> builder.finish().positions().tolist()
    [1, 2, 4, 5, 8]
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._bits = np.zeros(-(-total // 8), np.uint8)
        self._waiting: list[tuple[Int64, Int64]] = []
        self._n_waiting = 0

    def add(self, rows: Int64) -> None:
        """Add rows, in any order, also several times."""
        for at in range(0, rows.size, _AT_ONCE):
            ordered = np.sort(rows[at : at + _AT_ONCE])
            self.add_runs(ordered, (np.diff(ordered, append=-1) != 0).astype(np.int64))

    def add_runs(self, first: Int64, count: Int64) -> None:
        """Add runs of `count` rows from `first` on, in any order."""
        filled = count > 0
        first = first[filled].astype(np.int64)
        stop = first + count[filled]
        # Neighbours in one window are joined: in a table's order, few of 100,000 runs remain.
        is_new = (first[1:] != stop[:-1]) | (first[1:] // _WINDOW != first[:-1] // _WINDOW)
        self._waiting.append(
            (
                first[np.append(True, is_new)[: first.size]],
                stop[np.append(is_new, True)[: stop.size]],
            )
        )
        self._n_waiting += self._waiting[-1][0].size
        if self._n_waiting > _WINDOW:
            self._flush()

    def finish(self) -> Rows:
        """Return the rows."""
        self._flush()
        return Rows(self._bits, self._total)

    def _flush(self) -> None:
        if not self._waiting:
            return
        first, stops = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        self._waiting, self._n_waiting = [], 0
        order = np.argsort(first, kind="stable")
        begins, ends = first[order], stops[order]
        at = 0
        while at < begins.size:
            low = int(begins[at]) // _WINDOW * _WINDOW
            stop = int(np.searchsorted(begins, low + _WINDOW))
            size = -(-(int(ends[stop - 1]) - low) // 8) * 8
            steps = np.zeros(size + 1, np.int8)
            # Where one run ends and another begins, the two steps cancel.
            np.add.at(steps, begins[at:stop] - low, 1)
            np.add.at(steps, ends[at:stop] - low, -1)
            filled = np.packbits(np.cumsum(steps[:-1], dtype=np.int8).astype(np.bool_))
            self._bits[low // 8 : low // 8 + filled.size] |= filled
            at = stop


def lazy_images(snapshot: Snapshot, rows: Rows) -> da.Array:
    """Make a Dask array of some images; its blocks hold whole chunks of the store."""
    import dask.array as da  # here, since importing it takes as long as everything else

    import zml_dask.engine.activity  # noqa: F401 - resets Dask in forked processes

    shape = snapshot.info.shape
    array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        _SelectedImages(snapshot.images, rows, snapshot.token),
        chunks=(rows.block_sizes(snapshot.images.spec.shard), (shape.height,), (shape.width,)),
        asarray=False,
        meta=np.empty((0, 0, 0), np.uint32),
    )
    return array


class _SelectedImages:
    """The selected images as an array that reads when it is indexed, for Dask.

    `dataset` identifies the dataset in its state, since Dask computes equal
    keys once: of two arrays in one graph, or of one that a cluster holds.
    """

    def __init__(self, reader: ImageReader, rows: Rows, dataset: str) -> None:
        self._reader = reader
        self._rows = rows
        self._dataset = dataset
        self.shape = (len(rows), reader.info.shape.height, reader.info.shape.width)
        self.dtype = np.dtype(np.uint32)
        self.ndim = 3

    def __dask_tokenize__(self) -> Any:
        return type(self).__name__, self._dataset, self._rows.bits, self._rows.total

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        images = self._take(first)
        return images[(slice(None) if images.ndim == 3 else ..., *rest)]

    def _take(self, key: Any) -> NDArray[Any]:
        n = self.shape[0]
        if key is Ellipsis:
            key = slice(None)
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            if step == 1:
                return self._reader.read(self._rows.positions(start, stop))
            wanted = np.arange(start, stop, step)
        else:
            wanted = np.asarray(key)
            if wanted.dtype == np.bool_:
                wanted = np.flatnonzero(wanted)
        unique, inverse = np.unique(wanted, return_inverse=True)
        if not unique.size:
            return self._reader.read(np.empty(0, np.int64))
        low = int(unique[0])
        among = self._rows.positions(low, int(unique[-1]) + 1)
        return self._reader.read(among[unique - low])[inverse]
