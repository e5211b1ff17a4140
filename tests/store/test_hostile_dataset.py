"""Datasets that somebody else made: what they say of themselves is data, and nothing more."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from store_builders import objects, sources, stage, stored_table

import zml_dask as zml
from zml_dask.errors import DatasetDamagedError, StorageError, ZmlError
from zml_dask.pipeline.status import array_costs
from zml_dask.store.commit import commit
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import FAILURES_SCHEMA
from zml_dask.store.staging import FailureRow
from zml_dask.store.staging.frames import BLOB_TRAILER_BYTES, BlobTrailer
from zml_dask.store.storage import Storage
from zml_dask.store.tables import (
    WrittenObject,
    read_manifest,
    write_manifest,
    write_part,
)
from zml_dask.store.verify import verify
from zml_dask.store.verify.repair import repair

Plain = dict[str, Any]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path / "ds")
    for record_id in (1, 2):
        stage(storage, tmp_path, record_id, sources(5, record_id))
        commit(storage)
    return storage


def sealed(plain: Plain) -> bytes:
    """A ``dataset.json`` that fits its own checksum, whatever it says."""
    plain.pop("sha256", None)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    plain["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"


def part(plain: Plain) -> Plain:
    found: Plain = plain["tables"]["files"][0]
    return found


PART = ".parquet/part-00000-0123456789ab.parquet"
HOSTILE: dict[str, Callable[[Plain], object]] = {
    "path that climbs": lambda plain: part(plain).update(path="../victim"),
    "path that climbs from within": lambda p: part(p).update(path="files.parquet/../../victim"),
    "absolute path": lambda plain: part(plain).update(path="/etc/passwd"),
    "path of another table": lambda p: part(p).update(path=f"records{PART}"),
    "path of the file itself": lambda plain: part(plain).update(path="dataset.json"),
    "path that is a number": lambda plain: part(plain).update(path=7),
    "path with a line end": lambda p: part(p).update(path=f"files{PART}\n"),
    "list of objects elsewhere": lambda plain: plain["manifest"][0].update(path="../victim"),
    "rows that are text": lambda plain: part(plain).update(rows="1"),
    "size below zero": lambda plain: part(plain).update(size=-1),
    "no hash": lambda plain: part(plain).update(sha256="../victim"),
    "part that is a list": lambda plain: plain["tables"].update(files=[["files"]]),
    "part with more to it": lambda plain: part(plain).update(url="http://example.org"),
    "table of another name": lambda plain: plain["tables"].update({"(a+)+$": [part(plain)]}),
    "tables that are text": lambda plain: plain.update(tables="files"),
    "no tables": lambda plain: plain.pop("tables"),
    "counts below zero": lambda plain: plain["counts"].update(images=-1),
    "counts beyond any": lambda plain: plain["counts"].update(images=2**70),
    "counts beyond its tables": lambda plain: plain["counts"].update(files=2**62),
    "chunks of no size": lambda plain: plain["arrays"][0].update(chunk=0),
    "shards beyond any": lambda plain: plain["arrays"][0].update(shard=2**62),
    "an array too few": lambda plain: plain["arrays"].pop(),
    "an array of objects": lambda plain: plain["arrays"][0].update(dtype="object"),
    "a generation below zero": lambda plain: plain.update(generation=-1),
    "counts that are fractions": lambda plain: plain["counts"].update(images=1.5),
    "counts that are null": lambda plain: plain["counts"].update(images=None),
    "images of no size": lambda plain: plain["shape"].update(height=0),
    "images of another type": lambda plain: plain["shape"].update(height="80"),
    "options that are a number": lambda plain: plain.update(options=7),
    "next parts that are text": lambda plain: plain["next_part"].update(files="../victim"),
    "a version that is text": lambda plain: plain.update(schema_version="1"),
    "commits that are a number": lambda plain: plain.update(commits=7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_dataset_says_of_itself_is_checked(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    plain = json.loads(storage.read("dataset.json"))
    HOSTILE[name](plain)
    hostile = sealed(plain)
    storage.write("dataset.json", hostile)
    before = objects(storage)
    with pytest.raises(DatasetDamagedError, match="has invalid content"):
        zml.open_dataset(storage.url)
    report = verify(storage)
    assert [problem.path for problem in report.problems] == ["dataset.json"]
    assert not repair(storage, report).ok
    with pytest.raises(DatasetDamagedError):
        commit(storage)
    assert objects(storage) == before
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("change", [(b"\n", b"\r\n"), (b": 1,", b":  1,"), (b"{\n", b"{\n\n")])
def test_white_space_counts_too(storage: Storage, change: tuple[bytes, bytes]) -> None:
    data = storage.read("dataset.json")
    assert change[0] in data
    storage.write("dataset.json", data.replace(*change, 1))
    with pytest.raises(DatasetDamagedError, match="changed by hand"):
        zml.open_dataset(storage.url)
    assert not verify(storage).ok


def test_a_value_changed_by_hand(storage: Storage) -> None:
    plain = json.loads(storage.read("dataset.json"))
    plain["counts"]["images"] += 1
    storage.write("dataset.json", json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n")
    with pytest.raises(DatasetDamagedError, match="its own checksum"):
        zml.open_dataset(storage.url)


def test_a_lost_commit_point_is_not_begun_anew(storage: Storage, tmp_path: Path) -> None:
    """With its tables there, a build would write over what is committed."""
    storage.remove("dataset.json")
    stage(storage, tmp_path, 3, sources(4, 3))
    before = objects(storage)
    with pytest.raises(DatasetDamagedError, match="its tables exist"):
        commit(storage)
    assert objects(storage) == before


def test_json_without_end_is_damage(storage: Storage) -> None:
    storage.write("dataset.json", b"[" * 200_000)
    with pytest.raises(ZmlError):
        zml.open_dataset(storage.url)


def test_a_new_dataset_says_what_it_must() -> None:
    """What is refused above is what was changed, not how the file is sealed."""
    data = DatasetInfo().to_bytes()
    assert sealed(json.loads(data)) == data
    assert DatasetInfo.from_bytes(sealed(copy.deepcopy(json.loads(data)))) == DatasetInfo()


@pytest.mark.parametrize("path", ["/dev/zero", "../victim", "images.zarr/more/c/0", "lines.txt"])
def test_a_list_of_objects_that_lists_others(storage: Storage, tmp_path: Path, path: str) -> None:
    """Neither read (the first has no end) nor believed."""
    (tmp_path / "victim").write_text("mine")
    info = read_info(storage)
    assert info is not None
    more = write_manifest(storage, 9, [WrittenObject(path, 4, "0" * 64)])
    storage.write("dataset.json", replace(info, manifest=(*info.manifest, more)).to_bytes())
    report = verify(storage)
    assert ("counts", path) in {(problem.kind, problem.path) for problem in report.problems}
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_list_of_objects_that_leaves_one_out(storage: Storage) -> None:
    info = read_info(storage)
    assert info is not None
    listed = list(read_manifest(storage, info).values())
    for left_out in ("images.zarr/images/c/0/0/0", "images.zarr/zarr.json"):
        rest = [written for written in listed if written.path != left_out]
        fewer = replace(info, manifest=(write_manifest(storage, 9, rest),))
        storage.write("dataset.json", fewer.to_bytes())
        problems = [(problem.kind, problem.path) for problem in verify(storage).problems]
        assert problems == [("missing", left_out)]


def test_a_record_that_is_listed_twice(storage: Storage) -> None:
    """As a part whose rows are in another part already."""
    info = read_info(storage)
    assert info is not None
    twice = (*info.tables["records"], info.tables["records"][0])
    counts = replace(info.counts, records=info.counts.records + 1)
    changed = replace(info, counts=counts, tables={**info.tables, "records": twice})
    storage.write("dataset.json", changed.to_bytes())
    assert "a record occurs twice" in {problem.message for problem in verify(storage).problems}


def test_tables_that_fit_their_checksums_and_not_each_other(storage: Storage) -> None:
    """Each said as if it had been committed so."""
    good = read_info(storage)
    assert good is not None

    def told(table: str, **columns: list[object]) -> set[str]:
        rows = stored_table(storage, table, good)
        for name, values in columns.items():
            place = rows.schema.get_field_index(name)
            field = rows.schema.field(place)
            rows = rows.set_column(place, field, pa.array(values, field.type))
        tables = {**good.tables, table: (write_part(storage, table, 99, [rows]),)}
        storage.write("dataset.json", replace(good, tables=tables).to_bytes())
        return {problem.message for problem in verify(storage).problems}

    records, files = (stored_table(storage, name, good) for name in ("records", "files"))
    more = [count + 1 for count in records["n_images"].to_pylist()]
    assert told("records", n_images=more) == {"records' counts are not those of their files"}
    ids = files["file_id"].to_pylist()
    assert "file ids from 0 on are not consecutive" in told("files", file_id=[*ids[:-1], 99])
    firsts = files["first_image"].to_pylist()
    assert "images from 0 on overlap or leave a gap" in told(
        "files", first_image=[*firsts[:-1], 99]
    )
    lines = [count + 80 for count in files["n_lines"].to_pylist()]
    assert "files' images do not fit their lines" in told("files", n_lines=lines)
    row = asdict(FailureRow(1, "fetch", "gone", "410", 1, True))
    failed = write_part(storage, "failures", 99, [pa.Table.from_pylist([row], FAILURES_SCHEMA)])
    counts = replace(good.counts, failures=1)
    tables = {**good.tables, "failures": (failed,)}
    storage.write("dataset.json", replace(good, tables=tables, counts=counts).to_bytes())
    assert {problem.message for problem in verify(storage).problems} == {
        "a record is listed as failed and is committed"
    }


@pytest.mark.parametrize("url", ["{}", "memory://hostile"])
@pytest.mark.parametrize("path", ["../victim", "/etc/passwd", "a/../../victim", "..", "a\0b"])
def test_no_path_leads_out_of_a_storage(tmp_path: Path, url: str, path: str) -> None:
    (tmp_path / "victim").write_text("mine")
    local = tmp_path / "local"
    local.write_text("x")
    storage = Storage.open(url.format(tmp_path / "ds"))
    for use in (
        lambda: storage.read(path),
        lambda: storage.read_range(path, 0, 1),
        lambda: storage.read_tail(path, 1),
        lambda: storage.open_reader(path),
        lambda: storage.size(path),
        lambda: storage.exists(path),
        lambda: storage.list(path),
        lambda: storage.write(path, b"x"),
        lambda: storage.write_new(path, b"x"),
        lambda: storage.publish(local, path),
        lambda: storage.remove(path),
        *((lambda: storage.prune(path),) if storage.is_local else ()),  # no folders elsewhere
    ):
        with pytest.raises(StorageError, match="leads out of the dataset"):
            use()
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_part_in_place_of_another_of_its_size_is_found(storage: Storage) -> None:
    """Two parts of one table, the smaller filled up to the size of the other, changed over."""
    one, other = storage.list("records.parquet")
    data = {path: storage.read(path) for path in (one, other)}
    storage.write(one, data[other].ljust(len(data[one]), b"\0")[: len(data[one])])
    storage.write(other, data[one].ljust(len(data[other]), b"\0")[: len(data[other])])
    assert [storage.size(path) for path in (one, other)] == [len(found) for found in data.values()]
    report = verify(storage)
    assert {(problem.kind, problem.path) for problem in report.problems} == {
        ("damaged", one),
        ("damaged", other),
    }


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return open, ("pickle-was-read", "w")  # type: ignore[return-value]


def test_arrays_of_the_format_that_may_unpickle_are_not_opened(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr v2 names its codecs itself, and one of them was ``pickle``."""
    monkeypatch.chdir(tmp_path)
    # As releases of numcodecs had it until it was switched off.
    monkeypatch.setattr(
        "numcodecs.pickles.Pickle.decode", lambda _, buffer, out=None: pickle.loads(bytes(buffer))
    )
    shutil.rmtree(tmp_path / "ds" / "images.zarr")
    group = tmp_path / "ds" / "images.zarr"
    for name in ("images", "record_id", "file_id", "segment", "n_lines"):
        (group / name).mkdir(parents=True)
        array = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "order": "C"}
        codecs = {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None}
        (group / name / ".zarray").write_text(json.dumps(array | codecs | {"fill_value": ""}))
        (group / name / "0").write_bytes(pickle.dumps(_Bomb()))
    (group / ".zgroup").write_text('{"zarr_format": 2}')
    info = read_info(storage)
    assert info is not None
    assert array_costs(storage, info)
    with pytest.raises(ZmlError):
        zml.open_dataset(storage.url).images[:1].compute()
    assert not verify(storage).ok
    assert not (tmp_path / "pickle-was-read").exists()


