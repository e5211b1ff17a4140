"""What all operations on a dataset's storage have in common: their errors, and a hook for tests."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from zml_dask.errors import ZmlError

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


class RangeIgnoredError(StorageError):
    """The server answers a request for a part of an object with the whole."""


_KINDS: dict[int | None, tuple[type[StorageError], str]] = {
    errno.ENOSPC: (StorageFullError, "no space is left; free some and run the command again"),
    errno.EDQUOT: (StorageFullError, "the quota is used up; free some and run the command again"),
    errno.EROFS: (StorageReadOnlyError, "the file system is read-only"),
    errno.EACCES: (StorageReadOnlyError, "permission denied; check who owns the folder"),
    errno.EPERM: (StorageReadOnlyError, "not permitted; check who owns the folder"),
    errno.ENOENT: (ObjectMissingError, "no such object"),
    errno.ENOTDIR: (ObjectMissingError, "no such object: a file stands where a folder would"),
}


# The clients' own roots, which are no OSError; by name, since neither need be installed.
_NETWORK_ERRORS = {"aiohttp.client_exceptions.ClientError", "botocore.exceptions.BotoCoreError"}


def inside(path: str) -> str:
    """A path within a dataset, as it is.

    Raises
    ------
    StorageError
        For one that leads out: what a dataset says of its own parts is data,
        and may come from anybody.

    Examples
    --------
    >>> inside("files.parquet/part-00000.parquet")
    'files.parquet/part-00000.parquet'
    """
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise StorageError(f"{path!r} leads out of the dataset; nothing is read or written there")
    return path


def note_operation(operation: str, path: str) -> None:
    """Tell `before_operation`, if a test has set it."""
    if before_operation is not None:
        before_operation(operation, path)


@contextlib.contextmanager
def storage_errors(operation: str, where: str, url: str) -> Iterator[None]:
    """Turn operating-system errors into one type per kind, naming the object and its store.

    Parameters
    ----------
    operation : str
        ``"read"``, ``"write"``, ``"list"`` or ``"remove"``.
    where : str
        The object.
    url : str
        Of its store.

    Raises
    ------
    StorageError
        Of the kind that fits: `StorageFullError`, `StorageReadOnlyError`, `ObjectMissingError`.
    """
    try:
        yield
    except OSError as error:
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
        if isinstance(error, PermissionError) and number is None:
            number = errno.EACCES
        kind, what = _KINDS.get(number, (StorageError, str(error) or type(error).__name__))
        if operation == "write" and number in (errno.ENOENT, errno.ENOTDIR):
            kind, what = StorageError, "its folder cannot be made there; check the path"
        raise kind(f"cannot {operation} {where!r}: {what} (in {url})") from error
    except Exception as error:
        bases = {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__}
        if not bases & _NETWORK_ERRORS:
            raise
        raise StorageError(
            f"cannot {operation} {where!r}: {error}; check the address and the permissions "
            f"(in {url})"
        ) from error
