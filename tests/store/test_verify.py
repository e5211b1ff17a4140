"""Verification finds what is wrong, and repair makes it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from store_builders import objects, sources, stage

from zml_dask.errors import UsageError
from zml_dask.store import layout
from zml_dask.store.commit import CommitOptions, commit
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import FailureRow, stage_failure
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.verify.repair import repair
from zml_dask.store.withdrawal import withdraw

RECORDS = {record_id: sources(9, record_id) for record_id in (4, 8, 15)} | {16: []}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A dataset of several small shards, made by two commits."""
    monkeypatch.setattr(layout, "IMAGES", replace(layout.IMAGES, chunk=4, shard=8))
    small = tuple(replace(spec, chunk=8, shard=16) for spec in layout.INDICES)
    monkeypatch.setattr(layout, "INDICES", small)
    storage = Storage.open(tmp_path / "ds")
    stage_failure(storage, FailureRow(99, "fetch", "gone", "410", 1, True))
    for batch in ((4, 8), (15, 16)):
        for record_id in batch:
            stage(storage, tmp_path, record_id, RECORDS[record_id])
        commit(storage)
    withdraw(storage, [8], "asked")
    storage.write("build.log.jsonl", b'{"event": "start"}\n')
    return storage


def restage(record_ids, target) -> None:
    for record_id in record_ids:
        stage(target, Path(target.url), record_id, RECORDS[record_id])


def test_a_sound_dataset_is_sound(storage: Storage) -> None:
    report = verify(storage, deep=True, source=4, restage=restage)
    assert report.ok, report.problems
    assert not report.notes
    assert report.checked["texts"] == sum(len(text) > 0 for f in RECORDS.values() for _, text in f)
    assert report.checked["sources"] == 4
    assert json.dumps(report.to_json())


def test_what_others_put_beside_it_is_not_called_a_leftover(storage: Storage) -> None:
    storage.write("viewer/index.html", b"<!doctype html>")
    storage.write("images.zarr/images/c/9/0/0", b"of a commit that died")
    report = verify(storage)
    assert report.ok, report.problems
    assert [note.partition(":")[0] for note in report.notes] == [
        "1 objects are not part of the dataset, such as 'images.zarr/images/c/9/0/0'",
        "1 other files lie in the dataset's folder, such as 'viewer/index.html'",
    ]


