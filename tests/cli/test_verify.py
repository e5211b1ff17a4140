"""``zml-dask verify`` from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from zml_dask.cli.main import main
from zml_dask.legacy.record_files import export_record, legacy_record
from zml_dask.raster.text import normalize_text
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging import RecordStager, StagedFile
from zml_dask.store.storage import Storage


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path / "ds")
    with RecordStager(tmp_path, 1, ImageShape()) as stager:
        text = normalize_text(b"x = 1\n")
        row = ("a\x1b[31m.py", "a.py", "py", "Python", "programming", 6, "0", "ascii", "ok", None)
        stager.add(StagedFile(*row, text.n_lines, text.n_cut), text.text)
        stager.finish(storage, {"title": "x"})
    commit(storage)
    return storage


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *words])
    return int(ended.value.code or 0)


def test_says_ok_and_exits_0(dataset: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    # What a derived table or a repack that ended leaves behind is nothing to commit.
    Path(dataset.url, "staging", "derived", "lines").mkdir(parents=True)
    assert run(dataset.url, "--deep") == 0
    out = capsys.readouterr().out
    assert out.startswith("ok: ")
    assert "1 texts" in out
    assert "staged" not in out


def test_says_what_is_wrong_and_exits_1(
    dataset: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "images.zarr/segment/c/0"
    good = dataset.read(path)
    dataset.write(path, good[:-1])
    assert run(dataset.url, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem["path"] for problem in report["problems"]] == [path]
    assert run(dataset.url) == 1
    assert f"damaged: {path}: its bytes do not fit" in capsys.readouterr().out
    assert run(dataset.url, "--repair") == 0
    assert f"repaired: {path}" in capsys.readouterr().out
    assert dataset.read(path) == good
    assert not dataset.exists("build.lock")
    dataset.remove([path, "images.zarr/zarr.json"])
    assert run(dataset.url, "--repair") == 0
    assert dataset.read(path) == good
    # What only a fetch could bring back, from a server that is not there.
    dataset.write("images.zarr/images/c/0/0/0", b"x")
    assert run(dataset.url, "--repair") == 1
    assert "images.zarr/images/c/0/0/0" in capsys.readouterr().out


def test_a_missing_dataset_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path / "none")) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "holds no dataset" in captured.err


def test_exports_are_held_to_the_dataset(
    dataset: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = legacy_record(Snapshot.open(dataset), 1)
    export_record(record, dataset, ("pickle", "hdf5"), scratch=tmp_path)
    dataset.write("legacy/77/images_77.pkl", b"of nobody")
    paths = dataset.list("legacy/1")
    assert len(paths) == 3
    assert run(dataset.url) == 0
    assert "legacy/77 belongs to no visible record" in capsys.readouterr().out
    for path in paths:
        good = dataset.read(path)
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 4
        dataset.write(path, bytes(flipped))
        assert run(dataset.url) == 1
        assert f"damaged: {path}: not what the dataset gives" in capsys.readouterr().out
        assert run(dataset.url, "--repair") == 0
        assert dataset.read(path) == good
    dataset.remove(paths[-1])
    assert run(dataset.url) == 1
    assert "missing: " in capsys.readouterr().out


def test_an_hdf5_file_of_another_version_is_sound(
    dataset: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = legacy_record(Snapshot.open(dataset), 1)
    export_record(record, dataset, ("hdf5",), scratch=tmp_path)
    path = "legacy/1/images_1.h5"
    newer = dataset.read(path)
    with h5py.File(io.BytesIO(newer)) as file:
        content = {name: file[name][()] for name in file}
    dataset.write(path, rewritten(content))
    older = dataset.read(path)
    assert older != newer
    assert run(dataset.url) == 0
    assert "1 HDF5 files of another version" in capsys.readouterr().out
    assert run(dataset.url, "--repair") == 0
    assert dataset.read(path) == older
    (name,) = content
    pixel = content[name].copy()
    pixel[0, 0] += 1
    for wrong in (
        {name: pixel},
        {name: content[name].astype(np.int32)},
        {name: content[name][:, :79]},
        {"b.py__0": content[name]},
        {name: content[name], "b.py__0": content[name]},
        {name: content[name], f"{name[:-1]}1": content[name]},
        {},
        older[:-1],
        b"",
    ):
        dataset.write(path, rewritten(wrong) if isinstance(wrong, dict) else wrong)
        assert run(dataset.url) == 1
        assert f"damaged: {path}: not what the dataset gives" in capsys.readouterr().out
    assert run(dataset.url, "--repair") == 0
    assert dataset.read(path) == newer


def rewritten(content: dict[str, NDArray[Any]]) -> bytes:
    """An HDF5 file of the same arrays, as h5py alone writes it."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, segment in content.items():
            file.create_dataset(name, data=segment, compression="gzip", shuffle=True)
    return stream.getvalue()
