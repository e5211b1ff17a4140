"""A crash, a full disk or a read-only store at every single operation that changes something."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_builders import content_of, objects, sources, stage, stored_table

from zml_dask.errors import StorageError, ZmlError
from zml_dask.store import layout
from zml_dask.store import storage as operations
from zml_dask.store.commit import commit, finish_commit, plan_commit, run_task
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.staging import FailureRow, StagingIndex, pack_records, stage_failure
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw

FIRST = {record_id: sources(5, record_id) for record_id in (1, 2)}
SECOND = {record_id: sources(4, record_id) for record_id in (3, 4)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(layout, "IMAGES", replace(layout.IMAGES, chunk=2, shard=8))
    small = tuple(replace(spec, chunk=4, shard=16) for spec in layout.INDICES)
    monkeypatch.setattr(layout, "INDICES", small)
    yield
    operations.before_operation = None


class Crash(BaseException):
    """The process ends here; nothing may catch it."""


class FailAt:
    """Fails at the n-th operation and all that follow it, as a dead process or a full disk does."""

    def __init__(self, number: int, fail: Callable[[], None]) -> None:
        self.left = number
        self.fail = fail
        self.failed = False

    def __call__(self, operation: str, path: str) -> None:
        if self.left == 0:
            self.failed = True
            self.fail()
        else:
            self.left -= 1


def build(storage: Storage, scratch: Path, records: dict, name: str) -> None:
    """Stage, pack and commit: all that a build does to its dataset."""
    staged = StagingIndex.load(storage)
    info = read_info(storage)
    done = stored_table(storage, "records")["record_id"].to_pylist() if info else []
    for record_id, files in records.items():
        if staged.find(record_id) is None and record_id not in done:
            stage(storage, scratch, record_id, files)
    if 99 not in done and len(records) == 2:
        stage_failure(storage, FailureRow(99, "fetch", "gone", name, 1, True))
    pack_records(storage, name, [*records, 99])
    commit(storage)


def check_first_commit_readable(storage: Storage, first: np.ndarray) -> None:
    info = read_info(storage)
    assert info is not None
    images = zarr.open_group(f"{storage.url}/images.zarr", mode="r")["images"]
    assert np.array_equal(images[: len(first)], first)
    assert stored_table(storage, "files").num_rows == info.counts.files
    report = verify(storage, deep=True)
    assert report.ok, report.problems


@pytest.fixture
def committed(tmp_path: Path) -> tuple[Storage, np.ndarray]:
    storage = Storage.open(tmp_path / "ds")
    build(storage, tmp_path, FIRST, "p1")
    return storage, zarr.open_group(f"{storage.url}/images.zarr", mode="r")["images"][:]


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, bytes]:
    """What two builds without any failure come to."""
    storage = Storage.open(tmp_path / "good")
    build(storage, tmp_path, FIRST, "p1")
    build(storage, tmp_path, SECOND, "p2")
    return objects(storage)


def copy(storage: Storage, target: Path) -> Storage:
    copied = Storage.open(target)
    for path, data in objects(storage).items():
        copied.write(path, data, durable=False)
    return copied


def crash() -> None:
    raise Crash


def fill_up() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize(("fail", "error", "step"), [(crash, Crash, 1), (fill_up, StorageError, 3)])
def test_an_append_may_fail_at_any_operation(
    tmp_path: Path,
    committed: tuple[Storage, np.ndarray],
    finished: dict[str, bytes],
    fail: Callable[[], None],
    error: type[BaseException],
    step: int,
) -> None:
    first_storage, first = committed
    for number in range(0, 1000, step):
        storage = copy(first_storage, tmp_path / f"{number}")
        hook = FailAt(number, fail)
        operations.before_operation = hook
        try:
            build(storage, tmp_path, SECOND, "p2")
        except error:
            pass
        finally:
            operations.before_operation = None
        check_first_commit_readable(storage, first)
        if not hook.failed:
            break
        build(storage, tmp_path, SECOND, "p2")
        assert content_of(objects(storage)) == content_of(finished), number
        assert not storage.leftovers()
        assert not storage.list("staging")
        report = verify(storage, deep=True)
        assert report.ok, report.problems
        assert not report.notes, (number, report.notes)
    assert number > 40


@pytest.mark.slow
def test_the_first_build_may_be_killed_at_any_operation(
    tmp_path: Path, finished: dict[str, bytes]
) -> None:
    """By the operating system, so that no handler and no cleaning up runs."""
    number = 0
    while True:
        storage = Storage.open(tmp_path / f"{number}")
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            operations.before_operation = FailAt(number, lambda: os._exit(9))
            build(storage, tmp_path, FIRST, "p1")
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert died in (0, 9)
        if read_info(storage) is not None:
            check_first_commit_readable(storage, np.empty((0, 80, 80), np.uint32))
        if died == 0:
            break
        build(storage, tmp_path, FIRST, "p1")
        build(storage, tmp_path, SECOND, "p2")
        assert content_of(objects(storage)) == content_of(finished), number
        assert not storage.leftovers()
        assert not verify(storage, deep=True).notes
        number += 1
    assert number > 30


def test_a_withdrawal_may_fail_at_any_operation(
    tmp_path: Path, committed: tuple[Storage, np.ndarray]
) -> None:
    first_storage, first = committed
    withdraw(first_storage, [1], "once")
    for number in range(100):
        storage = copy(first_storage, tmp_path / f"{number}")
        hook = FailAt(number, crash)
        operations.before_operation = hook
        try:
            withdraw(storage, [2], "asked")
        except Crash:
            pass
        finally:
            operations.before_operation = None
        check_first_commit_readable(storage, first)
        if not hook.failed:
            break
    assert number > 3


def test_an_append_that_died_may_be_given_up(
    tmp_path: Path, committed: tuple[Storage, np.ndarray]
) -> None:
    """Its staging removed by hand, and other records built: nothing of it is left."""
    storage, first = committed
    operations.before_operation = FailAt(45, crash)
    with pytest.raises(Crash):
        build(storage, tmp_path, {7: sources(30, 7)}, "p9")
    operations.before_operation = None
    storage.remove(storage.list("staging"))
    build(storage, tmp_path, SECOND, "p2")
    good = Storage.open(tmp_path / "good")
    build(good, tmp_path, FIRST, "p1")
    build(good, tmp_path, SECOND, "p2")
    check_first_commit_readable(storage, first)
    images = [
        zarr.open_group(f"{s.url}/images.zarr", mode="r")["images"][:] for s in (storage, good)
    ]
    assert np.array_equal(*images)


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["same", "new"])
def test_a_driver_that_slept_overwrites_no_newer_commit(
    tmp_path: Path, committed: tuple[Storage, np.ndarray], begin: str
) -> None:
    """Suspended at any operation of its last step, while another driver commits."""
    first_storage, first = committed
    for number in range(1000):
        storage = copy(first_storage, tmp_path / f"{number}")
        for record_id, files in SECOND.items():
            stage(storage, tmp_path, record_id, files)
        plan = plan_commit(storage)
        assert plan is not None
        results = [run_task(storage, task) for task in plan.tasks]
        other: list[DatasetInfo] = []

        def sleep(storage: Storage = storage, other: list[DatasetInfo] = other) -> None:
            operations.before_operation = None
            if begin == "new":
                stage(storage, tmp_path, 7, sources(3, 7))
            other.append(commit(storage))

        hook = FailAt(number, sleep)
        operations.before_operation = hook
        refused = None
        try:
            finish_commit(storage, plan, results)
        except ZmlError as error:
            refused = str(error)
        finally:
            operations.before_operation = None
        if not hook.failed:
            break
        # Whoever was first is not undone, and what both staged is in once.
        info = read_info(storage)
        assert info == other[0]
        assert info is not None
        assert info.counts.records >= 4 if refused is None else "nother" in refused
        ids = stored_table(storage, "records")["record_id"].to_pylist()
        assert sorted(ids) == [1, 2, 3, 4, *([7] if begin == "new" else [])]
        check_first_commit_readable(storage, first)
        assert commit(storage) == info
        assert not verify(storage, deep=True).notes
    assert number > 10


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "check who owns the folder"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.ENOSPC, "no space is left"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_is_wrong_with_a_store_is_named(tmp_path: Path, number: int, message: str) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    operations.before_operation = FailAt(0, refuse)
    with pytest.raises(StorageError, match=f"cannot write 'staging/records/1': .*{message}"):
        stage(Storage.open(tmp_path / "ds"), tmp_path, 1, sources(1))


def test_old_readers_keep_their_rows(tmp_path: Path, committed: tuple[Storage, np.ndarray]) -> None:
    storage, first = committed
    array = zarr.open_group(f"{storage.url}/images.zarr", mode="r")["images"]
    seen = []

    def look(operation: str, path: str) -> None:
        if operation != "remove":
            seen.append(path)
            assert np.array_equal(array[:], first), path

    operations.before_operation = look
    build(storage, tmp_path, SECOND, "p2")
    operations.before_operation = None
    assert np.array_equal(array[:], first)
    assert "dataset.json" in seen


def test_files_are_not_world_writable(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        storage = Storage.open(tmp_path / "ds")
        build(storage, tmp_path, FIRST, "p1")
        local = tmp_path / "x"
        local.write_bytes(b"x")
        storage.publish(local, "legacy/1/x")
    finally:
        os.umask(old)
    for path in (tmp_path / "ds").rglob("*"):
        assert path.stat().st_mode & 0o002 == 0, path
