"""The 2018 dataset imported: same images, honest nulls, nothing run, resumable."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import distributed
import h5py
import numpy as np
import pytest
import zarr
from PySquashfsImage import SquashFsImage
from store_builders import stored_table

from zml_dask.engine.executors import DaskExecutor, SerialExecutor
from zml_dask.engine.progress import ProgressCounts, SilentProgress
from zml_dask.errors import UsageError
from zml_dask.legacy.record_files import parse_formats
from zml_dask.legacy.sources import (
    FolderSource,
    LegacyFileError,
    LegacySource,
    SquashfsSource,
    open_source,
)
from zml_dask.pipeline import importing
from zml_dask.pipeline.importing import import_legacy
from zml_dask.publish.squashfs import write_squashfs
from zml_dask.store.info import read_info
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw

from .conftest import export_dataset
from .import_poison import POISON
from .reference import segments_2018
from .test_safe_pickle import FORBIDDEN

SOURCES = {
    "top/a.py": b"x = 1\n" * 100,
    "top/full.c": b"int x;\n" * 80,
    "top/last.txt": b"y\n" * 80 + b"abc",
    "top/empty": b"",
    "top/logo.gif": bytes(range(256)),
}


def rows(dataset: Path, table: str) -> list[dict[str, Any]]:
    return stored_table(Storage.open(dataset), table).to_pylist()


def arrays(dataset: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(str(dataset / "images.zarr"), mode="r")
    names = ("images", "record_id", "file_id", "segment", "n_lines")
    return {name: np.asarray(group[name]) for name in names}


def write_2018(folder: Path, record_id: int, sources: Mapping[str, bytes] = SOURCES) -> Path:
    """Write a record as the first edition's job did."""
    place = folder / str(record_id)
    place.mkdir(parents=True)
    images = {path: segments_2018(data) for path, data in sources.items()}
    (place / f"images_{record_id}.pkl").write_bytes(pickle.dumps(images, 3))
    with h5py.File(place / f"images_{record_id}.h5", "w") as file:
        for path, segments in images.items():
            for number, segment in enumerate(segments):
                file.create_dataset(f"{path}__{number}", data=segment)
    hit = {"id": record_id, "metadata": {"title": f"Record {record_id}"}}
    (place / f"metadata_{record_id}.pkl").write_bytes(pickle.dumps({"tree": {}, "hit": hit}, 3))
    return place


def run(source: Path, dataset: Path, **options: Any) -> Any:
    return import_legacy(source, dataset, lambda: nullcontext(SerialExecutor()), **options)


def test_images_are_those_of_2018(tmp_path: Path) -> None:
    write_2018(tmp_path / "old", 12)
    write_2018(tmp_path / "old", 7)
    result = run(tmp_path / "old", tmp_path / "new")
    assert (result.found, result.imported, result.failed, result.already) == (2, 2, 0, 0)
    found = arrays(tmp_path / "new")
    expected = [
        (record_id, segment)
        for record_id in (7, 12)
        for path in sorted(SOURCES)
        for segment in segments_2018(SOURCES[path])
        if segment.size
    ]
    assert len(found["images"]) == len(expected) == result.images
    for number, (record_id, segment) in enumerate(expected):
        n = found["n_lines"][number]
        np.testing.assert_array_equal(found["images"][number, :n], segment)
        assert (found["images"][number, n:] == 32).all()
        assert found["record_id"][number] == record_id
    assert not verify(tmp_path / "new", deep=True).problems


