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

AT_ONCE = 2**20
"""Rows, of images or of files, that are handled at once."""

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
        blocks = rows // _BLOCK
        _, places, bits = self._touched(blocks)
        byte, bit = np.divmod(rows % _BLOCK, 8)
        before = np.zeros((len(bits), _BLOCK // 8), np.int16)
        np.cumsum(np.bitwise_count(bits[:, :-1]), axis=1, out=before[:, 1:])
        within = np.bitwise_count(bits[places, byte] & ~(0xFF >> bit).astype(np.uint8))
        rank: Int64 = self._starts[blocks] + before[places, byte] + within
        return rank

    def at(self, places: Int64) -> Int64:
        """Return the numbers of the selected rows at some places among them, in any order.

        Examples
        --------
        >>> Rows.of_positions(np.array([2, 4]), total=8).at(np.array([1, 0])).tolist()
        [4, 2]
        """
        blocks = np.searchsorted(self._starts, places, "right") - 1
        numbers, own, bits = self._touched(blocks)
        found = np.flatnonzero(np.unpackbits(bits))
        sizes = np.diff(self._starts)[numbers]
        block, row = np.divmod(
            found[(np.cumsum(sizes) - sizes)[own] + places - self._starts[blocks]], _BLOCK
        )
        rows: Int64 = numbers[block] * _BLOCK + row
        return rows

    def _touched(self, blocks: Int64) -> tuple[Int64, Int64, NDArray[np.uint8]]:
        """Return the different blocks, the place of each given one among them, and their bits."""
        is_touched = np.zeros(self._starts.size, np.bool_)
        is_touched[blocks] = True
        numbers = np.flatnonzero(is_touched)
        whole, rest = divmod(self.bits.size, _BLOCK // 8)
        n = int(np.searchsorted(numbers, whole))
        bits = np.zeros((numbers.size, _BLOCK // 8), np.uint8)
        bits[:n] = self.bits[: self.bits.size - rest].reshape(whole, _BLOCK // 8)[numbers[:n]]
        bits[n:, :rest] = self.bits[self.bits.size - rest :]
        return numbers, np.searchsorted(numbers, blocks), bits

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """Return those of these rows for which `mask`, of shape (len(self),), is true."""
        builder = RowsBuilder(self.total)
        for start in range(0, len(self), AT_ONCE):
            several = slice(start, start + AT_ONCE)
            builder.add(self.positions(several.start, several.stop)[mask[several]])
        return builder.finish()

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
        for at in range(0, rows.size, AT_ONCE):
            some = rows[at : at + AT_ONCE]
            np.bitwise_or.at(self._bits, some >> 3, (0x80 >> (some & 7)).astype(np.uint8))

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
        if not self._n_waiting:
            return
        first, stops = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        self._waiting, self._n_waiting = [], 0
        order = np.argsort(first, kind="stable")
        begins, ends = first[order], np.maximum.accumulate(stops[order])
        apart = begins[1:] >= ends[:-1]  # of those that overlap, the first and the last end stay
        begins, ends = begins[np.append(True, apart)], ends[np.append(apart, True)]
        at = 0
        while at < begins.size:
            low = int(begins[at]) // _WINDOW * _WINDOW
            stop = int(np.searchsorted(begins, low + _WINDOW))
            size = -(-(int(ends[stop - 1]) - low) // 8) * 8
            steps = np.zeros(size + 1, np.int8)
            # Where one run ends and another begins, the two steps cancel.
            steps[begins[at:stop] - low] += 1
            steps[ends[at:stop] - low] -= 1
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
        return self._reader.read(self._rows.at(unique))[inverse]
