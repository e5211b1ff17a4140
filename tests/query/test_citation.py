"""Citations: read back by the libraries that read them, whatever the records are called."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import bibtexparser
import pytest
from dataset_builders import write_dataset
from hypothesis import given
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.cli.main import main
from zml_dask.errors import UsageError
from zml_dask.query.citation import CITED_COLUMNS, bibtex, record_item
from zml_dask.query.dataset import Dataset
from zml_dask.store.storage import Storage


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base = tmp_path_factory.mktemp("cite")
    write_dataset(Storage.open(base / "ds"), base)
    return zml.open_dataset(base / "ds")


def row(**values: object) -> dict[str, object]:
    return {**dict.fromkeys(CITED_COLUMNS), "record_id": 1, **values}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_bibtex_is_read_back_whatever_the_title(title: str) -> None:
    items = [record_item(row(title=title, creators=[title], doi="10.5072/a_b%{c}"))]
    entries = bibtexparser.loads(bibtex(items)).entries
    assert len(entries) == 1
    assert entries[0]["ID"] == "zenodo1"
    assert entries[0]["doi"] == "10.5072/a_b%%7Bc%7D"


def test_what_is_known_of_a_record_is_said() -> None:
    known = row(
        title="toolz", creators=["Roe, Ann", "The team"], publication_date=date(2020, 3, 9),
        version="1.2", doi="10.5072/zenodo.1",
    )  # fmt: skip
    item = record_item(known)
    assert item["author"] == [{"family": "Roe", "given": "Ann"}, {"literal": "The team"}]
    assert item["issued"] == {"date-parts": [[2020, 3, 9]]}
    assert item["type"] == "software"
    [entry] = bibtexparser.loads(bibtex([item])).entries
    assert entry["author"] == "Roe, Ann and {The team}"
    assert (entry["year"], entry["month"], entry["version"]) == ("2020", "3", "1.2")


def test_a_selection_cites_its_records_and_the_whole_only_itself(ds: Dataset) -> None:
    assert len(bibtexparser.loads(ds.cite()).entries) == 1
    chosen = ds.select("language == 'Python'")
    items = json.loads(chosen.cite("csl"))
    assert [item["id"] for item in items[1:]] == [f"zenodo{i}" for i in chosen.records.record_id]
    assert items[0]["type"] == "dataset"
    assert len(json.loads(ds.cite("csl", records=True))) == 1 + len(ds.records)
    with pytest.raises(UsageError, match="'bibtex' or 'csl'"):
        ds.cite("ris")  # type: ignore[arg-type]


def test_the_command(ds: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cite", ds.url, "--where", "language == 'Python'"])
    assert capsys.readouterr().out == ds.select("language == 'Python'").cite() + "\n"
    with pytest.raises(SystemExit):
        main(["cite", ds.url, "--format", "csl", "--output", str(tmp_path / "c.json")])
    assert len(json.loads((tmp_path / "c.json").read_text())) == 1