def test_tables_hold_what_is_known_and_null_for_the_rest(tmp_path: Path) -> None:
    write_2018(tmp_path / "old", 7)
    run(tmp_path / "old", tmp_path / "new")
    files = {row["path"]: row for row in rows(tmp_path / "new", "files")}
    python = files["top/a.py"]
    assert (python["language"], python["extension"], python["n_lines"]) == ("Python", "py", 100)
    unknown = ("size", "sha256", "encoding", "n_cut")
    assert all(row[name] is None for row in files.values() for name in unknown)
    assert files["top/full.c"]["reason"] == "1 empty segment left out"
    assert (files["top/empty"]["status"], files["top/a.py"]["status"]) == ("empty", "ok")
    (record,) = rows(tmp_path / "new", "records")
    assert (record["title"], record["doi"], record["origin"]) == ("Record 7", None, "legacy")
    assert (record["archive_bytes"], record["archive_checksum"]) == (None, None)


@pytest.mark.parametrize("protocol", range(5))
def test_several_files_that_end_in_an_empty_segment(tmp_path: Path, protocol: int) -> None:
    place = write_2018(tmp_path / "old", 7)
    images = {f"top/{n}.c": segments_2018(b"int x;\n" * 80) for n in range(3)}
    (place / "images_7.pkl").write_bytes(pickle.dumps(images, protocol))
    (place / "images_7.h5").unlink()
    result = run(tmp_path / "old", tmp_path / "new")
    assert (result.imported, result.images) == (1, 3)


def test_a_damaged_pickle_gives_way_to_the_hdf5_file(tmp_path: Path) -> None:
    write_2018(tmp_path / "old", 7)
    run(tmp_path / "old", tmp_path / "whole")
    for number, damage in enumerate([b"", b"cut", b"\x80\x03N."]):
        place = tmp_path / f"old{number}" / "7"
        shutil.copytree(tmp_path / "old" / "7", place)
        target = place / "images_7.pkl"
        target.write_bytes(target.read_bytes()[:900] if damage == b"cut" else damage)
        result = run(place.parent, tmp_path / f"new{number}")
        assert (result.imported, result.failed) == (1, 0)
        for name, values in arrays(tmp_path / "whole").items():
            if name != "file_id":  # 2018's HDF5 holds no file without pixels
                np.testing.assert_array_equal(arrays(tmp_path / f"new{number}")[name], values)


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools")
def test_the_hdf5_file_within_a_squashfs_image_is_read_too(tmp_path: Path) -> None:
    place = write_2018(tmp_path / "old", 7)
    (place / "images_7.pkl").write_bytes(b"")
    files = [(f"7/{path.name}", path) for path in sorted(place.iterdir())]
    write_squashfs(files, tmp_path / "old.sqsh", compression="zstd")
    assert run(tmp_path / "old.sqsh", tmp_path / "new").images == 6


def test_what_cannot_be_read_is_a_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    old = tmp_path / "old"
    write_2018(old, 1)
    hostile = write_2018(old, 2)
    mark = tmp_path / "mark"
    attack = FORBIDDEN["a command, protocol 0"].replace(b"{mark}", str(mark).encode())
    (hostile / "images_2.pkl").write_bytes(attack)
    (write_2018(old, 3) / "metadata_3.pkl").write_bytes(attack)
    broken = write_2018(old, 4)
    (broken / "images_4.pkl").write_bytes(b"")
    (broken / "images_4.h5").write_bytes(b"")
    for name in ("images_5.pkl", "images_5.h5"):
        (write_2018(old, 5) if name.endswith("pkl") else old / "5").joinpath(name).unlink()
    result = run(old, tmp_path / "new")
    assert (result.imported, result.failed) == (1, 4)
    assert not mark.exists()
    failures = {row["record_id"]: row for row in rows(tmp_path / "new", "failures")}
    assert {number: row["kind"] for number, row in failures.items()} == {
        2: "hostile_pickle", 3: "hostile_pickle", 4: "damaged_legacy", 5: "damaged_legacy",
    }  # fmt: skip
    assert "asks for posix.system" in failures[2]["message"]
    assert "HDF5" in failures[4]["message"]
    again = run(old, tmp_path / "new")
    assert (again.already, again.imported, again.failed) == (5, 0, 0)
    write = pickle.dumps({"top/a.py": segments_2018(SOURCES["top/a.py"])})
    (hostile / "images_2.pkl").write_bytes(write)
    retried = run(old, tmp_path / "new", retry_failed=True)
    assert (retried.imported, retried.failed) == (1, 3)
    assert {row["record_id"] for row in rows(tmp_path / "new", "failures")} == {3, 4, 5}


