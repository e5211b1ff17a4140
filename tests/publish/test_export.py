"""A dataset or a selection in other tools' forms, read back by those tools."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pytest
import webdataset
from dataset_builders import stage_record, write_dataset
from PIL import Image

import zml_dask as zml
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.errors import UsageError
from zml_dask.publish import training
from zml_dask.publish.export import FORMATS, ExportOptions, export
from zml_dask.publish.png import PngOptions
from zml_dask.publish.training import SCHEMA
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import cut
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw

Run = Callable[..., tuple[int, str, str]]
WHERE = "language == 'Fortran' and record_id > 10"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    withdraw(write_dataset(Storage.open(folder / "zml"), folder), [30], "asked for")
    return folder / "zml"


@pytest.fixture
def view(dataset: Path) -> Dataset:
    return zml.open_dataset(dataset).select(WHERE)


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parquet_is_read_by_duckdb_polars_and_pandas(
    run: Run, dataset: Path, view: Dataset, tmp_path: Path
) -> None:
    status, out, _ = run("export", dataset, tmp_path, "--format", "parquet", "--where", WHERE)
    assert (status, out) == (0, f"{tmp_path}: {len(view.files)} files in 1 part\n")
    rows = pd.read_parquet(tmp_path)
    assert list(rows.columns) == SCHEMA.names
    assert set(rows["record_id"]) == {20, 40}, "30 was withdrawn"
    for row in rows.to_dict("records"):
        assert row["text"] == view.text(row["file_id"])
    expected = view.read("path", "sha256", "license", "title", "n_cut")
    pd.testing.assert_frame_equal(rows[[*expected.columns]], expected, check_dtype=False)
    mit = duckdb.sql(f"select sum(length(text)) from '{tmp_path}/*.parquet' where license = 'mit'")
    frame = polars.read_parquet(f"{tmp_path}/*.parquet")
    lengths = frame.filter(polars.col("license") == "mit")["text"].str.len_chars()
    assert mit.fetchall() == [(lengths.sum(),)]
    assert frame.schema["publication_date"] == polars.Date
    assert frame.schema["keywords"] == polars.List(polars.String)


def test_every_file_is_in_it_and_what_is_not_text_has_none(dataset: Path, tmp_path: Path) -> None:
    whole = zml.open_dataset(dataset)
    whole.export(tmp_path, "parquet")
    rows = pd.read_parquet(tmp_path)
    assert rows["file_id"].tolist() == whole.files["file_id"].tolist()
    texts = rows.set_index("path")["text"]
    assert texts["logo.gif"].isna().all()
    assert (texts["empty.py"] == "").all()
    assert (texts["é/u.py"] == "naïve = '\N{SNOWMAN}'\n" * 90).all()


def test_a_file_is_no_folder_to_export_into(view: Dataset, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="x is a file; give a folder"):
        view.export(tmp_path / "x", "parquet")
    with pytest.raises(UsageError, match="squashfs is written into a local folder"):
        view.export("memory://x", "squashfs")


def test_parts_are_bounded_and_do_not_depend_on_the_workers(
    view: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_OBJECT_BYTES", 10_000)
    monkeypatch.setattr(training, "_GROUP_BYTES", 4_000)
    monkeypatch.setattr(training, "cut", lambda view, **_: cut(view, records=1))
    for form, suffix in (("parquet", "parquet"), ("webdataset", "tar")):
        view.export(tmp_path / "one" / form, form)
        export(view, tmp_path / "two" / form, [form], executor=ThreadsExecutor(3))
        assert digests(tmp_path / "one" / form) == digests(tmp_path / "two" / form)
        names = sorted(digests(tmp_path / "one" / form))
        assert len(names) == 4 if form == "parquet" else len(names) > 4
        assert all(name.endswith(suffix) for name in names)
    rows = pd.read_parquet(tmp_path / "one" / "parquet").sort_values("file_id")
    assert rows["file_id"].tolist() == view.files["file_id"].tolist()
    part = max((tmp_path / "one" / "parquet").iterdir(), key=lambda path: path.stat().st_size)
    assert pd.read_parquet(part)["text"].str.len().sum() < 30_000
    view.export(tmp_path / "one" / "parquet", "parquet")  # again: the same names
    assert sorted(path.name for path in (tmp_path / "one" / "parquet").iterdir()) == sorted(
        digests(tmp_path / "two" / "parquet")
    )


@pytest.mark.parametrize(("image", "depth"), [("npy", 8), ("png", 8), ("png", 16)])
def test_webdataset_is_read_by_its_library(
    dataset: Path, tmp_path: Path, image: str, depth: int
) -> None:
    view = zml.open_dataset(dataset).select("record_id = 40 and status = 'ok'")
    options = ExportOptions(image=image, png=PngOptions(depth=depth))
    [line] = export(view, tmp_path, ["webdataset"], options)
    snowman = 0x2603
    assert ("clipped" in line) == (image == "png" and depth == 8)
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    open_png = webdataset.handle_extension("png", lambda data: Image.open(io.BytesIO(data)))
    pipeline = webdataset.WebDataset(shards, shardshuffle=False).decode(open_png)
    found = list(pipeline.to_tuple("__key__", image, "txt", "json"))
    assert len(found) == len(view)
    expected = view.images.compute()
    for (key, pixels, text, said), original in zip(found, expected, strict=True):
        assert key == f"{said['record_id']}_{said['file_id']}_{said['segment']}"
        largest = {"npy8": 2**32 - 1, "png8": 255, "png16": 65535}[f"{image}{depth}"]
        assert np.array_equal(np.asarray(pixels), np.minimum(original, largest))
        lines = view.text(said["file_id"]).split("\n")[80 * said["segment"] :][: said["n_lines"]]
        assert text == "".join(f"{line}\n" for line in lines)
        assert said["license"] == "mit"
    assert expected.max() == snowman


def test_single_images_are_exported_as_they_were_chosen(dataset: Path, tmp_path: Path) -> None:
    view = zml.open_dataset(dataset).select("segment = 1 and record_id = 10")
    export(view, tmp_path, ["webdataset", "png"])
    [shard] = tmp_path.glob("*.tar")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    assert len(names) == 3 * len(view)
    assert {name.partition(".")[0].rpartition("_")[2] for name in names} == {"1"}
    assert len(list(tmp_path.rglob("*.png"))) == len(view)
    for name in set(FORMATS) - {"webdataset", "png", "croissant", "atlas"}:
        with pytest.raises(UsageError, match="single images"):
            export(view, tmp_path / "whole", [name])


def test_pickles_of_a_selection(run: Run, dataset: Path, view: Dataset, tmp_path: Path) -> None:
    assert run("export", dataset, tmp_path, "--format", "pickle,hdf5", "--where", WHERE)[0] == 0
    found = {
        path: segments
        for file in tmp_path.rglob("images_*.pkl")
        for path, segments in pickle.loads(file.read_bytes()).items()
    }
    files = view.files
    assert set(found) == set(files["path"])
    assert sum(map(len, found.values())) <= len(view)
    assert {path.name for path in tmp_path.iterdir()} == {"20", "40", ".of-selection"}
    # What another selection wrote is not taken for this one.
    other = "record_id = 20 and language = 'C'"
    assert run("export", dataset, tmp_path, "--format", "pickle", "--where", other)[0] == 0
    paths = pickle.loads((tmp_path / "20" / "images_20.pkl").read_bytes())
    assert {path.rpartition(".")[2] for path in paths} == {"c"}


def test_a_dataset_and_pngs_of_a_selection(
    run: Run, dataset: Path, view: Dataset, tmp_path: Path
) -> None:
    formats = ("--format", "dataset", "--where", WHERE)
    status, out, _ = run("export", dataset, tmp_path / "some", *formats)
    assert (status, out.count("a dataset of 2 records")) == (0, 1)
    assert run("verify", tmp_path / "some", "--deep")[0] == 0
    assert len(zml.open_dataset(tmp_path / "some")) == len(view)
    view.export(tmp_path / "png", "png", png=PngOptions(by="language"))
    assert len(list((tmp_path / "png" / "Fortran").iterdir())) == len(view)


@pytest.mark.skipif(
    subprocess.run(["which", "mksquashfs"], capture_output=True, check=False).returncode != 0,
    reason="needs squashfs-tools",
)
def test_a_squashfs_image_of_a_selection(view: Dataset, tmp_path: Path) -> None:
    from PySquashfsImage import SquashFsImage

    view.export(tmp_path / "some.sqsh", "squashfs")
    with SquashFsImage.from_file(str(tmp_path / "some.sqsh")) as image:
        assert {file.path.split("/")[1] for file in image if file.is_file} == {"20", "40"}


def test_what_cannot_be_is_refused(run: Run, dataset: Path, view: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whole dataset"):
        view.export(tmp_path, "croissant")
    with pytest.raises(UsageError, match="the dataset itself"):
        view.export(dataset, "parquet")
    (tmp_path / "old.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="would mix"):
        view.export(tmp_path, "parquet")
    status, _, err = run("export", dataset, tmp_path, "--format", "png", "--where", "langage = 1")
    assert (status, "langage" in err) == (2, True)


def test_without_the_library_to_huggingface_says_what_to_install(
    view: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'zml-dask\[huggingface\]'"):
        view.to_huggingface()


def test_the_library_datasets_reads_both(
    view: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    view.export(tmp_path / "out", "parquet")
    loaded = datasets.load_dataset(
        "parquet",
        data_files=f"{tmp_path}/out/*.parquet",
        split="train",
        cache_dir=str(tmp_path / "loaded"),
    )
    direct = view.to_huggingface()
    assert loaded.column_names == direct.column_names == SCHEMA.names
    assert list(loaded) == list(direct)
    again = zml.open_dataset(view.url).select(WHERE).to_huggingface()
    assert again.cache_files == direct.cache_files, "what is in the cache is not written anew"
    assert loaded["path"][:] == view.files["path"].tolist()
    assert loaded[0]["text"] == view.text(loaded[0]["file_id"])


def test_a_cluster_writes_the_same(run: Run, dataset: Path, view: Dataset, tmp_path: Path) -> None:
    chosen = ("--where", WHERE, "--workers", "2", "--dashboard", "off")
    for form in ("dataset", "parquet", "webdataset", "pickle"):
        status, _, err = run("export", dataset, tmp_path / form, "--format", form, *chosen)
        assert status == 0, err
        view.export(tmp_path / "here" / form, form)
        found, expected = digests(tmp_path / form), digests(tmp_path / "here" / form)
        assert found == expected, form
    alone = ("--format", "croissant", "--workers", "2")
    status, _, err = run("export", dataset, tmp_path / "croissant", *alone)
    assert (status, err.count("note: one process writes croissant")) == (0, 1)


@pytest.mark.parametrize(
    "form", sorted({*FORMATS, "to_huggingface", "to_torch"} - {"dataset", "croissant"})
)
def test_nothing_is_not_exported(dataset: Path, tmp_path: Path, form: str) -> None:
    whole = zml.open_dataset(dataset)

    def export_to(view: Dataset) -> None:
        if form.startswith("to_"):
            getattr(view, form)()
        else:
            view.export(tmp_path / "out", form)

    with pytest.raises(UsageError, match=r"nothing to .*; no file has language .*mean 'Python'"):
        export_to(whole.select("language = 'python'"))
    if form in ("png", "webdataset", "to_torch"):
        with pytest.raises(UsageError, match=r"no images; none of its \d+ files has text"):
            export_to(whole.select("n_images = 0"))
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_records_without_files_has_no_rows_to_write(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "zml")
    stage_record(storage, tmp_path, 1, [], {})
    commit(storage)
    whole = zml.open_dataset(tmp_path / "zml")
    with pytest.raises(UsageError, match=r"nothing to export: the dataset has no files$"):
        whole.export(tmp_path / "out", "parquet")
    whole.export(tmp_path / "out", "pickle")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1"]
