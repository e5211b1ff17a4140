"""Reading a dataset: views, tables, images, text, records."""

from __future__ import annotations

import html
import pickle
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from dataset_builders import LICENCE, RECORDS, files_of, stage_record, write_dataset

import zml_dask as zml
from zml_dask.compiled import _private_folder
from zml_dask.errors import DatasetDamagedError, ObjectMissingError, UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.query.selection import gather
from zml_dask.query.sql import _parser
from zml_dask.raster.images import rasterize, to_text
from zml_dask.store import snapshot
from zml_dask.store.commit import commit, plan_commit
from zml_dask.store.info import read_info
from zml_dask.store.layout import FAILURES_SCHEMA
from zml_dask.store.local_storage import LocalStorage
from zml_dask.store.staging.packs import FailureRow, stage_failure
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("dataset")
    write_dataset(Storage.open(base / "ds"), base)
    return base / "ds"


@pytest.fixture
def ds(folder: Path) -> Dataset:
    return zml.open_dataset(folder)


@pytest.fixture(scope="module")
def pixels(folder: Path) -> np.ndarray:
    """All images, read by zarr-python."""
    return zarr.open_group(folder / "images.zarr", mode="r")["images"][:]


def test_every_text_comes_back(ds: Dataset) -> None:
    for record_id in RECORDS:
        texts = dict(files_of(record_id))
        for row in ds.select(record_id=record_id).files.itertuples():
            text = texts[row.path]
            if text is None:
                with pytest.raises(UsageError, match="binary"):
                    ds.text(row.file_id)
            else:
                assert ds.text(row.file_id) == to_text(*rasterize(text))