@pytest.mark.parametrize("name", ["metadata_7.pkl", "images_7.pkl", "images_7.h5"])
@pytest.mark.parametrize("squashed", [False, True])
def test_a_disk_that_fails_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, squashed: bool
) -> None:
    if squashed and shutil.which("mksquashfs") is None:
        pytest.skip("needs squashfs-tools")
    source = tmp_path / "old"
    place = write_2018(source, 7)
    if name == "images_7.h5":
        (place / "images_7.pkl").unlink()
    if squashed:
        files = [(f"7/{path.name}", path) for path in sorted(place.iterdir())]
        source = tmp_path / "old.sqsh"
        write_squashfs(files, source)

    with monkeypatch.context() as patch:
        for kind in (FolderSource, SquashfsSource):
            patch.setattr(kind, "open", failing_at(name, kind.open))
        result = run(source, tmp_path / "new")
    assert (result.imported, result.failed) == (0, 1)
    (failure,) = rows(tmp_path / "new", "failures")
    assert (failure["kind"], failure["permanent"]) == ("unreadable_source", False)
    assert failure["message"].startswith(f"7/{name} could not be read: Input/output error; ")
    again = run(source, tmp_path / "new")
    assert (again.imported, again.images) == (1, 6)
    assert [row["title"] for row in rows(tmp_path / "new", "records")] == ["Record 7"]
    assert not rows(tmp_path / "new", "failures")


def failing_at(name: str, opened: Callable[..., IO[bytes]]) -> Callable[..., IO[bytes]]:
    """A source's way to open files, where the disk fails in the midst of one of them."""

    def opening(source: LegacySource, path: str) -> IO[bytes]:
        stream = opened(source, path)
        return stream if not path.endswith(name) else io.BufferedReader(_Failing(stream), 64)

    return opening


