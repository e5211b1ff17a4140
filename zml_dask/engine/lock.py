"""One build per dataset at a time, without ``flock``: NFS, Lustre and S3 do not keep it.

The lock is a file made by exclusive create. It names its owner (host, process,
start time) and holds a counter that the owner raises again and again. It is
stale where the owner ran on this host and is gone, or where an observer sees no
change of the counter over a time of its own monotonic clock: no two clocks are
ever compared, so that one which jumps does no harm.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from zml_dask.engine.objects import LOCK, PROOFS, STAGING
from zml_dask.errors import LockLostError, ObjectMissingError, StorageError, ZmlError

if TYPE_CHECKING:
    from zml_dask.store.storage import Storage

logger = logging.getLogger(__name__)

_CLAIMS = f"{STAGING}/claims"
"""Where observers agree who takes a stale lock over."""

_LOOKS = 3
_TORN = "torn"
"""Stands for the token of a lock whose owner died between creating and writing it."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, distinguished from every other that ever had its number.

    `realm` names the boot and the process namespace: two containers may share a host's name, and
    a machine its numbers with its former self before a reboot. `started` is when the process
    started, by a clock that does not jump.
    """

    host: str
    realm: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return this process's identity."""
        pid = os.getpid()
        return cls(platform.node(), _realm(), pid, _started(pid) or "")

    def is_gone(self) -> bool | None:
        """Return whether the process has ended; None where that cannot be seen from here."""
        if (self.host, self.realm) != (platform.node(), _realm()):
            return None
        return _started(self.pid) != self.started


@dataclass(frozen=True, slots=True)
class LockTiming:
    """How often a lock's owner shows life, and how long an observer waits for it, in seconds.

    `heartbeat` is between two rises of the counter. After `patience` without a rise the owner
    counts as dead: several heartbeats, for a shared file system may be slow to show a change.
    """

    heartbeat: float = 10.0
    patience: float = 60.0