def test_any_flipped_byte_anywhere_is_found(storage: Storage) -> None:
    """Every object, and within each every byte, or a spread of them where there are many."""
    for path, good in objects(storage).items():
        if path == "build.log.jsonl":
            continue  # no part of the dataset
        step = max(1, len(good) // 7)
        for position in [*range(0, len(good), step), len(good) - 1]:
            flipped = bytearray(good)
            flipped[position] ^= 1 << position % 8
            storage.write(path, bytes(flipped), durable=False)
            try:
                report = verify(storage)
                found = {problem.path for problem in report.problems}
            except UsageError:
                found = {"dataset.json"} if path == "dataset.json" else set()
            assert path in found, (path, position)
        storage.write(path, good)
    assert verify(storage).ok


def test_any_missing_object_is_found(storage: Storage) -> None:
    for path, good in objects(storage).items():
        storage.remove(path)
        if path not in ("dataset.json", "build.log.jsonl"):
            report = verify(storage)
            assert report.problems[0].kind == "missing"
            assert report.problems[0].path == path
        storage.write(path, good)


def test_what_can_be_made_again_is(storage: Storage) -> None:
    good = objects(storage)
    repairable = [p for p in good if p.startswith(("images.zarr", "files"))]
    assert len(repairable) > 15
    # By themselves, and many at once.
    for damaged in [*([path] for path in repairable), repairable[2:-1]]:
        for path in damaged:
            storage.write(path, good[path][:-9], durable=False)
        for _ in range(3):  # what lies behind a damaged table is seen only once that is there
            outcome = repair(storage, verify(storage), restage)
        assert outcome.ok, (damaged, outcome.problems)
        assert objects(storage) == good
    # What follows from the tables needs no record.
    storage.remove(["images.zarr/file_id/c/0", "images.zarr/n_lines/c/1", "images.zarr/zarr.json"])
    storage.remove(storage.list("files_by_language.parquet"))
    outcome = repair(storage, verify(storage), None)
    assert outcome.ok
    assert len(outcome.notes) == 5
    assert objects(storage) == good


def test_what_nothing_else_holds_is_said_and_left(storage: Storage) -> None:
    good = objects(storage)
    for folder in ("records", "failures", "withdrawn", "summary", "manifest"):
        path = storage.list(f"{folder}.parquet")[0]
        storage.remove(path)
        before = objects(storage)
        outcome = repair(storage, verify(storage), restage)
        assert path in {problem.path for problem in outcome.problems}
        assert objects(storage) == before
        storage.write(path, good[path])
    assert verify(storage).ok


def test_counts_that_no_object_backs_are_damage_at_once(storage: Storage) -> None:
    info = read_info(storage)
    assert info is not None
    # More than any dataset can have is damage of dataset.json; less is objects that are missing.
    for images, kind in ((2**62, "damaged"), (2**40, "damaged"), (2**32, "missing")):
        counts = replace(info.counts, images=images)
        storage.write("dataset.json", replace(info, counts=counts).to_bytes())
        report = verify(storage)
        assert {problem.kind for problem in report.problems} >= {kind}
        assert len(report.problems) < 1000


def test_without_its_source_an_image_stays_damaged(storage: Storage) -> None:
    path = "images.zarr/images/c/1/0/0"
    good = storage.read(path)
    storage.write(path, good[:-1] + b"x")
    assert [p.path for p in repair(storage, verify(storage)).problems] == [path]

    def changed(record_ids, target) -> None:
        for record_id in record_ids:
            stage(target, Path(target.url), record_id, sources(9, record_id + 1))

    def gone(record_ids, target) -> None:
        stage_failure(target, FailureRow(record_ids[0], "fetch", "gone", "410 Gone", 1, True))

    def altered(record_ids, target) -> None:
        """As many files and images, and one other letter."""
        for record_id in record_ids:
            files = [(name, text.replace("x", "y")) for name, text in RECORDS[record_id]]
            stage(target, Path(target.url), record_id, files)

    def fewer(record_ids, target) -> None:
        for record_id in record_ids:
            stage(target, Path(target.url), record_id, RECORDS[record_id][:-1])

    for hook, message in (
        (altered, "has other files by now"),
        (fewer, "has other files by now than were committed"),
        (gone, "could not be had again"),
    ):
        problems = repair(storage, verify(storage), hook).problems
        assert [p.path for p in problems] == [path]
        assert message in problems[0].message
        assert storage.read(path) != good
    storage.write(path, good)
    report = verify(storage, source=9, restage=changed)
    assert {p.kind for p in report.problems} == {"source"}
    assert "410" in str(verify(storage, source=1, restage=gone).problems)


def test_pixels_that_are_not_the_text_are_found(tmp_path: Path) -> None:
    """Checksums say what was written; the text's hash says whether that was right."""
    from zml_dask.store.shards import ShardBuilder, ShardReader

    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, [("a.py", "x = 1\n"), ("b.py", "y = 2\n" * 81)])
    info = commit(storage)
    spec = layout.image_arrays(ImageShape())[0]
    path = layout.shard_path("images", 0, 3)
    right = storage.read(path)
    for row, line, column, value in ((0, 0, 0, 121), (0, 5, 5, 33), (2, 79, 79, 33), (1, 0, 70, 9)):
        images = ShardReader(spec, (80, 80), right).rows(0, 3)
        images[row, line, column] = value
        builder = ShardBuilder(spec, (80, 80))
        builder.extend(images)
        storage.write(path, builder.finish())
        # As if it had been committed so: every checksum fits.
        from zml_dask.store.tables import WrittenObject, digest_of, write_manifest

        data = storage.read(path)
        part = write_manifest(storage, 9, [WrittenObject(path, len(data), digest_of(data), 3)])
        changed = replace(info, manifest=(*info.manifest, part))
        storage.write("dataset.json", changed.to_bytes())
        report = verify(storage, deep=True)
        assert [p.kind for p in report.problems] == ["text"], (row, line, column)


def test_tables_that_contradict_are_found(storage: Storage, tmp_path: Path) -> None:
    info = read_info(storage)
    assert info is not None
    for counts in (
        replace(info.counts, images=info.counts.images + 1),
        replace(info.counts, files=1),
        replace(info.counts, records=9),
        replace(info.counts, failures=0),
    ):
        storage.write("dataset.json", replace(info, counts=counts).to_bytes())
        assert {"counts", "damaged"} & {problem.kind for problem in verify(storage).problems}
    parts = info.tables["files"]
    swapped = {**info.tables, "files": parts[::-1]}
    storage.write("dataset.json", replace(info, tables=swapped).to_bytes())
    assert {"tiling", "index"} <= {problem.kind for problem in verify(storage).problems}


def test_there_must_be_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no dataset"):
        verify(tmp_path)
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, [("a.py", "x\n")])
    report = verify(storage)
    assert report.ok
    assert report.notes == ["nothing is committed yet; 1 staged objects"]


def test_an_empty_dataset_is_sound(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    stage_failure(storage, FailureRow(1, "fetch", "gone", "410", 1, True))
    commit(storage, CommitOptions(options={"a": 1}))
    assert verify(storage, deep=True).ok
    assert read_info(storage) != DatasetInfo()