class _Failing(io.RawIOBase):
    """A stream of a disk that gives an error after the first bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._reads = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, target: Any) -> int:
        self._reads += 1
        if self._reads > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = self._stream.read(len(target))
        target[: len(data)] = data
        return len(data)


def test_a_squashfs_image_on_a_disk_that_fails_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.sqsh").write_bytes(b"hsqs")

    def failing(*_: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(SquashFsImage, "from_file", failing)
    with pytest.raises(OSError, match="Stale file handle"):
        open_source(tmp_path / "old.sqsh").records()


def test_a_lack_of_memory_is_not_the_record_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_2018(tmp_path / "old", 7)

    def lacking(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("zml_dask.safe_pickle._fill_array", lacking)
        assert run(tmp_path / "old", tmp_path / "new").failed == 1
    assert [row["permanent"] for row in rows(tmp_path / "new", "failures")] == [False]
    assert run(tmp_path / "old", tmp_path / "new").images == 6


def test_a_withdrawn_record_is_not_imported(tmp_path: Path) -> None:
    write_2018(tmp_path / "old", 7)
    run(tmp_path / "old", tmp_path / "new")
    withdraw(Storage.open(tmp_path / "new"), [8], "asked for by its author")
    write_2018(tmp_path / "old", 8)
    result = run(tmp_path / "old", tmp_path / "new", retry_failed=True)
    assert (result.already, result.imported) == (2, 0)
    assert [row["record_id"] for row in rows(tmp_path / "new", "records")] == [7]


def test_old_pickles_and_the_tree_class(tmp_path: Path, old_pickles: dict[str, bytes]) -> None:
    for number, era in enumerate(("py27_{}_p0", "py27_{}_p2", "py36_{}_p3", "py36_{}_p4"), 1):
        place = tmp_path / "old" / str(number)
        place.mkdir(parents=True)
        for kind in ("images", "metadata"):
            data = old_pickles[f"{era.format(kind)}.pkl"]
            (place / f"{kind}_{number}.pkl").write_bytes(data)
    result = run(tmp_path / "old", tmp_path / "new")
    assert (result.imported, result.images) == (4, 12)
    assert {row["title"] for row in rows(tmp_path / "new", "records")} == {"Tiéle"}


def test_metadata_that_is_missing_or_damaged_leaves_nulls(tmp_path: Path) -> None:
    (write_2018(tmp_path / "old", 1) / "metadata_1.pkl").unlink()
    (write_2018(tmp_path / "old", 2) / "metadata_2.pkl").write_bytes(b"\x80")
    (write_2018(tmp_path / "old", 3) / "metadata_3.pkl").write_bytes(pickle.dumps({"hit": {}}))
    assert run(tmp_path / "old", tmp_path / "new").imported == 3
    for row in rows(tmp_path / "new", "records"):
        metadata = "{}" if row["record_id"] == 3 else None
        assert (row["title"], row["metadata"], row["n_images"]) == (None, metadata, 6)


def test_metadata_that_has_no_end_leaves_nulls(tmp_path: Path) -> None:
    place = write_2018(tmp_path / "old", 7)
    nested: list[Any] = ["x"]
    for _ in range(60):
        nested = [nested, nested]
    hit = {"id": 7, "metadata": {"title": "t", "x": nested}}
    (place / "metadata_7.pkl").write_bytes(pickle.dumps({"tree": {}, "hit": hit}, 3))
    assert run(tmp_path / "old", tmp_path / "new").imported == 1
    assert [row["title"] for row in rows(tmp_path / "new", "records")] == [None]


def test_a_pickle_that_lists_an_array_again_and_again_is_not_followed(tmp_path: Path) -> None:
    place = write_2018(tmp_path / "old", 7)
    (place / "images_7.h5").unlink()
    segment = np.full((80, 80), 97)
    empty = [np.zeros((0, 0), np.int64)] * 10_000
    for images in (
        {"a.py": [segment] * 20_000},
        {f"{n}.py": [segment] * 100 for n in range(200)},
        {f"{n}.py": empty for n in range(2_000)},
    ):
        (place / "images_7.pkl").write_bytes(pickle.dumps(images, 3))
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        assert run(tmp_path / "old", tmp_path / "new").failed == 1
        (failure,) = rows(tmp_path / "new", "failures")
        assert failure["kind"] == "damaged_legacy"
        assert "refers to the same arrays many times" in failure["message"]
    few = {"a.py": [segment] * 3, "b.py": [segment]}
    (place / "images_7.pkl").write_bytes(pickle.dumps(few, 3))
    shutil.rmtree(tmp_path / "new")
    assert run(tmp_path / "old", tmp_path / "new").images == 4


def test_a_file_that_no_text_draws_is_listed_with_the_reason(tmp_path: Path) -> None:
    place = write_2018(tmp_path / "old", 7)
    images = {"wide": [np.full((2, 100), 97)], "good": [np.full((2, 80), 97)]}
    (place / "images_7.pkl").write_bytes(pickle.dumps(images))
    run(tmp_path / "old", tmp_path / "new")
    files = {row["path"]: row for row in rows(tmp_path / "new", "files")}
    assert files["wide"]["status"] == "damaged"
    assert "80 wide" in files["wide"]["reason"]
    assert files["good"]["n_images"] == 1


class _Interrupting(SilentProgress):
    """Ctrl-C while the fourth record's result is shown."""

    def update(self, stage: str, counts: ProgressCounts) -> None:
        if stage == "records" and counts.done == 4:
            raise KeyboardInterrupt


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 7):
        write_2018(tmp_path / "old", number)
    run(tmp_path / "old", tmp_path / "whole")
    monkeypatch.setattr(importing, "_PARTITION_RECORDS", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "old", tmp_path / "new", progress=_Interrupting())
    assert read_info(Storage.open(tmp_path / "new")) is None
    result = run(tmp_path / "old", tmp_path / "new")
    assert (result.already, result.imported) == (4, 2)
    for name, values in arrays(tmp_path / "whole").items():
        np.testing.assert_array_equal(arrays(tmp_path / "new")[name], values)


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools")
def test_export_squashfs_import_gives_the_same_dataset(dataset: Path, tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out", parse_formats(["pickle", "hdf5"]))
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    write_squashfs(
        ((path.relative_to(tmp_path / "out").as_posix(), path) for path in files),
        tmp_path / "old.sqsh",
    )
    result = run(tmp_path / "old.sqsh", tmp_path / "new")
    assert (result.failed, result.imported) == (0, 5)
    before, after = arrays(dataset), arrays(tmp_path / "new")
    order = np.lexsort((np.arange(len(before["images"])), before["record_id"]))
    for name in ("images", "record_id", "segment", "n_lines"):
        np.testing.assert_array_equal(before[name][order], after[name])
    assert not verify(tmp_path / "new", deep=True).problems
    # And once more out again: the pickles' bytes are those that came in.
    export_dataset(tmp_path / "new", tmp_path / "again", ["pickle"])
    for record_id in Snapshot.open(dataset).scan("records", ["record_id"])["record_id"].to_pylist():
        name = f"{record_id}/images_{record_id}.pkl"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        run(tmp_path / "nothing", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no record of 2018"):
        run(tmp_path / "empty", tmp_path / "new")
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(UsageError, match="neither a folder nor a squashfs image"):
        run(tmp_path / "file", tmp_path / "new")
    (tmp_path / "bad.sqsh").write_bytes(b"hsqs" + os.urandom(200))
    with pytest.raises(LegacyFileError, match="cannot be read as squashfs"):
        run(tmp_path / "bad.sqsh", tmp_path / "new")


def test_records_are_found_wherever_they_lie(tmp_path: Path) -> None:
    write_2018(tmp_path / "old" / "data" / "a", 7)
    write_2018(tmp_path / "old" / "data" / "b", 7)
    write_2018(tmp_path / "old", 8)
    (tmp_path / "old" / "9").mkdir()
    (tmp_path / "old" / "9" / "images_8.pkl").write_bytes(b"")
    (tmp_path / "old" / "x").mkdir()
    (tmp_path / "old" / "x" / "images_x.pkl").write_bytes(b"")
    found = open_source(tmp_path / "old").records()
    assert [(record.record_id, record.pickle) for record in found] == [
        (7, "data/a/7/images_7.pkl"),
        (8, "8/images_8.pkl"),
    ]


def test_a_record_that_kills_its_workers_fails_alone_and_counts_its_attempts(
    tmp_path: Path,
) -> None:
    for number in range(1, 6):
        write_2018(tmp_path / "old", number)
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=50,
            preload=[str(Path(__file__).with_name("import_poison.py"))],
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        # As on the build's own clusters: a nanny ends with a worker that dies as it starts.
        cluster.adapt(minimum=2, maximum=2)
        opened = lambda: nullcontext(DaskExecutor(client))  # noqa: E731
        first = import_legacy(tmp_path / "old", tmp_path / "new", opened)
        assert (first.imported, first.failed) == (4, 1)
        import_legacy(tmp_path / "old", tmp_path / "new", opened, retry_failed=True)
    (failure,) = rows(tmp_path / "new", "failures")
    assert (failure["record_id"], failure["kind"]) == (POISON, "worker_killed")
    assert (failure["attempts"], failure["permanent"]) == (2, True)
    log = [json.loads(line) for line in (tmp_path / "new/build.log.jsonl").open()]
    assert {event["event"] for event in log} == {"start", "record", "end"}
