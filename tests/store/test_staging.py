"""Staging of records: order, packing, damage."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_builders import stage, staged_file

from zml_dask.errors import DatasetDamagedError
from zml_dask.raster.images import rasterize, to_text
from zml_dask.raster.text import visible_text
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import (
    FailureRow,
    RecordStager,
    StagedReader,
    StagingIndex,
    pack_records,
    stage_failure,
)
from zml_dask.store.staging.frames import Spool
from zml_dask.store.storage import Storage

TEXTS = st.text(st.characters(exclude_characters="\r\t", exclude_categories=["Cs"]))


@given(TEXTS, st.integers(1, 9))
def test_visible_text_is_what_the_images_give_back(text: str, width: int) -> None:
    assert visible_text(text.encode(), width).decode() == to_text(*rasterize(text, width=width))


@pytest.mark.parametrize("max_memory", [2**24, 0])
def test_files_come_out_in_path_order_with_their_text(tmp_path: Path, max_memory: int) -> None:
    storage = Storage.open(tmp_path / "ds")
    paths = [f"{name}.py" for name in ("b", "a/z", "a", "é", "z", "￿", "\U0001f600", "a.b/c")]
    files = [(path, f"text of {path}\n" * 100) for path in paths]
    staged = stage(storage, tmp_path / "scratch", 5, files, max_memory=max_memory)
    reader = StagedReader(storage, StagingIndex.load(storage).locate(0))
    # By code points; UTF-16 order would put U+1F600 before U+FFFF.
    assert [row["path"] for row, _ in reader] == sorted(paths)
    assert {row["path"]: text.decode() for row, text in reader if text} == dict(files)
    assert staged.n_images == 2 * len(paths) == sum(row["n_images"] for row, _ in reader)
    assert [text for _, text in reader][1].decode() == dict(files)[sorted(paths)[1]]
    assert not list((tmp_path / "scratch").glob("*")) if max_memory == 0 else True


def test_same_files_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    files = [(f"{i % 7}/{i}.c", f"int a{i};\n" * i) for i in range(300)]
    blobs = []
    for order in (files, files[::-1]):
        storage = Storage.open(tmp_path / str(len(blobs)))
        stage(storage, tmp_path, 1, order, max_memory=2**24 if not blobs else 1000)
        blobs.append(storage.read("staging/records/1"))
    assert blobs[0] == blobs[1]


def test_a_million_rows_wait_in_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zml_dask.store.staging.stager._ROWS_IN_MEMORY", 100)
    monkeypatch.setattr("zml_dask.store.staging.stager.ROW_FRAME_FILES", 30)
    storage = Storage.open(tmp_path / "ds")
    rng = np.random.default_rng(0)
    files = [(f"{i:04}.txt", "x\n" * (i % 90)) for i in rng.permutation(1000)]
    stage(storage, tmp_path, 1, files)
    reader = StagedReader(storage, StagingIndex.load(storage).locate(0))
    assert [row["path"] for row, _ in reader] == sorted(path for path, _ in files)
    assert len(list(reader)) == 1000
    # A few images out of the middle, across frames of rows.
    drawn = list(reader.draw_texts(100, 200))
    assert sum(text.n_images for text in drawn) == 100


def test_paths_that_no_table_can_hold_are_spelt_out(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    file, text = staged_file("a.py", "x\n")
    with RecordStager(tmp_path, 1, ImageShape()) as stager:
        stager.add(replace(file, path="bad-\udcff.py"), text)
        stager.finish(storage, {"title": "bad \udcff title", "keywords": ["\udc80"]})
    reader = StagedReader(storage, StagingIndex.load(storage).locate(0))
    assert [row["path"] for row, _ in reader] == ["bad-\\udcff.py"]
    assert reader.record["title"] == "bad \\udcff title"


def test_packing_keeps_records_and_failures_and_removes_the_singles(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    for record_id in (30, 10, 20):
        stage(storage, tmp_path, record_id, [("a.py", f"{record_id}\n")])
    stage_failure(storage, FailureRow(40, "fetch", "not_found", "gone", 1, True))
    stage_failure(storage, FailureRow(10, "fetch", "server_error", "before it worked", 1, False))
    before = StagingIndex.load(storage)
    pack_records(storage, "p1", [10, 30, 40])
    pack_records(storage, "p1", [20])
    assert pack_records(storage, "p1", [10, 20]) is None
    after = StagingIndex.load(storage)
    assert len(storage.list("staging")) == 2
    for index in (before, after):
        assert index.record_id.tolist() == [10, 20, 30]
        assert index.failures["record_id"].to_pylist() == [40]
        reader = StagedReader(storage, index.find(20)) if index is after else None
        assert reader is None or next(iter(reader))[1] == b"20\n"
    assert after.find(11) is None


@pytest.mark.parametrize("where", ["records/1", "packs"])
def test_a_torn_object_counts_as_not_staged(tmp_path: Path, where: str) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, [("a.py", "x\n")])
    stage(storage, tmp_path, 2, [("a.py", "y\n")])
    path = pack_records(storage, "p", [1, 2]) if where == "packs" else f"staging/{where}"
    storage.write(path, storage.read(path)[:-3])
    index = StagingIndex.load(storage)
    assert index.damaged == (path,)
    assert index.record_id.tolist() == ([] if where == "packs" else [2])


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, [("a.py", "x\n" * 200), ("b.py", "y\n")])
    good = storage.read("staging/records/1")

    def read() -> object:
        index = StagingIndex.load(storage)
        if index.damaged:
            raise DatasetDamagedError
        reader = StagedReader(storage, index.locate(0))
        return list(reader), reader.record, reader.trailer

    expected = read()
    seen = 0
    for position in range(len(good)):
        flipped = bytearray(good)
        flipped[position] ^= 0x10
        storage.write("staging/records/1", bytes(flipped), durable=False)
        try:
            assert read() == expected, position  # zstd's header has a bit without a meaning
        except DatasetDamagedError:
            seen += 1
    assert seen >= len(good) - 10


def test_what_waits_in_scratch_is_nobody_else_s(tmp_path: Path) -> None:
    """A disk of the node is shared with other users, and a token may be in a text."""
    old = os.umask(0)
    try:
        with Spool(tmp_path, max_memory=10) as spool:
            spool.append(bytes(100))
            assert spool.path is not None
            assert spool.path.stat().st_mode & 0o077 == 0
    finally:
        os.umask(old)
