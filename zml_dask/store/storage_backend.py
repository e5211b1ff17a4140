"""What a dataset's storage asks of the place where its objects lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from zarr.abc.store import Store


class StorageBackend(ABC):
    """One place, and the plain work of each method of `Storage` there.

    Errors are the system's own, `FileNotFoundError` where there is no such
    object: `Storage` makes one type of ours of each kind. Objects of this class
    can be pickled, and used from several threads.
    """

    url: str

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether objects are files of this machine (or of a file system it mounts)."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Read an object whole."""

    @abstractmethod
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Read bytes `start` to `stop` of an object; fewer where it ends before."""

    @abstractmethod
    def read_tail(self, path: str, size: int) -> bytes:
        """Read the last `size` bytes of an object, or all of a smaller one."""

    @abstractmethod
    def open_reader(self, path: str) -> IO[bytes]:
        """Open an object as a seekable binary stream."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        """Write an object whole, atomically."""

    @abstractmethod
    def write_new(self, path: str, data: bytes) -> bool:
        """Write an object only where there is none yet; return whether it was written."""

    @abstractmethod
    def publish(self, local: Path, path: str, *, durable: bool) -> None:
        """Move a finished local file to `path`, atomically."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Size of an object, in bytes."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[str]:
        """Paths of all objects under a folder, at any depth, sorted; empty where there is none."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the objects and folders at the top, sorted; empty where there is nothing."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""

    @abstractmethod
    def prune(self, prefix: str) -> None:
        """Remove the empty folders under `prefix`, and it too, where there are folders at all."""

    @abstractmethod
    def zarr_store(self, path: str, *, read_only: bool) -> Store:
        """Open a Zarr store at `path`."""

    @abstractmethod
    def leftovers(self) -> Sequence[str]:
        """Paths of half-written objects that a crash left behind."""
