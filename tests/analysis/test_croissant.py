"""Metadata held to mlcroissant, which reads the tables by it, and to what is on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import mlcroissant
import pytest

from zml_dask.errors import UsageError
from zml_dask.pipeline.build_options import options_from
from zml_dask.publish.croissant import CROISSANT, RO_CRATE, export
from zml_dask.query.dataset import open_dataset
from zml_dask.store.info import committed_info, replace_info
from zml_dask.store.storage import Storage

from .conftest import Known


@pytest.fixture(scope="module")
def described(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(known.path), tmp_path_factory.mktemp("croissant"))


def test_mlcroissant_accepts_it_and_reads_the_rows(known: Known, described: Path) -> None:
    dataset = mlcroissant.Dataset(described)
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    rows = list(dataset.records("files"))
    assert len(rows) == sum(map(len, known.files.values()))
    paths = {row["files/path"].decode() for row in rows}
    assert paths == {path for files in known.files.values() for path in files}
    records = {row["records/record_id"]: row for row in dataset.records("records")}
    assert set(records) == set(known.files)
    assert records[101]["records/title"].decode() == known.rows[101]["title"]
    assert len(list(dataset.records("failures"))) == len(known.failures)


def test_hashes_and_sizes_are_those_of_the_files(described: Path) -> None:
    for one in json.loads(described.read_text())["distribution"]:
        data = (described.parent / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest()
        assert one["contentSize"] == f"{len(data)} B"


def test_ro_crate_names_what_exists(described: Path) -> None:
    crate = json.loads((described.parent / RO_CRATE).read_text())
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    assert by_id[RO_CRATE]["about"] == {"@id": "./"}
    for part in by_id["./"]["hasPart"]:
        assert (described.parent / part["@id"]).exists(), part
        assert part["@id"] in by_id
    assert {"name", "description", "datePublished", "license"} <= set(by_id["./"])


def test_a_name_that_urls_read_otherwise(known: Known, tmp_path: Path) -> None:
    odd = tmp_path / "my set#1 100%41?"
    shutil.copytree(known.path, odd)
    described = export(str(odd), tmp_path / "out")
    assert len(list(mlcroissant.Dataset(described).records("files"))) > 100
    crate = json.loads((described.parent / RO_CRATE).read_text())
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    for part in by_id["./"]["hasPart"]:
        url = urlsplit(urljoin("file:///out/x.json", part["@id"]))
        assert (tmp_path / unquote(url.path)[1:]).exists(), part


def test_card_counts_and_leaves_others_alone(known: Known, described: Path, tmp_path: Path) -> None:
    card = (described.parent / "README.md").read_text()
    shown = {record_id: known.rows[record_id] for record_id, _, _ in known.shown()}
    assert len(shown) < len(known.files)
    assert f"{len(shown):,} published software records" in card
    assert f"Parquet tables of {len(known.shown()):,} files" in card
    ds = open_dataset(known.path)
    assert f"as {len(ds.images):,} images of 80 lines" in card
    assert f"note = {{{len(ds.images)} images of {len(ds.files)} files of " in described.read_text()
    for name in ("mit", "gpl-3.0"):
        count = sum(row["license"] == name for row in shown.values())
        assert f"| {name} | {count} |" in card
    languages = ds.files.groupby("language")["n_images"].sum()
    for name, images in languages[languages > 0].items():
        assert f"| {name} | {images:,} |" in card
    (tmp_path / "README.md").write_text("mine")
    assert export(str(known.path), tmp_path).name == CROISSANT
    assert (tmp_path / "README.md").read_text() == "mine"
    assert export(str(known.path), described.parent) == described  # written anew


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no committed dataset"):
        export(str(tmp_path), tmp_path)


def test_title_creators_licence_and_doi_that_were_set(known: Known, tmp_path: Path) -> None:
    shutil.copytree(known.path, tmp_path / "set")
    storage = Storage.open(tmp_path / "set")
    info = committed_info(storage)
    about = {
        "title": "Images: of <code>",
        "creators": ["Roe, Ada", "Example Institute"],
        "license": "CC-BY-4.0",
        "doi": "10.5072/zenodo.7",
    }
    recorded = options_from({"about": about}).recorded()["about"]
    assert recorded == about
    replace_info(storage, info, replace(info, options={**info.options, "about": recorded}))
    described = export(str(tmp_path / "set"), tmp_path / "out")
    dataset = mlcroissant.Dataset(described)
    assert not dataset.metadata.ctx.issues.errors
    said = json.loads(described.read_text())
    assert said["name"] == "Images: of <code>"
    assert said["license"] == "https://spdx.org/licenses/CC-BY-4.0"
    assert said["url"] == said["identifier"] == "https://doi.org/10.5072/zenodo.7"
    assert said["creator"] == [
        {"@type": "Person", "name": "Roe, Ada"},
        {"@type": "Organization", "name": "Example Institute"},
    ]
    assert "author = {Roe, Ada and {Example Institute}}" in said["citeAs"]
    crate = json.loads((tmp_path / "out" / RO_CRATE).read_text())
    [root] = [entity for entity in crate["@graph"] if entity["@id"] == "./"]
    assert root["creator"] == said["creator"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Images? of ?code?" in card
    assert "- DOI: 10.5072/zenodo.7" in card
    assert "- Creators: Roe, Ada; Example Institute" in card
    saved = open_dataset(tmp_path / "set").save(tmp_path / "saved")
    assert not saved.info.options["about"], "a part has another title and no DOI of its own"
    assert saved.info.options["saved_from"]["about"] == about
