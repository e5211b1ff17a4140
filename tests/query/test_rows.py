"""Sets of rows against plain NumPy."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.query.rows import Rows, RowsBuilder
from zml_dask.store.local_storage import LocalStorage
from zml_dask.store.storage import Range, Storage


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks of up to three shards, dense, sparse or empty in places."""
    total = draw(st.integers(0, 10_000))
    mask = np.zeros(total, bool)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(total - 1, 0)))
        mask[start : start + draw(st.integers(1, 5000)) : draw(st.integers(1, 700))] = True
    return mask


@given(masks(), st.data())
def test_positions_are_those_of_the_mask(mask: np.ndarray, data: st.DataObject) -> None:
    rows = Rows.of_mask(mask)
    expected = np.flatnonzero(mask)
    assert len(rows) == expected.size
    np.testing.assert_array_equal(rows.mask(), mask)
    for chunk in (8, 64, 4096, 12, 1):
        size = math.lcm(chunk, 8)
        sums = np.add.reduceat(mask, np.arange(0, mask.size, size), dtype=int) if mask.size else []
        np.testing.assert_array_equal(rows.chunk_starts(chunk), [0, *np.cumsum(sums)])
    start = data.draw(st.integers(0, expected.size))
    stop = data.draw(st.integers(start, expected.size + 5))
    np.testing.assert_array_equal(rows.positions(start, stop), expected[start:stop])
    asked = np.array(data.draw(st.lists(st.integers(0, mask.size), max_size=9)), np.int64)
    np.testing.assert_array_equal(rows.rank(asked), np.searchsorted(expected, asked))
    places = np.flatnonzero(np.isin(expected, asked))[::-1]
    np.testing.assert_array_equal(rows.at(places), expected[places])
    kept = np.random.default_rng(mask.size).random(expected.size) < 0.5
    np.testing.assert_array_equal(rows.where(kept).positions(), expected[kept])


@given(st.integers(0, 5_000))
def test_all_rows_are_all(total: int) -> None:
    np.testing.assert_array_equal(Rows.all(total).bits, Rows.of_mask(np.ones(total, bool)).bits)


@settings(max_examples=20)
@given(st.data())
def test_rows_come_in_any_order_and_again(data: st.DataObject) -> None:
    total = 5 * 2**22 // 4  # two windows
    builder, mask = RowsBuilder(total), np.zeros(total, bool)
    for _ in range(data.draw(st.integers(0, 3))):
        first = data.draw(st.integers(0, total - 600))
        steps = data.draw(st.lists(st.integers(0, 2), max_size=300))
        rows = first + np.cumsum([0, *steps])
        rows = np.concatenate((rows, rows[::-3], [2**22 - 1, 2**22]))
        builder.add(np.random.default_rng(0).permutation(rows))
        mask[rows] = True
        counts = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=50)))
        begins = first + np.cumsum(counts) - counts
        builder.add_runs(begins[::-1], counts[::-1])
        builder.add_runs(begins, counts)
        mask[first : first + counts.sum()] = True
    np.testing.assert_array_equal(builder.finish().bits, np.packbits(mask))


def test_ranks_of_neighbours_take_no_memory_for_all_rows() -> None:
    rows = Rows.all(2**26)
    assert len(rows) == 2**26
    tracemalloc.start()
    try:
        assert rows.rank(np.array([2**25, 2**25 + 9])).tolist() == [2**25, 2**25 + 9]
        assert tracemalloc.get_traced_memory()[1] < rows.bits.nbytes / 100
    finally:
        tracemalloc.stop()


@given(masks(), st.integers(64, 5000))
def test_blocks_and_pieces_divide_no_chunk(mask: np.ndarray, limit: int) -> None:
    rows = Rows.of_mask(mask)
    positions = rows.positions()
    sizes = rows.block_sizes(limit)
    assert sum(sizes) == len(rows)
    edges = np.cumsum(sizes)[:-1]
    shard = math.lcm(limit, 8)  # a block begins with a byte
    assert (positions[edges - 1] // shard < positions[edges] // shard).all()
    start = 0
    while start < len(rows):
        piece = rows.piece(start, limit, 64)
        assert 0 < piece.size <= limit
        stop = start + piece.size
        np.testing.assert_array_equal(piece, positions[start:stop])
        assert stop == len(rows) or positions[stop - 1] // 64 < positions[stop] // 64
        start = stop


def test_a_commit_between_the_index_and_a_chunk_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last shard is replaced while it is read: the reader looks at its index again."""
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    ds = zml.open_dataset(tmp_path / "ds")
    expected = ds.images.compute()
    path = "images.zarr/images/c/0/0/0"
    good = storage.read(path)
    read_ranges = LocalStorage._read_ranges
    torn = [True]

    def racing(self: LocalStorage, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        found = list(read_ranges(self, ranges))
        for place, (name, start, _) in enumerate(ranges):
            if name == path and start >= 0 and torn and torn.pop():
                found[place] = bytes(reversed(found[place]))
        return found

    monkeypatch.setattr(LocalStorage, "_read_ranges", racing)
    np.testing.assert_array_equal(ds.images.compute(), expected)
    assert not torn
    assert storage.read(path) == good