def test_opening_reads_one_small_object(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = []
    locate = LocalStorage._locate

    def watched(storage: LocalStorage, path: str) -> Path:
        touched.append(Path(path).name)
        return locate(storage, path)

    monkeypatch.setattr(LocalStorage, "_locate", watched)
    ds = zml.open_dataset(folder)
    assert len(ds) == read_info(Storage.open(folder)).counts.images
    ds.select("n_lines > 3")
    assert set(touched) == {"dataset.json"}
    assert repr(ds).startswith("<Dataset")
    parts = {path.name for path in folder.glob("summary.parquet/*")}
    assert set(touched) == {"dataset.json", *parts}


def test_images_are_those_of_zarr(ds: Dataset, pixels: np.ndarray) -> None:
    images = ds.images
    assert images.shape == pixels.shape
    assert images.dtype == np.uint32
    np.testing.assert_array_equal(images.compute(), pixels)
    np.testing.assert_array_equal(images[3:90:7].compute(), pixels[3:90:7])
    np.testing.assert_array_equal(images[-5:, :3, 70:].compute(), pixels[-5:, :3, 70:])
    np.testing.assert_array_equal(images[[7, 2, 2]].compute(), pixels[[7, 2, 2]])
    np.testing.assert_array_equal(images[4].compute(), pixels[4])


def test_a_view_has_the_interface_of_the_whole(ds: Dataset, pixels: np.ndarray) -> None:
    view = ds.select("language == 'Fortran' and n_lines >= 100")
    files = view.files
    assert set(files.language) == {"Fortran"}
    assert (files.n_lines >= 100).all()
    rows = [
        row for f in files.itertuples() for row in range(f.first_image, f.first_image + f.n_images)
    ]
    assert len(view) == len(rows) == view.images.shape[0]
    np.testing.assert_array_equal(view.images.compute(), pixels[rows])
    assert view.records.record_id.tolist() == sorted(RECORDS)
    narrower = view.select(record_id=[10, 30]).select("n_lines < 150")
    assert len(narrower.files) == len(files.query("record_id in [10, 30] and n_lines < 150"))
    assert narrower.text(narrower.files.file_id.iloc[0]).startswith("x")
    assert len(ds.select()) == len(ds)
    assert len(ds.select("n_lines < 0").images) == 0
    assert len(ds.select("n_lines < 0").files) == 0


@pytest.mark.parametrize(
    ("expression", "query"),
    [
        ("license == 'mit'", "record_id in [10, 40]"),
        ("license != 'mit'", "record_id == 20"),
        ("license is distinct from 'mit'", "record_id in [20, 30]"),
        ("not license == 'mit'", "record_id == 20"),
        ("license is null", "record_id == 30"),
        ("license in ('mit') or license is null", "record_id in [10, 30, 40]"),
        ("'astronomy' in keywords", "record_id in [10, 40]"),
        (
            "len(list_filter(keywords, lambda k: regexp_matches(k, '^(bio|fi)'))) > 0",
            "record_id in [10, 30]",
        ),
        ("publication_date >= '2015-01-01'", "record_id in [30, 40]"),
        ("license == 'mit' or language == 'C'", "record_id in [10, 40] or language == 'C'"),
        ("'fits' in keywords or n_lines > 150", "record_id == 10 or n_lines > 150"),
        ("records.n_images > n_images * 30", "n_images < 3"),
        ("regexp_matches(path, '(^|/)u[.]py$')", "name == 'u.py'"),
        (
            "not path.contains('py') and kind == 'programming'",
            "extension != 'py' and status == 'ok'",
        ),
        ("name.starts_with('00') or name.starts_with('LIC')", "name.str.contains('^00|^LIC')"),
        ("name.lower() == 'license'", "name == 'LICENSE'"),
        ("n_lines > 10 and n_lines <= 50 and len(name) > 3", "10 < n_lines <= 50"),
        ("language is null and n_images > 0", "name == 'LICENSE'"),
        ("'UNKNOWN' in path", "n_lines < 0"),
    ],
)
def test_expressions(ds: Dataset, expression: str, query: str) -> None:
    whole = ds.files
    if "records." in expression:
        totals = ds.records.set_index("record_id").n_images
        expected = whole[whole.record_id.map(totals) > whole.n_images * 30]
    elif "kind" in expression:
        expected = whole[~whole.path.str.contains("py") & (whole.kind == "programming")]
    else:
        expected = whole.query(query)
    found = ds.select(expression)
    assert found.files.file_id.tolist() == expected.file_id.tolist()
    assert len(found) == expected.n_images.sum()


def test_single_images_are_chosen_by_their_own_columns(ds: Dataset, pixels: np.ndarray) -> None:
    group = zarr.open_group(Path(ds.url) / "images.zarr", mode="r")
    n_lines, segment = group["n_lines"][:], group["segment"][:]
    view = ds.select("image_lines > 30 and language == 'C'").select("segment >= 1")
    rows = view.rows.positions()
    expected = np.flatnonzero(
        (n_lines > 30)
        & (segment >= 1)
        & np.isin(group["file_id"][:], ds.select(language="C").files.file_id)
    )
    np.testing.assert_array_equal(rows, expected)
    assert set(view.files.file_id) == set(group["file_id"][:][rows])
    mixed = ds.select("segment == 0 or license == 'mit'")
    of_mit = np.isin(group["record_id"][:], [10, 40])
    np.testing.assert_array_equal(mixed.rows.mask(), (segment == 0) | of_mit)
    coordinates = view.to_xarray()
    np.testing.assert_array_equal(coordinates.segment, segment[rows])
    np.testing.assert_array_equal(coordinates.n_lines, n_lines[rows])
    assert coordinates.language.values.tolist() == ["C"] * len(rows)


def test_masks_choose_files_or_images(ds: Dataset) -> None:
    files = ds.files
    of_files = ds.select(files.extension == "c")
    assert of_files.files.file_id.tolist() == files[files.extension == "c"].file_id.tolist()
    mask = np.zeros(len(of_files), bool)
    mask[[0, 5]] = True
    of_images = of_files.select(mask)
    np.testing.assert_array_equal(of_images.images, of_files.images[[0, 5]])
    wanted = files[files.n_lines > 30].file_id.tolist()
    assert ds.select(files.sort_values("n_lines").n_lines > 30).files.file_id.tolist() == wanted
    by_path = files.set_index("path").n_lines > 30
    assert ds.select(by_path.to_numpy()).files.file_id.tolist() == wanted
    with pytest.raises(UsageError, match="index of a mask"):
        ds.select(by_path)
    with pytest.raises(UsageError, match="fits neither"):
        ds.select(mask)
    with pytest.raises(UsageError, match="bool"):
        ds.select([1, 2])


def test_sampling_is_a_matter_of_the_seed(ds: Dataset) -> None:
    one, again, other = ds.sample(9, seed=1), ds.sample(9, seed=1), ds.sample(9, seed=2)
    assert len(one) == 9
    np.testing.assert_array_equal(one.images, again.images)
    assert one.rows.positions().tolist() != other.rows.positions().tolist()
    assert set(one.files.file_id) == set(again.files.file_id)
    assert len(ds.sample(10**6)) == len(ds)
    assert len(ds.sample(9).select("language == 'C' and n_lines > 80")) <= 9


def test_files_come_with_their_images(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zml_dask.query.file_images._IMAGES_AT_ONCE", 64)
    monkeypatch.setattr("zml_dask.query.file_images._FILES_AT_ONCE", 10)
    seen = 0
    for found in ds:
        file, images = found
        assert len(images) == file.n_images
        if file.n_images:
            assert found.text == ds.text(file.file_id)
        seen += 1
    assert seen == len(ds.files)
    odd = ds.select("segment == 1")
    assert [len(images) for _, images in odd] == [1] * len(odd)
    again = pickle.loads(pickle.dumps(next(iter(odd))))
    assert again.file == again[0] == next(iter(odd)).file
    assert again.segment.tolist() == [1]


def test_what_cannot_be_counted_or_chosen_is_said(ds: Dataset) -> None:
    for by in ([], ["language", "language"]):
        with pytest.raises(UsageError, match="count by one column or several"):
            ds.counts(by)
    for n in (2.5, "3", -1):
        with pytest.raises(UsageError, match=f"a whole number.* not '?{n}"):
            ds.sample(n)  # type: ignore[arg-type]


def test_counts(ds: Dataset) -> None:
    counts = ds.counts("language")
    assert counts.loc["Python"].tolist() == [
        int(ds.files[ds.files.language == "Python"].n_images.sum()),
        int((ds.files.language == "Python").sum()),
        4,
    ]
    assert counts.images.sum() == len(ds)
    by_keyword = ds.counts(["keywords", "license"])
    assert by_keyword.loc[("astronomy", "mit"), "records"] == 2
    # Of chosen images only those count.
    assert ds.sample(5).counts("extension").images.sum() == 5


def test_duplicates_are_found_across_records(ds: Dataset) -> None:
    duplicates = ds.duplicates()
    by_path = duplicates.assign(path=ds.files.path[duplicates.file_id].tolist())
    assert by_path.path.tolist()[:2] == ["é/u.py", "LICENSE"]  # what takes most space first
    licence = duplicates.iloc[1]
    assert licence.tolist()[1:4] == [4, 4, len(LICENCE)]
    assert ds.files.path[licence.file_id] == "LICENSE"
    assert (duplicates.records > 1).all()


def test_a_record(ds: Dataset) -> None:
    record = ds.record(20)
    assert record.doi_url == "https://doi.org/10.5281/zenodo.20"
    assert record.metadata == {"id": 20}
    assert ds.tree(20)["src"]["000.c"] is not None
    assert len(record.files) == len(files_of(20))
    assert "&lt;20&gt;" in record._repr_html_()
    assert "<20>" not in record._repr_html_()
    assert 'href="https://doi.org' in record._repr_html_()
    with pytest.raises(UsageError, match="21"):
        ds.record(21)
    with pytest.raises(UsageError, match="holds no record"):
        ds.record(2**70)
    with pytest.raises(UsageError, match=r"records\.record_id.* not 20\.0"):
        ds.record(20.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "20",
        "10.5281/zenodo.20",
        "doi:10.5281/ZENODO.20",
        " https://doi.org/10.5281/zenodo.20",
        "zenodo.20",
        "zenodo.org/records/20",
    ],
)
def test_a_record_is_named_by_its_doi(ds: Dataset, name: str) -> None:
    assert ds.record(name).record_id == 20
    assert ds.tree(name) == ds.tree(20)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seven", "neither a record's number nor its DOI"),
        ("10.5072/20", "no record with the DOI 10.5072/20"),
        ("10.5281/zenodo.21", "holds no record 21"),
    ],
)
def test_the_number_in_anothers_doi_names_no_record(ds: Dataset, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ds.record(name)


def test_what_is_not_there_is_said(ds: Dataset, tmp_path: Path) -> None:
    for file_id in (-1, 10**9):
        with pytest.raises(UsageError, match=str(file_id)):
            ds.text(file_id)
    with pytest.raises(UsageError, match="counted from 0"):
        ds.image(int(ds.files.file_id[ds.files.n_images > 0].iloc[0]), 99)
    with pytest.raises(UsageError, match="no committed dataset"):
        zml.open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="not of a zml-dask dataset"):
        zml.open_dataset(tmp_path)


