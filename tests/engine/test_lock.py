"""One build a dataset at a time, and no stale lock after a crash."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import fsspec
import pytest

from zml_dask.engine.lock import DatasetLock, LockTiming, ProcessIdentity, dataset_lock, holder
from zml_dask.engine.log import build_log
from zml_dask.engine.objects import LOG
from zml_dask.errors import LockLostError, ObjectMissingError, ZmlError
from zml_dask.store import storage as operations
from zml_dask.store.layout import LOCK
from zml_dask.store.storage import Storage

QUICK = LockTiming(heartbeat=0.05, patience=0.6)


@pytest.fixture(params=["folder", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield Storage.open(tmp_path / "ds")
        return
    yield Storage.open("memory://lock-test/ds")
    fsspec.filesystem("memory").store.clear()


def elsewhere(storage: Storage, beats: int = 0) -> None:
    """Leave the lock of a process on another host."""
    owner = asdict(ProcessIdentity("far-away", "boot/pid:[1]", 4242, "17"))
    storage.write(LOCK, json.dumps({"token": "t1", "owner": owner, "beats": beats}).encode())


def test_a_second_build_is_refused_and_the_lock_is_gone_afterwards(storage: Storage) -> None:
    with dataset_lock(storage, timing=QUICK):
        with (
            pytest.raises(ZmlError, match=f"process {os.getpid()} on .*; wait for it"),
            dataset_lock(storage, timing=QUICK),
        ):
            pass
        assert holder(storage) is not None
    assert not storage.exists(LOCK)
    with dataset_lock(storage, timing=QUICK):
        pass


def _die_with_the_lock(url: str) -> None:
    with dataset_lock(Storage.open(url)):
        os._exit(9)


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    process = multiprocessing.get_context("spawn").Process(
        target=_die_with_the_lock, args=(storage.url,)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert storage.exists(LOCK)
    assert holder(storage) is None
    # A patience that no test could wait for: it must not be needed.
    with dataset_lock(storage, timing=LockTiming(10, 3600)) as lock:
        lock.check()
    assert storage.list("") == []


def test_a_silent_lock_of_another_host_is_taken_over(storage: Storage) -> None:
    elsewhere(storage)
    said: list[str] = []
    with dataset_lock(storage, timing=QUICK, on_wait=said.append):
        pass
    assert "process 4242 on far-away" in said[0]


def test_a_beating_lock_of_another_host_is_respected(storage: Storage) -> None:
    elsewhere(storage)
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.02):
            elsewhere(storage, beats := beats + 1)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(ZmlError, match="far-away"),
            dataset_lock(storage, timing=LockTiming(0.05, 30)),
        ):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_lock_torn_by_a_crash_is_taken_over(storage: Storage) -> None:
    storage.write(LOCK, b"")
    with dataset_lock(storage, timing=QUICK):
        pass


def test_who_was_taken_over_notices(storage: Storage) -> None:
    with dataset_lock(storage, timing=LockTiming(3600, 3600)) as lock:
        lock.check()
        elsewhere(storage)
        with pytest.raises(LockLostError, match="took over"):
            lock.check()
        lock.beat()
        assert json.loads(storage.read(LOCK))["token"] == "t1", "another's lock was overwritten"
    assert storage.exists(LOCK), "another's lock was removed"


def test_of_many_who_find_a_stale_lock_one_takes_it(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    elsewhere(storage)
    holding, most, refused = [0], [0], []
    guard, ready = threading.Lock(), threading.Barrier(6)

    def compete() -> None:
        ready.wait()
        try:
            with dataset_lock(storage, timing=QUICK):
                with guard:
                    holding[0] += 1
                    most[0] = max(most[0], holding[0])
                time.sleep(0.3)
                with guard:
                    holding[0] -= 1
        except ZmlError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert refused
    assert all("is running" in message for message in refused)


def test_no_wall_clock_is_asked(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock may jump"))
    lock = DatasetLock(storage, LOCK, QUICK)
    assert storage.write_new(LOCK, lock.payload())
    lock.beat()
    lock.check()
    lock.release()
    # Nor to tell whether another's lock is dead.
    elsewhere(storage)
    with dataset_lock(storage, timing=QUICK, on_wait=lambda _: None):
        pass


def test_a_lock_that_was_taken_over_meanwhile_is_left_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found stale by two, and claimed by the second when the first is done."""
    elsewhere(storage)
    owner = asdict(ProcessIdentity("nearer", "boot/pid:[1]", 7, "18"))
    theirs = json.dumps({"token": "t2", "owner": owner, "beats": 0}).encode()

    def first_is_done(operation: str, path: str) -> None:
        if "/claims/" in path and json.loads(storage.read(LOCK))["token"] == "t1":
            monkeypatch.setattr(operations, "before_operation", None)
            storage.write(LOCK, theirs)

    monkeypatch.setattr(operations, "before_operation", first_is_done)
    with (
        pytest.raises(ZmlError, match="is running"),
        dataset_lock(storage, timing=QUICK, on_wait=lambda _: None),
    ):
        pass
    assert storage.read(LOCK) == theirs


def test_a_lock_that_is_not_seen_once_is_looked_for_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dataset_lock(storage, timing=QUICK) as lock:
        real, missing = type(storage).read, ["once"]

        def read(self: Storage, path: str) -> bytes:
            if path == LOCK and missing:
                missing.pop()
                raise ObjectMissingError(path)
            return real(self, path)

        monkeypatch.setattr(type(storage), "read", read)
        lock.check()
        assert not missing
    assert not storage.exists(LOCK)


def test_a_process_that_lost_its_lock_leaves_the_log_and_the_claims_of_others_alone() -> None:
    storage = Storage.open("memory://lock-test/lost")

    def losing() -> None:
        with dataset_lock(storage, timing=QUICK) as lock, build_log(storage) as log:
            log.write("start")
            elsewhere(storage)
            storage.write("staging/claims/t1", b"{}")
            storage.write(LOG, b"theirs")
            lock.check()

    try:
        with pytest.raises(LockLostError):
            losing()
        assert storage.read(LOG) == b"theirs"
        assert storage.exists("staging/claims/t1")
    finally:
        fsspec.filesystem("memory").store.clear()
