"""Where a dataset lies: a folder or any fsspec URL, behind a few atomic operations.

"Atomic" means a rename on a file system and the put of a whole object
elsewhere: a reader gets an object's old bytes or its new ones, never half of either.
"""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, TypeAlias
from urllib.parse import urlsplit

import fsspec

from zml_dask.arguments import checked
from zml_dask.errors import ObjectMissingError, StorageError, UsageError, ZmlError

Range: TypeAlias = tuple[str, int, int | None]
"""Path, first byte, and the byte after the last; ``(path, 0, None)`` is a whole object and
``(path, -n, None)`` its last `n` bytes."""

_LARGEST_JOINED = 1 << 22
"""More bytes come faster in several requests at once."""

before_operation: Callable[[str, str], None] | None = None
"""Called with each operation that changes something, and its path, just before it.

For tests: what raises or exits here is a crash, or a full disk, at that moment.
"""


_REASONS: dict[int | None, str] = {
    errno.ENOSPC: "no space is left; free some and run the command again",
    errno.EDQUOT: "the quota is used up; free some and run the command again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied; check who owns the folder",
    errno.EPERM: "not permitted; check who owns the folder",
    errno.ENOENT: "no such object",
    errno.ENOTDIR: "no such object: a file stands where a folder would",
}
_MISSING = (errno.ENOENT, errno.ENOTDIR)


def inside(path: str) -> str:
    """Return a path within a dataset, unless it leads out.

    `StorageError` where it does: a dataset's description of its own parts may come from anybody.

    Examples
    --------
    >>> inside("files.parquet/part-00000.parquet")
    'files.parquet/part-00000.parquet'
    """
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise StorageError(f"{path!r} leads out of the dataset; nothing is read or written there")
    return path


def is_url(text: str) -> bool:
    """Whether `text` is a URL for fsspec, and not a path.

    Examples
    --------
    >>> [is_url(text) for text in ("s3://a/b", "simplecache::s3://a", "zip::x.zip", "a::b", "/a")]
    [True, True, True, False, False]
    """
    first, chained, _ = text.partition("::")
    return "://" in text or bool(chained and first in fsspec.available_protocols())


def note_operation(operation: str, path: str) -> None:
    """Call `before_operation`, if a test has set it."""
    if before_operation is not None:
        before_operation(operation, path)


