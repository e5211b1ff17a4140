"""The summary and the files by language against pandas over the other tables."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import SHAPE, staged_file, stored_table

from zml_dask.raster.language import language_group
from zml_dask.store.commit import commit
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import FILES_BY_LANGUAGE_SCHEMA
from zml_dask.store.staging import RecordStager
from zml_dask.store.storage import Storage
from zml_dask.store.summary import add_up
from zml_dask.store.tables import first_day
from zml_dask.store.withdrawal import withdraw

LANGUAGES = ["C", "Fortran", "Fortran Free Form", None]
FILES = st.dictionaries(
    st.sampled_from(["a.c", "b.f90", "c/d.F", "Makefile", "x.C", "y.gif"]),
    st.tuples(st.sampled_from(LANGUAGES), st.sampled_from([None, "", "x\n", "y\n" * 170])),
)
RECORDS = st.dictionaries(
    st.integers(1, 99),
    st.tuples(
        FILES,
        st.sampled_from(["2018-03-04", "2018", "2020-02", "no date", None]),
        st.sampled_from(
            [("mit", ["MIT"]), ("mit and isc", ["MIT", "ISC"]), ("odd", []), (None, None)]
        ),
    ),
    max_size=6,
)


def stage_all(storage: Storage, scratch: Path, records: dict) -> None:
    for record_id, (files, published, (license_, licenses)) in records.items():
        with RecordStager(scratch, record_id, SHAPE) as stager:
            for path, (language, text) in files.items():
                file, normalized = staged_file(path, text)
                stager.add(replace(file, language=language), normalized)
            row = {"publication_date": published, "license": license_, "licenses": licenses}
            stager.finish(storage, row)


def counted(files: pd.DataFrame, records: pd.DataFrame) -> dict[tuple, tuple]:
    """The same counts, the plain way."""
    found: dict[tuple, list] = {}

    def note(dimension: str, value: object, own: pd.DataFrame, count: int) -> None:
        key = (dimension, None if pd.isna(value) else value)
        numbers = count, len(own), own["n_images"].sum(), own["size"].fillna(0).sum()
        found[key] = [a + int(b) for a, b in zip(found.get(key, [0] * 4), numbers, strict=True)]

    for name in ("language", "language_group", "extension", "status"):
        for value, own in files.groupby(name, dropna=False):
            note(name, value, own, own["record_id"].nunique())
    for row in records.itertuples():
        own = files[files["record_id"] == row.record_id]
        date = row.publication_date
        note("year", None if pd.isna(date) else f"{date:%Y}", own, 1)
        note("license", row.license, own, 1)
        note("total", None, own, 1)
        for name in [] if row.licenses is None else row.licenses:
            note("licenses", name, own, 1)
    return {key: tuple(numbers) for key, numbers in found.items()}


@settings(max_examples=30)
@given(records=RECORDS, seed=st.integers(0, 9))
def test_the_summary_counts_what_is_shown(tmp_path_factory, records, seed) -> None:
    folder = tmp_path_factory.mktemp("ds")
    storage = Storage.open(folder / "ds")
    ids = sorted(records)
    cut = random.Random(seed).randint(0, len(ids))
    for some in (ids[:cut], ids[cut:]):
        stage_all(storage, folder, {i: records[i] for i in some})
        commit(storage)
    gone = ids[:: seed + 1][:2]
    if gone:
        withdraw(storage, gone[:1], "asked")
        withdraw(storage, gone, "asked again")
    info = read_info(storage)
    assert info is not None
    files = stored_table(storage, "files").to_pandas()
    records_ = stored_table(storage, "records").to_pandas()
    shown = [table[~table["record_id"].isin(gone)] for table in (files, records_)]
    rows = add_up([stored_table(storage, "summary")]).to_pylist()
    found = {(r["dimension"], r["value"]): tuple(list(r.values())[2:]) for r in rows}
    assert found == counted(*shown)
    by_language = stored_table(storage, "files_by_language")
    assert by_language.schema.equals(FILES_BY_LANGUAGE_SCHEMA)
    sorted_again = by_language.sort_by("file_id").to_pylist()
    assert sorted_again == files[by_language.schema.names].astype(object).where(
        files[by_language.schema.names].notna(), None
    ).to_dict("records")
    assert all(row["language_group"] == language_group(row["language"]) for row in sorted_again)
    for part in info.tables["files_by_language"]:
        keys = [
            (row["language"] is None, row["language"] or "", row["extension"], row["file_id"])
            for row in pq.read_table(folder / "ds" / part.path).to_pylist()
        ]
        assert keys == sorted(keys)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zml_dask.store.commit.plan.FILES_PER_SORTED_PART", 3)


@pytest.mark.usefixtures("small_parts")
def test_any_worker_can_write_a_part_of_them(tmp_path: Path) -> None:
    """In any order, and to the same bytes."""
    records = {i: ({f"{n}.c": ("C", "x\n" * i) for n in range(2)}, "2018", ("mit", ["MIT"]))
               for i in range(1, 6)}  # fmt: skip
    infos: list[DatasetInfo] = []
    for name, order in (("one", list), ("other", lambda tasks: list(tasks)[::-1])):
        storage = Storage.open(tmp_path / name)
        stage_all(storage, tmp_path, records)
        infos.append(commit(storage, map=lambda run, tasks, o=order: map(run, o(tasks))))
    assert infos[0] == infos[1]
    assert len(infos[0].tables["files_by_language"]) == 5
    assert [part.rows for part in infos[0].tables["files_by_language"]] == [2] * 5


def test_dates_as_published() -> None:
    assert [str(first_day(text)) for text in ("2018-02-03T04:05", "2018-1", "2018-13", "0000")] == [
        "2018-02-03",
        "2018-01-01",
        "None",
        "None",
    ]
