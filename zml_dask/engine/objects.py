"""The engine's objects in a storage, and the proof that driver and workers share the storage."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from socket import gethostname
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from zml_dask.errors import ClusterError, ObjectMissingError

if TYPE_CHECKING:  # named in annotations only: the store is above the engine
    from zml_dask.store.storage import Storage

STAGING: Final = "staging"
LOCK: Final = "build.lock"
LOG: Final = "build.log.jsonl"
PROOFS: Final = f"{STAGING}/proof"

_PATIENCE = 15.0
"""Seconds in which a shared file system shows what another machine has written: NFS keeps
what it knows of a folder for three seconds, or up to sixty where nothing changes."""


@dataclass(frozen=True, slots=True)
class SharedProof:
    """A word in each storage of a job, which proves that driver and workers see the same storage.

    A worker that sees another folder of the same name (node-local ``/tmp``, a disk that is not
    mounted) would stage its records where no commit finds them. The driver writes the word; each
    worker reads it and writes an answer of its own.
    """

    storages: tuple[Storage, ...]
    word: str

    def answer(self, worker: str) -> None:
        """Write a worker's answer; raise `ClusterError` if it cannot read what the driver wrote."""
        for storage in self.storages:
            self._expect(storage, self._path(), f"worker {worker}", "the driver")
            storage.write(self._path(worker), self.word.encode())

    def check(self, worker: str) -> None:
        """Raise `ClusterError` if the driver cannot read what a worker wrote."""
        for storage in self.storages:
            self._expect(storage, self._path(worker), "the driver", f"worker {worker}")

    def _expect(self, storage: Storage, path: str, reader: str, writer: str) -> None:
        if _awaited(storage, path) != self.word.encode():
            raise ClusterError(
                f"{reader} on {gethostname()} does not see what {writer} wrote to {storage.url}: "
                "give a dataset on a file system or in an object store that all nodes share"
            )

    def _path(self, worker: str = "") -> str:
        name = hashlib.sha256(worker.encode()).hexdigest()[:16] if worker else "driver"
        return f"{PROOFS}/{self.word}/{name}"

    @classmethod
    @contextmanager
    def given(cls, storages: Sequence[Storage]) -> Iterator[SharedProof]:
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


def _awaited(storage: Storage, path: str) -> bytes | None:
    """Read an object that another machine has written, which may take a while to be seen."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return storage.read(path)
        except ObjectMissingError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.5)