@checked
@dataclass(frozen=True)
class Storage(ABC):
    """The objects under one URL, named by relative paths with forward slashes.

    Open one with `Storage.open`. Objects of this class can be pickled, and used
    from several threads. What fails raises a `StorageError`, an
    `ObjectMissingError` where there is no such object.

    A subclass is one kind of place. It does the plain work, in the methods that
    begin with an underscore, and raises the system's own errors.

    Attributes
    ----------
    url : str
        Absolute path of the folder, or the URL.

    Examples
    --------
    >>> import tempfile
    >>> storage = Storage.open(tempfile.mkdtemp())
    >>> storage.write("tables/a.txt", b"hello")
    >>> storage.read("tables/a.txt"), storage.size("tables/a.txt"), storage.list("tables")
    (b'hello', 5, ['tables/a.txt'])
    >>> storage.read_ranges([("tables/a.txt", -2, None), ("tables/a.txt", 0, 2)])
    [b'lo', b'he']
    >>> storage.write_new("tables/a.txt", b"again")
    False
    """

    url: str

    _kinds: ClassVar[list[type[Storage]]] = []

    is_local: ClassVar[bool]
    """Whether objects are files of this machine (or of a file system it mounts)."""

    _gap: ClassVar[int]
    """Ranges of one object no further apart than this, in bytes, are read as one."""

    @staticmethod
    def open(url: str | Path | Storage, **storage_options: Any) -> Storage:
        """Open a folder or an fsspec URL; nothing is read or made yet.

        Parameters
        ----------
        url : str, path or Storage
            A path, ``file://...`` or any fsspec URL (``s3://bucket/name``), chained
            ones too (``simplecache::s3://bucket/name``, ``zip://name::file.zip``).
            A `Storage` is returned as it is.
        **storage_options
            Given to fsspec, say ``endpoint_url`` or ``anon`` for S3.

        Raises
        ------
        UsageError
            If the URL's protocol is not known, or the package for it is missing;
            or a folder is given options.
        """
        if isinstance(url, Storage):
            return url
        text = str(url)
        if not text:
            raise UsageError("the dataset's path is empty; give a folder or an fsspec URL")
        places = (kind._at(text, storage_options) for kind in Storage._kinds)  # noqa: SLF001
        return next(place for place in places if place is not None)

    @property
    def name(self) -> str:
        """Last part of the path, or of the URL without a query.

        Examples
        --------
        >>> Storage.open("/data/zenodo-ml/").name, Storage.open("memory://bucket").name
        ('zenodo-ml', 'bucket')
        """
        if "://" not in self.url:
            return self.url.rstrip("/").rpartition("/")[2]
        parts = urlsplit(self.url)
        return parts.path.rstrip("/").rpartition("/")[2] or parts.netloc

    def __init_subclass__(cls) -> None:
        Storage._kinds.append(cls)

    def read(self, path: str) -> bytes:
        """Read an object whole; `ObjectMissingError` where there is none."""
        return self.read_ranges([(path, 0, None)])[0]

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Read bytes `start` to `stop` of an object; fewer where it ends before."""
        return self.read_ranges([(path, start, stop)])[0]

    def read_tail(self, path: str, size: int) -> bytes:
        """Read the last `size` bytes of an object, or all of a smaller one."""
        return self.read_ranges([(path, -size, None)])[0]

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read many ranges of many objects at once.

        Elsewhere than on this machine up to 64 requests are under way, and
        neighbouring ranges of an object come in one.

        Parameters
        ----------
        ranges : sequence of (str, int, int or None)
            Path, first byte, and the byte after the last. ``(path, 0, None)`` is a
            whole object, ``(path, -n, None)`` its last `n` bytes.

        Returns
        -------
        list of bytes
            In the order of `ranges`; shorter than asked for where an object ends before.
        """
        for path in dict.fromkeys(path for path, _, _ in ranges):
            inside(path)
        joined = list(_join_ranges(ranges, self._gap))
        answers = self._read_ranges([wanted for wanted, _ in joined])
        found = [b""] * len(ranges)
        for ((path, first, end), places), data in zip(joined, answers, strict=True):
            if isinstance(data, BaseException):
                with self._operation("read", path):
                    raise data
            for place in places:
                _, start, stop = ranges[place]
                if stop is None or (start, stop) == (first, end):
                    found[place] = data
                else:
                    found[place] = data[start - first : stop - first]
        return found

    def open_reader(self, path: str) -> IO[bytes]:
        """Open an object as a seekable binary stream."""
        with self._operation("read", path):
            return self._open_reader(path)

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
        with self._operation("write", path):
            note_operation("write", path)
            self._write(path, data, durable=durable)

    def write_new(self, path: str, data: bytes) -> bool:
        """Write an object only where there is none yet; return whether it was written."""
        with self._operation("write", path):
            note_operation("write", path)
            return self._write_new(path, data)

    def replace(self, path: str, data: bytes, *, expected: bytes | None) -> bool:
        """Write an object only where it is as expected; return whether it was written.

        Parameters
        ----------
        path : str
        data : bytes
        expected : bytes or None
            What the object must hold until then; None for no object.
        """
        with self._operation("write", path):
            note_operation("write", path)
            return self._replace_if(path, data, expected)

    def publish(self, local: Path, path: str, *, durable: bool = True) -> None:
        """Move a finished local file to `path`, atomically; the file is gone after.

        Parameters
        ----------
        local : Path
        path : str
        durable : bool
            Wait until it would survive a power cut, as in `write`.
        """
        with self._operation("write", path):
            note_operation("write", path)
            self._publish(local, path, durable=durable)

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        with self._operation("read", path):
            return self._exists(path)

    def size(self, path: str) -> int:
        """Size of an object, in bytes; `ObjectMissingError` where there is none."""
        with self._operation("read", path):
            return self._size(path)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Paths of all objects under a folder, at any depth, sorted; empty where there is none."""
        with self._operation("list", prefix):
            return sorted(self._list(prefix))

    def names(self) -> Sequence[str]:
        """Names of the objects and folders at the top, sorted; empty where there is nothing."""
        with self._operation("list", ""):
            return sorted(self._names())

    def remove(self, paths: str | Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for path in [paths] if isinstance(paths, str) else paths:
            with self._operation("remove", path):
                note_operation("remove", path)
                self._remove(path)

    def prune(self, prefix: str) -> None:
        """Remove the empty folders under `prefix`, and it too, where there are folders at all."""
        with self._operation("remove", prefix):
            self._prune(prefix)

    def leftovers(self, age: float = 0) -> Sequence[str]:
        """Paths of half-written objects that nobody has written to for `age` seconds."""
        return ()

    @contextlib.contextmanager
    def _operation(self, operation: str, path: str) -> Iterator[None]:
        """Check the path; turn the system's errors into ours, which name object and storage."""
        inside(path)
        where = f"cannot {operation} {path!r}"
        try:
            yield
        except ZmlError:
            raise
        except Exception as error:
            kind, reason = self._explain(error, operation)
            raise kind(f"{where}: {reason} (in {self.url})") from error

    def _explain(self, error: Exception, operation: str) -> tuple[type[ZmlError], str]:
        """Say what an error means and which class of ours it becomes; raise a mistake of ours."""
        if not isinstance(error, OSError):
            raise error
        number = error.errno
        if number is None:
            number = errno.ENOENT if isinstance(error, FileNotFoundError) else None
        if operation == "write" and number in _MISSING:
            return StorageError, "its folder cannot be made there; check the path"
        kind = ObjectMissingError if number in _MISSING else StorageError
        return kind, _REASONS.get(number, str(error) or type(error).__name__)

    @classmethod
    @abstractmethod
    def _at(cls, url: str, options: Mapping[str, Any]) -> Storage | None:
        """Open the place that a path or URL names; None if it is of another kind."""

    @abstractmethod
    def _read_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]: ...

    @abstractmethod
    def _open_reader(self, path: str) -> IO[bytes]: ...

    @abstractmethod
    def _write(self, path: str, data: bytes, *, durable: bool) -> None: ...

    @abstractmethod
    def _write_new(self, path: str, data: bytes) -> bool: ...

    @abstractmethod
    def _replace_if(self, path: str, data: bytes, expected: bytes | None) -> bool: ...

    @abstractmethod
    def _publish(self, local: Path, path: str, *, durable: bool) -> None: ...

    @abstractmethod
    def _exists(self, path: str) -> bool: ...

    @abstractmethod
    def _size(self, path: str) -> int: ...

    @abstractmethod
    def _list(self, prefix: str) -> Sequence[str]: ...

    @abstractmethod
    def _names(self) -> Sequence[str]: ...

    @abstractmethod
    def _remove(self, path: str) -> None: ...

    @abstractmethod
    def _prune(self, prefix: str) -> None: ...


def _join_ranges(ranges: Sequence[Range], gap: int) -> Iterator[tuple[Range, list[int]]]:
    """Join neighbouring ranges of an object; yield each with the places of those it answers."""
    last: tuple[str, int, int] | None = None
    places: list[int] = []
    for place in sorted(range(len(ranges)), key=lambda place: ranges[place][:2]):
        path, start, stop = ranges[place]
        if start < 0 or stop is None:
            yield (path, start, stop), [place]
            continue
        if last is not None:
            end = max(stop, last[2])
            near = path == last[0] and start <= last[2] + gap
            if near and end - last[1] <= max(_LARGEST_JOINED, last[2] - last[1]):
                last = path, last[1], end
                places.append(place)
                continue
            yield last, places
        last, places = (path, start, stop), [place]
    if last is not None:
        yield last, places
