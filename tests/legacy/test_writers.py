"""The 2018 files: content, form, determinism, memory, and readers of the time."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from zml_dask.errors import UsageError
from zml_dask.legacy.hdf5 import Hdf5Writer, read_images_hdf5
from zml_dask.legacy.legacy_record import Canvas, LegacyFile, LegacyRecord
from zml_dask.legacy.pickles import PickleWriter
from zml_dask.legacy.record_files import export_record, is_exported, parse_formats
from zml_dask.store.storage import Storage

from .conftest import HIT, SOURCES, draw_files
from .reference import must_be_equal, segments_2018

FORMATS = parse_formats(["pickle", "hdf5", "tree"])
AWKWARD = [
    *("a", "a/b", "a__0", "a__0/b", "a__0/b__0/c", "a%5F_0/b", "a//b", "a/", "./x", "/etc/motd"),
    *("n\0l", ".", "%2E", "%2E/y", "..", "../z", "d/" * 300 + "e"),
]
MakeRecord = Callable[..., LegacyRecord]


@pytest.fixture
def exported(tmp_path: Path, make_record: MakeRecord) -> Path:
    assert export_record(make_record(), Storage.open(tmp_path), FORMATS) == 11
    return tmp_path / "legacy" / "7"


def test_the_pickle_is_a_dict_of_lists_of_int64_segments(exported: Path) -> None:
    images = pickle.loads((exported / "images_7.pkl").read_bytes())
    assert list(images) == sorted(path for path in SOURCES if not path.endswith(".gif"))
    assert images["top/empty"] == []
    shapes = [segment.shape for segment in images["top/src/a.py"]]
    assert shapes == [(80, 80), (80, 80), (40, 80)]
    assert {segment.dtype for found in images.values() for segment in found} == {np.dtype("i8")}
    for path, data in SOURCES.items():
        if must_be_equal(data):
            for ours, theirs in zip(images[path], segments_2018(data), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_the_hdf5_file_has_the_same_segments(exported: Path) -> None:
    images = pickle.loads((exported / "images_7.pkl").read_bytes())
    with h5py.File(exported / "images_7.h5") as file:
        for path, segments in images.items():
            for number, segment in enumerate(segments):
                dataset = file[f"{path}__{number}"]
                assert (dataset.dtype, dataset.shape) == (np.dtype("<i8"), segment.shape)
                assert (dataset.shuffle, dataset.compression) == (True, "gzip")
                np.testing.assert_array_equal(dataset[...], segment)
    with (exported / "images_7.h5").open("rb") as stream:
        assert dict.fromkeys(path for path, _ in read_images_hdf5(stream)).keys() == {
            path for path, segments in images.items() if segments
        }


def test_the_hdf5_file_has_the_form_that_the_oldest_libraries_open(tmp_path: Path) -> None:
    sources = {f"{number % 5}/{number:03}.py": b"x = 1\n" * number for number in range(1, 300)}
    path = tmp_path / "images.h5"
    with Hdf5Writer(path) as writer:
        for file in draw_files(sources):
            writer.add(file)
    with h5py.File(path) as file:
        assert file.id.get_create_plist().get_version()[0] <= 1  # of the superblock
    # Signatures of what HDF5 1.8 brought: object headers, heaps and trees of groups.
    assert [mark for mark in (b"OHDR", b"FRHP", b"BTHD") if mark in path.read_bytes()] == []


def test_an_hdf5_dataset_takes_little_more_than_its_chunk(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    with Hdf5Writer(path) as writer:
        for file in draw_files({f"{number:04}": b"x = 1\n" * 80 for number in range(1000)}):
            writer.add(file)
    with h5py.File(path) as file:
        chunks = sum(dataset.id.get_storage_size() for dataset in file.values())
    assert (path.stat().st_size - chunks) / 1000 < 600


def test_metadata_holds_tree_and_hit(exported: Path) -> None:
    metadata = pickle.loads((exported / "metadata_7.pkl").read_bytes())
    assert metadata["hit"] == HIT
    assert metadata["tree"]["top"]["src"]["old.f"] == len(SOURCES["top/src/old.f"])
    assert metadata["tree"]["top"]["logo.gif"] == 8
    tree_json = (exported / "tree_7.json").read_text()
    assert tree_json.startswith('{"top":{".gitignore":6,')


def test_bytes_depend_on_content_alone(tmp_path: Path, make_record: MakeRecord) -> None:
    for folder in ("one", "two"):
        export_record(make_record(), Storage.open(tmp_path), FORMATS, folder=folder)
    for path in (tmp_path / "one").rglob("*.*"):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes()


def test_the_pickle_asks_for_names_that_numpy_1_has(exported: Path) -> None:
    wanted = {
        argument
        for opcode, argument, _ in pickletools.genops((exported / "images_7.pkl").read_bytes())
        if opcode.name == "GLOBAL"
    }
    assert wanted == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
    assert (exported / "images_7.pkl").read_bytes()[:2] == pickle.PROTO + b"\x03"


def test_only_what_is_asked_for_is_written(tmp_path: Path, make_record: MakeRecord) -> None:
    storage = Storage.open(tmp_path)
    export_record(make_record(), storage, ["hdf5"])
    assert storage.list("legacy") == ["legacy/7/images_7.h5", "legacy/7/metadata_7.pkl"]
    assert is_exported(storage, 7, ["hdf5"])
    assert not is_exported(storage, 7, ["hdf5", "pickle"])


@pytest.mark.parametrize("name", ["images_7.pkl", "images_7.h5", "metadata_7.pkl", "tree_7.json"])
def test_a_torn_file_does_not_count_as_exported(exported: Path, name: str) -> None:
    storage = Storage.open(exported.parent.parent)
    assert is_exported(storage, 7, FORMATS)
    whole = (exported / name).read_bytes()
    for torn in (b"", whole[: len(whole) // 2], whole[:-100] + bytes(100)):
        (exported / name).write_bytes(torn)
        if name != "images_7.h5" or len(torn) != len(whole):
            assert not is_exported(storage, 7, FORMATS)
    (exported / name).write_bytes(whole)
    assert is_exported(storage, 7, FORMATS)


def test_an_hdf5_file_of_the_library_s_usual_form_counts_as_exported(exported: Path) -> None:
    storage, path = Storage.open(exported.parent.parent), exported / "images_7.h5"
    with h5py.File(path, "w") as file:
        file["a__0"] = np.zeros((80, 80), np.int64)
        assert file.id.get_create_plist().get_version()[0] == 0
    assert is_exported(storage, 7, FORMATS)
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_exported(storage, 7, FORMATS)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Iterator[LegacyFile]:
        yield Canvas().file("a", b"a\n")
        raise OSError("the source is gone")

    storage = Storage.open(tmp_path / "dataset")
    with pytest.raises(OSError, match="the source is gone"):
        export_record(LegacyRecord(7, None, breaks()), storage, FORMATS, scratch=tmp_path)
    assert storage.list() == []
    assert list(tmp_path.glob("legacy-*")) == []


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UsageError, match=r"'xml'.*pickle, hdf5, tree"):
        parse_formats(["pickle", "xml"])


def test_names_that_hdf5_cannot_hold_lose_nothing(tmp_path: Path) -> None:
    sources = {path: f"{path!r}\n".encode() for path in AWKWARD}
    with Hdf5Writer(tmp_path / "images.h5") as writer:
        for file in draw_files(sources):
            writer.add(file)
    with (tmp_path / "images.h5").open("rb") as stream:
        found = {
            path: "".join(map(chr, segments[0][0])).rstrip()
            for path, segments in read_images_hdf5(stream)
        }
    assert found == {path: repr(path)[:80] for path in sources}


def test_files_in_another_order_lose_nothing_either(tmp_path: Path) -> None:
    files = [("a__0/b", b"1\n"), ("a", b"2\n"), ("c/d", b"3\n"), ("a__0/c", b"4\n")]
    with Hdf5Writer(tmp_path / "images.h5") as writer:
        for path, text in files:
            writer.add(Canvas().file(path, text))
    with (tmp_path / "images.h5").open("rb") as stream:
        found = {path: segments[0][0, 0] for path, segments in read_images_hdf5(stream)}
    assert found == {path: text[0] for path, text in files}


def test_a_pickle_of_many_empty_files_and_one_of_many_images(tmp_path: Path) -> None:
    sources = {f"{number:04}": b"" for number in range(3000)} | {"z": b"x\n" * 80 * 150 + b"y\n"}
    with PickleWriter(tmp_path / "images.pkl") as writer:
        for file in draw_files(sources):
            writer.add(file)
    images = pickle.loads((tmp_path / "images.pkl").read_bytes())
    assert len(images) == 3001
    assert [segment.shape for segment in images["z"]] == [(80, 80)] * 150 + [(1, 80)]
    assert all((segment[:, 0] == ord("x")).all() for segment in images["z"][:150])


def test_a_pickle_is_whole_though_the_system_takes_little_at_a_time(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_record(make_record(), Storage.open(tmp_path), ["pickle"], folder="whole")
    write = os.write
    monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, b"".join(parts)[:100_000]))
    export_record(make_record(), Storage.open(tmp_path), ["pickle"], folder="bites")
    whole, bites = (tmp_path / name / "7" / "images_7.pkl" for name in ("whole", "bites"))
    assert whole.read_bytes() == bites.read_bytes()


def test_threads_that_write_hdf5_at_once_do_not_meet(tmp_path: Path) -> None:
    sources = {f"{number}/a.py": b"x = 1\n" * 90 for number in range(20)}

    def write(number: int) -> bytes:
        path = tmp_path / f"{number}.h5"
        with Hdf5Writer(path) as writer:
            for file in draw_files(sources):
                writer.add(file)
        return path.read_bytes()

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(write, range(600)))) == 1


def test_a_full_disk_is_said_to_be_one_and_the_process_ends_well(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from zml_dask.legacy.hdf5 import Hdf5Writer
from zml_dask.legacy.legacy_record import Canvas
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with Hdf5Writer(Path(sys.argv[1])) as writer:
        for number in range(4000):
            writer.add(Canvas().file(f"{number % 7}/{number}", b"x\\n"))
except OSError as error:
    print(error)
"""
    for size in (100_000, 1_000_000):
        command = [sys.executable, "-c", script, str(tmp_path / "full.h5"), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"[Errno 27] File too large: '{tmp_path / 'full.h5'}'\n"
        assert done.stderr == ""


@pytest.mark.parametrize("writer", [PickleWriter, Hdf5Writer])
def test_memory_does_not_grow_with_the_record(
    tmp_path: Path, writer: type[PickleWriter | Hdf5Writer]
) -> None:
    text = b"x\n" * 800  # ten images: half a megabyte of int64 a file

    def peak(n_files: int) -> int:
        canvas = Canvas()
        tracemalloc.start()
        with writer(tmp_path / "images") as target:
            for number in range(n_files):
                target.add(canvas.file(f"{number:04}", text))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(60) < peak(6) + 500_000