def test_a_dataset_may_be_a_link(storage: Storage, tmp_path: Path) -> None:
    """A user's own, to where there is room: what it leads to is read and written."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ds", target_is_directory=True)
    linked = Storage.open(link)
    stage(linked, tmp_path, 3, sources(4, 3))
    commit(linked)
    assert link.is_symlink()
    assert verify(storage, deep=True).ok
    assert len(zml.open_dataset(link).records) == 3


def test_what_is_foreign_in_staging_is_left_out(storage: Storage, tmp_path: Path) -> None:
    stage(storage, tmp_path, 3, sources(4, 3))
    foreign = {
        "staging/records/notes.txt": b"mine",
        "staging/records/999": b"",
        "staging/packs/old.zip": b"PK\x03\x04" + bytes(500),
        "staging/packs/noise": b"\xff" * 500,
        "staging/records/noise": b"\xff" * 500,
        "staging/failures/4.json": b"[1, 2]",
        "staging/failures/5.json": b'{"record_id": "x"}',
        "staging/elsewhere/6": b"mine",
        "staging/.DS_Store": b"mine",
    }
    for path, data in foreign.items():
        storage.write(path, data)
    commit(storage)
    dataset = zml.open_dataset(storage.url)
    assert sorted(dataset.records.record_id) == [1, 2, 3]
    assert verify(storage, deep=True).ok
    for path, data in foreign.items():
        assert storage.read(path) == data


def test_counts_that_a_staged_record_does_not_hold_are_not_committed(
    storage: Storage, tmp_path: Path
) -> None:
    """A trailer that fits its own checksum, and not the texts before it."""
    stage(storage, tmp_path, 3, sources(6, 3))
    path = "staging/records/3"
    blob = storage.read(path)
    body, tail = blob[:-BLOB_TRAILER_BYTES], blob[-BLOB_TRAILER_BYTES:]
    trailer = BlobTrailer.from_bytes(tail, path)
    storage.write(path, body + replace(trailer, n_images=trailer.n_images + 1).to_bytes())
    with pytest.raises(DatasetDamagedError, match=r"staging|staged"):
        commit(storage)
    storage.remove(storage.list("staging"))
    report = verify(storage, deep=True)
    assert report.ok
    assert report.checked["records"] == 2