def test_a_notebook_shows_counts_and_images(ds: Dataset) -> None:
    html = ds.select(language="C")._repr_html_()
    assert html.count("data:image/png;base64,") == 8
    assert "C 8" in re.sub("[0-9]", "8", html)
    assert html == ds.select(language="C")._repr_html_()
    # From the first image to the last: the strips of all views would look the same.
    last = ds.select(record_id=int(ds.records.record_id.iloc[-1]))
    whole, end = (re.findall(r"base64,([^\"]+)", view._repr_html_()) for view in (ds, last))
    assert (len(whole), whole[-1]) == (8, end[-1])
    assert whole != end
    assert "data:image" not in ds.select("n_lines < 0")._repr_html_()


def test_views_can_be_pickled(ds: Dataset) -> None:
    view = ds.select("language == 'C'").sample(7)
    again = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(again.images, view.images)
    assert len(pickle.dumps(ds.select("language == 'C'"))) < 10_000


def test_tables_have_plain_types(ds: Dataset) -> None:
    assert isinstance(ds.files, pd.DataFrame)
    assert ds.files.dtypes["n_images"] == np.int32
    assert ds.files.dtypes["size"] == pd.Int64Dtype()
    frame = ds.read("path", "license", "records.n_images", start=2, stop=4)
    assert frame.columns.tolist() == ["path", "license", "records.n_images"]
    assert frame.license.tolist() == ["mit", "mit"]


