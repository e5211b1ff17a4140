"""A view saved as a dataset: the same images and rows, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import write_dataset
from store_builders import staged_file

import zml_dask as zml
from zml_dask.engine.activity import running
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.errors import UsageError
from zml_dask.query import portions, saving
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import PackedRows, cut
from zml_dask.store.commit import commit
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA, ImageShape
from zml_dask.store.staging import RecordStager
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw

KEPT = [name for name in FILES_SCHEMA.names if name not in ("file_id", "first_image")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saving")
    storage = write_dataset(Storage.open(folder / "source"), folder)
    odd = [
        "x" * 200 + "   \n" + "y  \n" * 90,
        "no newline",
        "\n",
        "   \n\n\n",
        "a\x0cb\n",
        "\U0001f600" * 99,
    ]
    with RecordStager(folder, 50, ImageShape()) as stager:
        for number, text in enumerate(odd):
            file, data = staged_file(f"odd/{number}.txt", text)
            stager.add(replace(file, encoding="utf-8", n_cut=int(number in (0, 5))), data)
        stager.finish(storage, {"title": "odd", "metadata": '{"id": 50}', "keywords": ["a", "b"]})
    with RecordStager(folder, 60, ImageShape()) as stager:
        stager.finish(storage, {"title": "no files"})
    commit(storage)
    return folder / "source"


def assert_same(view: Dataset, saved: Dataset) -> None:
    assert saved.files[KEPT].equals(view.files[KEPT])
    names = [name for name in RECORDS_SCHEMA.names if name not in ("n_files", "n_images")]
    assert saved.records[names].equals(view.records[names])
    assert np.array_equal(saved.images.compute(), view.images.compute())
    report = verify(Storage.open(saved.url), deep=True)
    assert not report.problems, report


@pytest.mark.parametrize(
    "where",
    [
        "true",
        "language == 'Python'",
        "record_id in (20, 50)",
        "license == 'mit' and n_lines > 30",
        "status <> 'ok'",
        "false",
    ],
)
def test_a_saved_view_has_the_same_rows_and_images(
    dataset: Path, tmp_path: Path, where: str
) -> None:
    view = zml.open_dataset(dataset).select(where)
    saved = view.save(tmp_path / "saved")
    assert_same(view, saved)
    counted = saved.files.groupby("record_id").size()
    assert saved.records.set_index("record_id")["n_files"].to_dict() == counted.to_dict()
    origin = json.loads((tmp_path / "saved" / "dataset.json").read_text())["options"]["saved_from"]
    assert origin["url"] == str(dataset)
    assert origin["files"] == len(view.files)
    assert not (tmp_path / "saved" / "staging").exists()


def test_a_whole_dataset_is_saved_with_records_that_have_no_files(
    dataset: Path, tmp_path: Path
) -> None:
    whole = zml.open_dataset(dataset)
    saved = whole.save(tmp_path / "saved")
    assert_same(whole, saved)
    assert 60 in set(saved.records["record_id"])


def test_withdrawn_records_stay_out(tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "source"), tmp_path)
    withdraw(storage, [20], "asked for")
    saved = zml.open_dataset(tmp_path / "source").save(tmp_path / "saved")
    assert set(saved.records["record_id"]) == {10, 30, 40}
    assert_same(zml.open_dataset(tmp_path / "source"), saved)
    stored = saved.snapshot.scan("records", ["record_id"], with_withdrawn=True)
    assert set(stored["record_id"].to_pylist()) == {10, 30, 40}


def test_a_selection_of_files_by_mask_is_saved(dataset: Path, tmp_path: Path) -> None:
    whole = zml.open_dataset(dataset)
    view = whole.select(np.arange(len(whole.files)) % 3 == 0)
    saved = view.save(tmp_path / "saved")
    assert_same(view, saved)
    assert saved.info.options["saved_from"]["where"] is None


def test_the_bytes_do_not_depend_on_how_the_work_is_divided(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = zml.open_dataset(dataset).select("language == 'C'")
    view.save(tmp_path / "one")
    monkeypatch.setattr(saving, "cut", lambda view: cut(view, records=1))
    view.save(tmp_path / "many", executor=ThreadsExecutor(3))
    one, many = (
        {path.relative_to(at): path.read_bytes() for path in at.rglob("*") if path.is_file()}
        for at in (tmp_path / "one", tmp_path / "many")
    )
    assert one == many


def test_a_save_that_ended_early_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = zml.open_dataset(dataset).select("language == 'C'")
    monkeypatch.setattr(saving, "cut", lambda view: cut(view, records=1))
    stage, staged = saving.SaveView._stage, []

    broken = {30}

    def noting(self: saving.SaveView, row: dict, *rest: object) -> object:
        if row["record_id"] in broken:
            raise UsageError("killed")
        staged.append(row["record_id"])
        return stage(self, row, *rest)

    monkeypatch.setattr(saving.SaveView, "_stage", noting)
    with pytest.raises(UsageError, match="killed"):
        view.save(tmp_path / "saved")
    other = zml.open_dataset(dataset).select("record_id == 10")
    broken.clear()
    staged.clear()
    view.save(tmp_path / "saved")
    assert staged == [30, 40]
    assert_same(view, zml.open_dataset(tmp_path / "saved"))
    staged.clear()
    view.save(tmp_path / "saved")
    assert not staged, "what is there already is not made again"
    with pytest.raises(UsageError, match="another dataset already"):
        other.save(tmp_path / "saved")


def test_what_an_interrupted_save_of_another_view_left_is_not_mixed_in(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zml.open_dataset(dataset)
    with monkeypatch.context() as patched:

        def dies(*_: object, **__: object) -> None:
            raise UsageError("killed")

        patched.setattr(saving, "CommitStaged", dies)
        with pytest.raises(UsageError, match="killed"):
            whole.select("language == 'C'").save(tmp_path / "saved")
    view = whole.select("record_id == 10")
    assert_same(view, view.save(tmp_path / "saved"))


def test_what_cannot_be_saved_is_refused(dataset: Path, tmp_path: Path) -> None:
    whole = zml.open_dataset(dataset)
    with pytest.raises(UsageError, match="single images"):
        whole.select("segment == 0").save(tmp_path / "saved")
    with pytest.raises(UsageError, match="dataset itself"):
        whole.save(dataset)
    storage = Storage.open(tmp_path / "building")
    with RecordStager(tmp_path, 1, ImageShape()) as stager:
        stager.finish(storage, {"title": "of a build"})
    with pytest.raises(UsageError, match="a build has staged"):
        whole.save(tmp_path / "building")


@pytest.mark.parametrize("records", [1, 2, 64])
def test_portions_hold_each_file_once(dataset: Path, records: int) -> None:
    view = zml.open_dataset(dataset).select("n_lines > 20")
    parts = cut(view, records=records)
    assert [part.number for part in parts] == list(range(len(parts)))
    files = np.concatenate([part.files.positions() for part in parts])
    assert files.tolist() == view.selection.file_id.tolist()
    assert sum(part.n_images for part in parts) == len(view)
    assert all(len(part.record_ids) <= records for part in parts)
    images = [part.selection(view.snapshot).rows.positions() for part in parts]
    assert np.concatenate(images).tolist() == view.rows.positions().tolist()


def test_portions_of_single_images(dataset: Path) -> None:
    view = zml.open_dataset(dataset).select("segment == 1")
    images = [part.selection(view.snapshot).rows.positions() for part in cut(view, records=1)]
    assert np.concatenate(images).tolist() == view.rows.positions().tolist()
    assert PackedRows.of(np.empty(0, np.int64)).positions().size == 0
    assert portions.fingerprint(view) != portions.fingerprint(zml.open_dataset(dataset))


def test_a_view_is_saved_and_exported_into_an_object_store(dataset: Path) -> None:
    view = zml.open_dataset(dataset).select("language == 'C' and record_id == 10")
    saved = view.save("memory://share/saved")
    assert np.array_equal(saved.images.compute(), view.images.compute())
    again = saved.save("memory://share/again")
    assert again.info.options["saved_from"]["url"].endswith("share/saved")
    saved.export("memory://share/parquet", "parquet")
    assert len(Storage.open("memory://share/parquet").names()) == 1


def test_a_task_notes_each_record_that_it_is_done_with(dataset: Path) -> None:
    """For the progress of exports: a task may take long, and be the only one."""
    view = zml.open_dataset(dataset)
    noted: list[int] = []
    for portion in cut(view):
        with running(
            "export", portion.number, lambda _, record_id, _count: noted.append(record_id)
        ):
            for count, (_, files) in enumerate(portion.read(view.snapshot), len(noted)):
                assert len(noted) == count
                assert len(list(files)) > 0
    assert noted == view.files.record_id.drop_duplicates().tolist()
