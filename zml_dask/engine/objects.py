"""The engine's view of a storage, and the proof that driver and workers share it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from socket import gethostname
from typing import Final, Protocol
from uuid import uuid4

from zml_dask.errors import ClusterError, ObjectMissingError

STAGING: Final = "staging"
LOCK: Final = "build.lock"
LOG: Final = "build.log.jsonl"
PROOFS: Final = f"{STAGING}/proof"

_PATIENCE = 15.0
"""Seconds in which a shared file system shows what another machine has written: NFS keeps
what it knows of a folder for three seconds, or up to sixty where nothing changes."""


class Objects(Protocol):
    """What the lock, the log and the proof of shared storage need of a storage.

    `zml_dask.store.storage.Storage` is one. It raises `StorageError`, and
    `ObjectMissingError` where there is no such object.
    """

    @property
    def url(self) -> str:
        """Absolute path of a folder, or a URL."""

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine (or of a file system it mounts)."""

    def read(self, path: str) -> bytes:
        """Read a whole object."""

    def write(self, path: str, data: bytes) -> None:
        """Write a whole object atomically."""

    def write_new(self, path: str, data: bytes) -> bool:
        """Write an object only where there is none; return whether it was written."""

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the paths of all objects under a folder."""

    def remove(self, paths: str | Sequence[str]) -> None:
        """Remove objects; a missing one is no error."""

    def prune(self, prefix: str) -> None:
        """Remove empty folders."""


@dataclass(frozen=True, slots=True)
class SharedProof:
    """A word in each storage of a job, which proves that driver and workers see the same storage.

    A worker that sees another folder of the same name (node-local ``/tmp``, a disk that is not
    mounted) would stage its records where no commit finds them. The driver writes the word; each
    worker reads it and writes an answer of its own.
    """

    storages: tuple[Objects, ...]
    word: str

    def answer(self, worker: str) -> None:
        """Write a worker's answer; raise `ClusterError` if it cannot read what the driver wrote."""
        for storage in self.storages:
            if _awaited(storage, self._path()) != self.word.encode():
                raise ClusterError(
                    f"worker {worker} on {gethostname()} does not see what the driver wrote to "
                    f"{storage.url}: give a dataset on a file system or in an object store "
                    "that all nodes share"
                )
            storage.write(self._path(worker), self.word.encode())

    def check(self, worker: str) -> None:
        """Raise `ClusterError` if the driver cannot read what a worker wrote."""
        for storage in self.storages:
            if _awaited(storage, self._path(worker)) != self.word.encode():
                raise ClusterError(
                    f"the driver on {gethostname()} does not see what worker {worker} wrote to "
                    f"{storage.url}: give a dataset on a file system or in an object store "
                    "that all nodes share"
                )

    def _path(self, worker: str = "") -> str:
        name = hashlib.sha256(worker.encode()).hexdigest()[:16] if worker else "driver"
        return f"{PROOFS}/{self.word}/{name}"

    @classmethod
    @contextmanager
    def given(cls, storages: Sequence[Objects]) -> Iterator[SharedProof]:
        """Write the word, and remove it with all answers in the end."""
        proof = cls(tuple(storages), uuid4().hex)
        for storage in proof.storages:
            storage.write(proof._path(), proof.word.encode())
        try:
            yield proof
        finally:
            for storage in proof.storages:
                storage.remove(storage.list(f"{PROOFS}/{proof.word}"))
                storage.prune(STAGING)


def _awaited(storage: Objects, path: str) -> bytes | None:
    """Read an object that another machine has written, which may take a while to be seen."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return storage.read(path)
        except ObjectMissingError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.5)
