"""Where a dataset lies: a folder or any fsspec URL, behind a few atomic operations.

"Atomic" means a rename on a file system and the put of a whole object
elsewhere, so that a reader sees an object's old bytes or its new ones, never
half of either.
"""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zml_dask.errors import UsageError, ZmlError

if TYPE_CHECKING:
    from zarr.abc.store import Store

before_operation: Callable[[str, str], None] | None = None
"""Called with each operation that changes something, and its path, just before it.

For tests: what raises or exits here is a crash, or a full disk, at that moment.
"""


class StorageError(ZmlError):
    """An operation on the dataset's storage failed."""


class StorageFullError(StorageError):
    """No space or no quota is left."""


class StorageReadOnlyError(StorageError):
    """The storage may be read, but not written."""


class ObjectMissingError(StorageError):
    """An object that was asked for is not there."""


_KINDS: dict[int | None, tuple[type[StorageError], str]] = {
    errno.ENOSPC: (StorageFullError, "no space is left; free some and run the command again"),
    errno.EDQUOT: (StorageFullError, "the quota is used up; free some and run the command again"),
    errno.EROFS: (StorageReadOnlyError, "the file system is read-only"),
    errno.EACCES: (StorageReadOnlyError, "permission denied; check who owns the folder"),
    errno.EPERM: (StorageReadOnlyError, "not permitted; check who owns the folder"),
    errno.ENOENT: (ObjectMissingError, "no such object"),
}


# The clients' own roots, which are no OSError; by name, since neither need be installed.
_NETWORK_ERRORS = {"aiohttp.client_exceptions.ClientError", "botocore.exceptions.BotoCoreError"}


def note_operation(operation: str, path: str) -> None:
    """Tell `before_operation`, if a test has set it."""
    if before_operation is not None:
        before_operation(operation, path)


@contextlib.contextmanager
def storage_errors(operation: str, where: str) -> Iterator[None]:
    """Turn operating-system errors into one type per kind, naming the object."""
    try:
        yield
    except OSError as error:
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
        if isinstance(error, PermissionError) and number is None:
            number = errno.EACCES
        kind, what = _KINDS.get(number, (StorageError, str(error) or type(error).__name__))
        raise kind(f"cannot {operation} {where!r}: {what}") from error
    except Exception as error:
        bases = {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__}
        if not bases & _NETWORK_ERRORS:
            raise
        raise StorageError(
            f"cannot {operation} {where!r}: {error}; check the address and the permissions"
        ) from error


class Storage(ABC):
    """The objects under one URL, named by relative paths with forward slashes.

    Open one with `Storage.open`. Objects of this class can be pickled, and used
    from several threads.

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

    url: str

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
            from zml_dask.store.local_storage import LocalStorage

            return LocalStorage(str(Path(rest if separator else text).expanduser().absolute()))
        from zml_dask.store.object_storage import ObjectStorage

        return ObjectStorage.connect(text.rstrip("/"), storage_options)

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether objects are files of this machine (or of a file system it mounts)."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Read an object whole; `ObjectMissingError` where there is none."""

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

    @abstractmethod
    def write_new(self, path: str, data: bytes) -> bool:
        """Write an object only where there is none yet; return whether it was written."""

    @abstractmethod
    def publish(self, local: Path, path: str, *, durable: bool = True) -> None:
        """Move a finished local file to `path`, atomically; the file is gone after.

        Parameters
        ----------
        local : Path
        path : str
        durable : bool
            Wait until it would survive a power cut, as in `write`.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Size of an object, in bytes; `ObjectMissingError` where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Sequence[str]:
        """Paths of all objects under a folder, at any depth, sorted; empty where there is none."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the objects and folders at the top, sorted."""

    @abstractmethod
    def remove(self, paths: str | Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""

    @abstractmethod
    def prune(self, prefix: str) -> None:
        """Remove the empty folders under `prefix`, and it too, where there are folders at all."""

    @abstractmethod
    def zarr_store(self, path: str, *, read_only: bool = True) -> Store:
        """Open a Zarr store at `path`."""

    def leftovers(self) -> Sequence[str]:
        """Paths of half-written objects that a crash left behind."""
        return ()
