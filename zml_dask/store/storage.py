"""Where a dataset lies: a folder or any fsspec URL, behind a few atomic operations.

"Atomic" means a rename on a file system and the put of a whole object
elsewhere, so that a reader sees an object's old bytes or its new ones, never
half of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zml_dask.errors import UsageError
from zml_dask.store.local_storage import LocalStorage
from zml_dask.store.object_storage import ObjectStorage
from zml_dask.store.operations import note_operation, storage_errors
from zml_dask.store.storage_backend import StorageBackend

if TYPE_CHECKING:
    from zarr.abc.store import Store


@dataclass(frozen=True)
class Storage:
    """The objects under one URL, named by relative paths with forward slashes.

    Open one with `Storage.open`. Objects of this class can be pickled, and used
    from several threads. What fails raises a `StorageError`: `ObjectMissingError`,
    `StorageFullError` or `StorageReadOnlyError` where one of them is meant.

    Attributes
    ----------
    backend : StorageBackend
        Does the work, in the way of the place.

    Examples
    --------
    >>> import tempfile
    >>> storage = Storage.open(tempfile.mkdtemp())
    >>> storage.write("tables/a.txt", b"hello")
    >>> storage.read("tables/a.txt"), storage.size("tables/a.txt"), storage.list("tables")
    (b'hello', 5, ['tables/a.txt'])
    >>> storage.write_new("tables/a.txt", b"again")
    False
    """

    backend: StorageBackend

    @staticmethod
    def open(url: str | Path | Storage, **storage_options: Any) -> Storage:
        """Open a folder or an fsspec URL; nothing is read or made yet.

        Parameters
        ----------
        url : str, path or Storage
            A path, ``file://...`` or any fsspec URL (``s3://bucket/name``). A
            `Storage` is given back as it is.
        **storage_options
            Given to fsspec, say ``endpoint_url`` or ``anon`` for S3.

        Raises
        ------
        UsageError
            If the URL's protocol is not known, or the package for it is missing.
        """
        if isinstance(url, Storage):
            return url
        text = str(url)
        if not text:
            raise UsageError("the dataset's path is empty; give a folder or an fsspec URL")
        protocol, separator, rest = text.partition("://")
        if not separator or protocol in ("file", "local"):
            folder = Path(rest if separator else text).expanduser().absolute()
            return Storage(LocalStorage(str(folder)))
        return Storage(ObjectStorage.connect(text.rstrip("/"), storage_options))

    @property
    def url(self) -> str:
        """Absolute path of the folder, or the URL."""
        return self.backend.url

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine (or of a file system it mounts)."""
        return self.backend.is_local

    def read(self, path: str) -> bytes:
        """Read an object whole; `ObjectMissingError` where there is none."""
        with storage_errors("read", path, self.url):
            return self.backend.read(path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Read bytes `start` to `stop` of an object; fewer where it ends before."""
        with storage_errors("read", path, self.url):
            return self.backend.read_range(path, start, stop)

    def read_tail(self, path: str, size: int) -> bytes:
        """Read the last `size` bytes of an object, or all of a smaller one."""
        with storage_errors("read", path, self.url):
            return self.backend.read_tail(path, size)

    def open_reader(self, path: str) -> IO[bytes]:
        """Open an object as a seekable binary stream."""
        with storage_errors("read", path, self.url):
            return self.backend.open_reader(path)

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write an object whole, atomically.

        Parameters
        ----------
        path : str
        data : bytes
        durable : bool
            Wait until it would survive a power cut (fsync); what can be made
            again and checks itself needs no such wait.
        """
        with storage_errors("write", path, self.url):
            note_operation("write", path)
            self.backend.write(path, data, durable=durable)

    def write_new(self, path: str, data: bytes) -> bool:
        """Write an object only where there is none yet; return whether it was written."""
        with storage_errors("write", path, self.url):
            note_operation("write", path)
            return self.backend.write_new(path, data)

    def publish(self, local: Path, path: str, *, durable: bool = True) -> None:
        """Move a finished local file to `path`, atomically; the file is gone after.

        Parameters
        ----------
        local : Path
        path : str
        durable : bool
            Wait until it would survive a power cut, as in `write`.
        """
        with storage_errors("write", path, self.url):
            note_operation("write", path)
            self.backend.publish(local, path, durable=durable)

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        with storage_errors("read", path, self.url):
            return self.backend.exists(path)

    def size(self, path: str) -> int:
        """Size of an object, in bytes; `ObjectMissingError` where there is none."""
        with storage_errors("read", path, self.url):
            return self.backend.size(path)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Paths of all objects under a folder, at any depth, sorted; empty where there is none."""
        with storage_errors("list", prefix, self.url):
            return self.backend.list(prefix)

    def names(self) -> Sequence[str]:
        """Names of the objects and folders at the top, sorted; empty where there is nothing."""
        with storage_errors("list", "", self.url):
            return self.backend.names()

    def remove(self, paths: str | Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for path in [paths] if isinstance(paths, str) else paths:
            with storage_errors("remove", path, self.url):
                note_operation("remove", path)
                self.backend.remove(path)

    def prune(self, prefix: str) -> None:
        """Remove the empty folders under `prefix`, and it too, where there are folders at all."""
        with storage_errors("remove", prefix, self.url):
            self.backend.prune(prefix)

    def zarr_store(self, path: str, *, read_only: bool = True) -> Store:
        """Open a Zarr store at `path`."""
        return self.backend.zarr_store(path, read_only=read_only)

    def leftovers(self) -> Sequence[str]:
        """Paths of half-written objects that a crash left behind."""
        return self.backend.leftovers()