class DatasetLock:
    """A held lock; ask :meth:`check` before anything that must not be done twice."""

    def __init__(self, storage: Storage, path: str, timing: LockTiming) -> None:
        self._storage = storage
        self._path = path
        self._timing = timing
        self._token = uuid.uuid4().hex
        self._owner = ProcessIdentity.current()
        self._beats = 0
        self._lost = False
        self._checked = -math.inf
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def payload(self) -> bytes:
        """Return what the lock's file holds now."""
        content = {"token": self._token, "owner": asdict(self._owner), "beats": self._beats}
        return json.dumps(content).encode()

    def check(self, *, max_age: float = 0.0) -> None:
        """Raise `LockLostError` where another build has taken the lock over.

        The last answer holds for `max_age` seconds: asking for every small result would cost the
        driver as much as taking the result.
        """
        now = time.monotonic()
        if not self._lost and now - self._checked < max_age:
            return
        self._checked = now
        if self._lost or not self._is_ours():
            raise LockLostError(
                f"{self._storage.url}: another build took over while this one showed no life "
                "(was it suspended?); let that one finish, then run this command again"
            )

    def beat(self) -> None:
        """Raise the counter, if the lock is still ours."""
        if not self._is_ours():
            self._lost = True
            return
        self._beats += 1
        self._storage.write(self._path, self.payload())

    def start(self) -> None:
        """Raise the counter again and again until released."""
        self._thread = threading.Thread(target=self._keep_beating, name="zml-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the next build in."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_ours():
            if self._path == LOCK:
                for folder in (_CLAIMS, PROOFS):  # of processes that were killed
                    self._storage.remove(self._storage.list(folder))
            self._storage.remove(self._path)

    def _is_ours(self) -> bool:
        """Whether the lock names this process; a missing one is looked for again.

        An object store may once report an existing object as missing.
        """
        for again in range(_LOOKS):
            seen = _read(self._storage, self._path)
            if seen:
                return bool(seen["token"] == self._token)
            if again < _LOOKS - 1:
                time.sleep(self._timing.heartbeat / 100)
        return False

    def _keep_beating(self) -> None:
        while not self._released.wait(self._timing.heartbeat) and not self._lost:
            try:
                self.beat()
            except StorageError as error:
                # A full disk passes; the build itself will say so where it matters.
                logger.warning("the lock's heartbeat could not be written: %s", error)


@contextmanager
def dataset_lock(
    storage: Storage,
    *,
    timing: LockTiming | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[DatasetLock]:
    """Hold the dataset's lock; raise `ZmlError` if another build is running.

    `on_wait` is called once, with a line that says why this takes a while.
    """
    timing = timing or LockTiming()
    lock = _acquire(storage, LOCK, timing, on_wait or logger.info)
    lock.start()
    try:
        yield lock
    finally:
        lock.release()


def holder(storage: Storage) -> str | None:
    """Say who holds the dataset's lock; None for nobody, or a process that has ended."""
    seen = _read(storage, LOCK)
    if not seen:
        return None
    owner = msgspec.convert(seen["owner"], ProcessIdentity)
    return None if owner.is_gone() else f"process {owner.pid} on {owner.host}"


def _acquire(
    storage: Storage, path: str, timing: LockTiming, on_wait: Callable[[str], None]
) -> DatasetLock:
    """Create the lock, or take over a stale one."""
    lock = DatasetLock(storage, path, timing)
    seen: dict[str, Any] = {}
    while not seen:  # until it is ours, or somebody's
        if storage.write_new(path, lock.payload()):
            return lock
        seen = _read_whole(storage, path, timing)
    if not _is_stale(storage, path, seen, timing, on_wait):
        raise ZmlError(_busy(storage, seen))
    # Of several observers who find the same lock stale only one may take it over:
    # who holds the claim on that very lock. A claim is a lock like any other, for
    # its holder may die too.
    claim = _acquire(storage, f"{_CLAIMS}/{seen['token']}", timing, on_wait)
    try:
        now = _read(storage, path)
        if now.get("token", _TORN) != seen["token"]:
            raise ZmlError(_busy(storage, now))
        storage.write(path, lock.payload())
    finally:
        claim.release()
    return lock


def _is_stale(
    storage: Storage,
    path: str,
    seen: dict[str, Any],
    timing: LockTiming,
    on_wait: Callable[[str], None],
) -> bool:
    """Return whether the lock's owner is dead, by its process or by its silence."""
    if seen["token"] == _TORN:
        return True
    owner = msgspec.convert(seen["owner"], ProcessIdentity)
    gone = owner.is_gone()
    if gone is not None:
        return gone
    on_wait(
        f"{storage.url} is locked by process {owner.pid} on {owner.host}; watching for "
        f"{timing.patience:.0f} s whether it lives"
    )
    deadline = time.monotonic() + timing.patience
    while time.monotonic() < deadline:
        time.sleep(min(timing.heartbeat, timing.patience) / 2)
        if _read(storage, path) != seen:
            return False
    return True


def _busy(storage: Storage, seen: dict[str, Any]) -> str:
    """Say in one line who holds the lock."""
    if "owner" not in seen:
        return f"{storage.url}: another build has just ended; run the command again"
    owner = seen["owner"]
    return (
        f"{storage.url}: another build is running (process {owner['pid']} on {owner['host']}); "
        "wait for it or stop it, then run the command again"
    )


def _read_whole(storage: Storage, path: str, timing: LockTiming) -> dict[str, Any]:
    """Return the lock's content; empty where it is gone; torn where it stays unreadable.

    Exclusive create and first write are two steps on some file systems: a
    moment's emptiness is no sign of a crash between them, a lasting one is.
    """
    deadline = time.monotonic() + timing.heartbeat
    while True:
        seen = _read(storage, path)
        if seen or not storage.exists(path):
            return seen
        if time.monotonic() >= deadline:
            return {"token": _TORN}
        time.sleep(timing.heartbeat / 20)


def _read(storage: Storage, path: str) -> dict[str, Any]:
    """Return the lock's content; empty where there is none, or none that makes sense."""
    try:
        content = json.loads(storage.read(path))
        msgspec.convert(content["owner"], ProcessIdentity)
        return {"token": str(content["token"]), **content}
    except (ObjectMissingError, ValueError, KeyError, TypeError):
        return {}


def _realm() -> str:
    """Return a name of this boot of the machine and this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the host's name must do
        return ""


def _started(pid: int) -> str | None:
    """Return when process `pid` started, or None where it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _started_by_psutil(pid)
    except OSError:
        return _started_by_psutil(pid)
    # The name, in brackets, may hold anything; field 3 is the state, field 22 the
    # start in clock ticks since boot (proc(5)). A zombie no longer works.
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else after_name[19]


def _started_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        # Whole seconds: this time is derived from the wall clock, which may be nudged.
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