def test_text_may_be_more_than_32_bits_count(ds: Dataset) -> None:
    # 33 million SHA-256 are 2 GiB; what is taken or joined then must have 64-bit offsets.
    large, lists = pa.large_string(), pa.list_(pa.large_string())
    some = ds.select("record_id != 20 and n_lines > 3").selection
    taken = gather(ds.snapshot, some, ["path", "sha256", "license", "keywords", "concept_id"])
    assert taken.schema.types == [large, large, large, lists, pa.int64()]
    everything = ds.snapshot.scan("records", ["title", "creators", "record_id"])
    assert everything.schema.types == [large, lists, pa.int64()]


def test_withdrawn_records_are_hidden(tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    info = withdraw(storage, [20], "asked for")
    ds = zml.open_dataset(tmp_path / "ds")
    assert 20 not in set(ds.files.record_id)
    assert ds.records.record_id.tolist() == [10, 30, 40]
    assert len(ds) == ds.files.n_images.sum() < info.counts.images
    assert len(ds.select("license == 'apache-2.0'")) == 0
    for table in ("files", "records"):
        asked = ds.sql(f"select count(*) from {table} where record_id = 20")
        assert asked.fetchall() == [(0,)]
    for by in ("language", "kind", "license", "origin", "year"):
        assert ds.counts(by).images.sum() == len(ds)
    hidden = int(info.counts.files // 4 + 3)
    with pytest.raises(UsageError, match="holds no file"):
        ds.text(hidden)
    with pytest.raises(UsageError, match="was withdrawn"):
        ds.record(20)


def test_a_withdrawal_hides_no_record_without_files(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    for number, files in {1: [("a.py", "a\n")], 2: [], 3: [("b.py", "b\n")]}.items():
        stage_record(storage, tmp_path, number, files, {})
    commit(storage)
    withdraw(storage, [3, 4], "asked for")
    ds = zml.open_dataset(tmp_path / "ds")
    assert ds.records.record_id.tolist() == [1, 2]
    assert ds.select().records.record_id.tolist() == [1, 2]
    assert re.search(r"records +2$", repr(ds), re.MULTILINE)
    assert ds.select("n_lines > 0").records.record_id.tolist() == [1]


def test_a_commit_under_way_is_not_seen(tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    before = zml.open_dataset(tmp_path / "ds")
    pixels = before.images.compute()
    stage_record(storage, tmp_path, 50, files_of(50), {})
    plan_commit(storage)
    assert len(zml.open_dataset(tmp_path / "ds")) == len(before)
    commit(storage)
    # The last shard was replaced; what was opened before still reads its rows.
    np.testing.assert_array_equal(before.images.compute(), pixels)
    assert len(zml.open_dataset(tmp_path / "ds")) > len(before)


@pytest.mark.parametrize("pickled", [False, True])
def test_later_commits_and_withdrawals_are_not_seen(tmp_path: Path, pickled: bool) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_failure(storage, FailureRow(91, "fetch", "gone", "410", 1, True))
    write_dataset(storage, tmp_path)
    withdraw(storage, [20], "asked for")
    opened = zml.open_dataset(tmp_path / "ds")
    before = pickle.loads(pickle.dumps(opened)) if pickled else opened
    for number in (92, 93):
        stage_failure(storage, FailureRow(number, "fetch", "gone", "410", 1, True))
        commit(storage)
        withdraw(storage, [number - 62], "asked for")
    assert before.failures.record_id.tolist() == [91]
    assert before.records.record_id.tolist() == [10, 30, 40]
    assert set(before.select("n_lines > 3").files.record_id) == {10, 30, 40}
    after = zml.open_dataset(tmp_path / "ds")
    assert after.failures.record_id.tolist() == [91, 92, 93]
    assert set(after.files.record_id) == {10, 40}


def test_opening_while_a_commit_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_failure(storage, FailureRow(91, "fetch", "gone", "410", 1, True))
    read = [read_info(write_dataset(storage, tmp_path))]
    stage_failure(storage, FailureRow(92, "fetch", "gone", "410", 1, True))
    read.append(commit(storage))
    monkeypatch.setattr(snapshot, "committed_info", lambda _storage: read.pop(0))
    ds = zml.open_dataset(tmp_path / "ds")
    assert ds.failures.record_id.tolist() == [91, 92]
    assert not read


def test_a_record_without_files_is_a_dataset(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_record(storage, tmp_path, 10, [], RECORDS[10])
    commit(storage)
    ds = zml.open_dataset(tmp_path / "ds")
    parts = ds.split({"train": 0.5, "test": 0.5})
    for view in (ds, ds.sample(5), ds.select("n_lines > 3").sample(5), *parts.values()):
        assert (len(view), len(view.files), view.images.compute().shape) == (0, 0, (0, 80, 80))


def test_nothing_needs_a_folder_for_temporary_files(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    # As in a container whose file systems are all read-only.
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    with pytest.raises(FileNotFoundError):
        tempfile.gettempdir()
    assert _private_folder() is None  # for compiled functions
    found = ds.select("n_lines > 30", language="C")
    assert len(found) == found.sql("SELECT sum(n_images) FROM files").fetchall()[0][0]


def test_a_current_folder_that_was_removed_is_named(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    _parser.cache_clear()  # DuckDB asks for the folder when it starts
    for use in (lambda: zml.open_dataset("ds"), lambda: ds.select("n_lines > 30")):
        with pytest.raises(UsageError, match="current folder was removed"):
            use()
    monkeypatch.undo()
    assert len(ds.select("n_lines > 30"))


def test_a_lost_list_of_failures_hides_nothing_else(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_failure(storage, FailureRow(91, "fetch", "gone", "410", 1, True))
    write_dataset(storage, tmp_path)
    storage.remove(storage.list("failures.parquet"))
    ds = zml.open_dataset(tmp_path / "ds")
    assert set(ds.files.record_id) == {10, 20, 30, 40}
    with pytest.raises(ObjectMissingError, match=r"failures\.parquet"):
        _ = ds.failures


def test_one_url_may_lead_to_different_datasets(tmp_path: Path) -> None:
    import dask

    opened = []
    for number, text in enumerate(("one\n", "other\n")):
        storage = Storage.open(tmp_path / str(number) / "ds")
        stage_record(storage, tmp_path, 1, [("a.py", text)], {})
        commit(storage)
        options = {"path": str(tmp_path / str(number)), "target_protocol": "file"}
        opened.append(zml.open_dataset("dir://ds", options))
    together = dask.compute(*(ds.images for ds in opened))
    assert [to_text(images, np.array([1])) for images in together] == ["one\n", "other\n"]
    again = zml.open_dataset("dir://ds", options)
    assert again.images.name == opened[1].images.name
    assert again.select("n_lines == 1").images.name == again.images.name


def test_keys_change_with_the_dataset_and_tell_no_secret(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_record(storage, tmp_path, 1, [("a.py", "one\n")], {})
    info = commit(storage)
    before = zml.open_dataset(tmp_path / "ds").images.name
    shutil.rmtree(tmp_path / "ds")
    stage_record(storage, tmp_path, 1, [("a.py", "other\n")], {})
    commit(storage)
    assert zml.open_dataset(tmp_path / "ds").images.name != before

    names = set()
    for secret in ("hunter2", "hunter3"):
        place = Storage.open("s3://bucket/ds", key="me", secret=secret)
        view = Dataset(snapshot.Snapshot(place, info))
        names.add(view.images.name)
        assert not [key for key in view.images.__dask_graph__() if "hunter" in repr(key)]
        selected = snapshot.Snapshot(place, info)
        assert "hunter" not in selected.token + repr(selected)
    assert len(names) == 2


def test_a_damaged_chunk_is_said_and_not_returned(tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    path = "images.zarr/images/c/0/0/0"
    data = bytearray(storage.read(path))
    data[100] ^= 1
    storage.write(path, bytes(data))
    with pytest.raises(DatasetDamagedError, match="verify"):
        zml.open_dataset(tmp_path / "ds").images[:3].compute()


def test_a_view_says_what_languages_it_has_and_what_has_none(ds: Dataset) -> None:
    shown = repr(ds.select("n_lines > 0"))
    assert "nan" not in shown
    assert ("(not named)" in shown) == bool(len(ds.select("language is null")))
    assert repr(ds.select("n_lines < 0")).endswith("languages none")
    advice = "no file has language 'pyhton'; did you mean 'Python'?"
    for empty in (ds.select("language == 'pyhton'"), ds.select(language="pyhton", extension="c")):
        assert advice in repr(empty)
        assert html.escape(advice) in empty._repr_html_()


def test_failures_are_a_table_too(ds: Dataset) -> None:
    assert list(ds.failures.columns) == FAILURES_SCHEMA.names
    assert len(ds.failures) == ds.info.counts.failures


def test_what_is_no_file_and_no_share_is_told_in_words(ds: Dataset) -> None:
    with pytest.raises(UsageError, match=r"files\.file_id.* not 2\.5"):
        ds.text(2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'train': 0\.8.* not 0\.8"):
        ds.split(0.8)  # type: ignore[arg-type]


def test_a_file_in_the_place_of_a_dataset_holds_none(tmp_path: Path) -> None:
    (tmp_path / "catalogue.jsonl").touch()
    with pytest.raises(UsageError, match=r"catalogue\.jsonl holds no committed dataset"):
        zml.open_dataset(tmp_path / "catalogue.jsonl")
