"""``zml-dask export`` and ``import-legacy``, and the export in a build's own pass."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Sandbox

from zml_dask import parse_record, process
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.process import row_of_hit
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.store.commit import commit
from zml_dask.store.info import read_info
from zml_dask.store.storage import Storage

from .test_import import write_2018

Run = Callable[..., tuple[int, str, str]]


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_pickles_hdf5_and_trees(run: Run, dataset: Path, tmp_path: Path) -> None:
    status, out, _ = run("export", dataset, tmp_path / "out", "--format", "pickle,hdf5,tree")
    assert status == 0
    assert out.startswith(f"{tmp_path / 'out'}: 5 records, ")
    assert len(contents(tmp_path / "out")) == 20
    status, out, _ = run("export", dataset, tmp_path / "out", "--format", "pickle")
    assert (status, out.endswith(": 0 records, 0 images, 5 were there already\n")) == (0, True)


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools")
def test_one_squashfs_image(run: Run, dataset: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "out", tmp_path / "named.sqsh"):
        status, out, _ = run("export", dataset, target, "--format", "squashfs")
        assert status == 0
        assert " bytes, md5 " in out
    image = (tmp_path / "out" / "dataset.sqsh").read_bytes()
    assert image == (tmp_path / "named.sqsh").read_bytes()
    said = (tmp_path / "named.sqsh.md5").read_text()
    assert said == f"{hashlib.md5(image).hexdigest()}  named.sqsh\n"


def test_pngs(run: Run, dataset: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        *("export", dataset, tmp_path / "out", "--format", "png", "--by", "language"),
        *("--tar", "--depth", "16", "--min-lines", "31"),
    )
    assert status == 0
    assert "languages" in out
    assert (tmp_path / "out" / "Python.tar").is_file()


def test_wrong_calls(run: Run, dataset: Path, tmp_path: Path) -> None:
    status, _, err = run("export", dataset, tmp_path / "out", "--format", "xml")
    assert (status, err.count("\n")) == (2, 1)
    assert "no 'xml'; choose from dataset, pickle, hdf5, tree, parquet, webdataset, png, squ" in err
    status, _, err = run("export", tmp_path / "nothing", tmp_path / "out", "--format", "pickle")
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = run("import-legacy", tmp_path / "nothing", tmp_path / "new", "--workers", "1")
    assert (status, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_import(run: Run, tmp_path: Path) -> None:
    write_2018(tmp_path / "old", 7)
    (write_2018(tmp_path / "old", 8) / "images_8.pkl").write_bytes(
        b"cos\nsystem\n(S'touch mark'\ntR."
    )
    command = ("import-legacy", tmp_path / "old", tmp_path / "new", "--workers", "1")
    status, out, _ = run(*command)
    assert status == 0
    assert "new: 1 of 2 records, 6 images\nfailed: 1 record (" in out
    info = read_info(Storage.open(tmp_path / "new"))
    assert info is not None
    assert (info.counts.records, info.counts.failures) == (1, 1)
    assert "zml-dask" in info.software
    status, out, _ = run(*command)
    assert out.endswith("new: 0 of 2 records, 0 images, 2 were done before\n")


def test_a_hit_of_2018_fills_the_table() -> None:
    hit = {
        "id": 7,
        "conceptrecid": "6",
        "doi": "10.5281/zenodo.7",
        "metadata": {"title": "Spam", "publication_date": "2018-01-02", "keywords": ["eggs"]},
        "files": [],
    }
    row = row_of_hit(hit)
    assert (row["title"], row["concept_id"], row["keywords"]) == ("Spam", 6, ["eggs"])
    assert row["publication_date"] == parse_record(hit).publication_date == "2018-01-02"
    assert set(row_of_hit({"odd": 1})) == {"metadata"}


def test_a_build_exports_the_same_in_its_own_pass(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    options = HarvestOptions(api_url=sandbox.api_url, limit=3)
    harvest(tmp_path / "catalogue.jsonl", options)
    catalogue = Catalogue.open(tmp_path / "catalogue.jsonl")
    for ref in catalogue.refs:
        process(
            ref,
            tmp_path / "dataset",
            catalogue=catalogue,
            options=BuildOptions(export=("pickle", "hdf5", "tree")),
        )
    status, out, _ = run("status", tmp_path / "dataset")
    assert status == 0, "no build has written its log, but records are staged"
    assert "staged     3 records, " in out
    commit(Storage.open(tmp_path / "dataset"))
    run("export", tmp_path / "dataset", tmp_path / "later", "--format", "pickle,hdf5,tree")
    in_pass = contents(tmp_path / "dataset" / "legacy")
    assert in_pass == contents(tmp_path / "later")
    assert in_pass
