"""A dataset in a folder: temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar
from uuid import uuid4

from zml_dask.errors import StorageError, UsageError
from zml_dask.store.storage import Range, Storage, is_url, note_operation

_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_HIDDEN = (_TEMPORARY, f"{_LOCK}-")
# Never world-writable, whatever the umask; group-writable where the umask
# permits it, since teams share datasets.
_FILE_MODE = 0o664
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
_FOLDER_MODE = 0o775
_MANY_FILES = 8


@dataclass(frozen=True)
class LocalStorage(Storage):
    """Objects as files under the folder `url`."""

    is_local: ClassVar[bool] = True
    _gap: ClassVar[int] = 0

    @classmethod
    def _at(cls, url: str, options: Mapping[str, Any]) -> Storage | None:
        protocol, separator, rest = url.partition("://")
        if is_url(url) and protocol not in ("file", "local"):
            return None
        if options:
            raise UsageError(
                f"{url!r} is a folder, which takes no storage options; "
                f"leave out {', '.join(map(repr, options))}"
            )
        path = Path(os.path.expanduser(rest if separator else url))  # noqa: PTH111 - of no user: kept
        # The parent of a link is not that in its path.
        try:
            return cls(os.path.realpath(path) if ".." in path.parts else str(path.absolute()))
        except FileNotFoundError as error:  # of os.getcwd
            raise UsageError("the current folder was removed; change to another one") from error

    def _locate(self, path: str) -> Path:
        target = Path(self.url, path)
        root, real = os.path.realpath(self.url), os.path.realpath(target)
        if os.path.commonpath([root, real]) != root:
            # A dataset may come from anybody.
            raise StorageError(
                f"{str(target)!r} is a symbolic link that leads out of the dataset (to {real!r}), "
                "which is not followed; replace it by its target"
            )
        return target

    def _read_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        of_path: dict[str, list[int]] = {}
        for place, (path, _, _) in enumerate(ranges):
            of_path.setdefault(path, []).append(place)
        found: list[bytes | BaseException] = [b""] * len(ranges)

        def read(path: str) -> None:
            places = of_path[path]
            try:
                with self._locate(path).open("rb", buffering=0) as file:
                    for place in places:
                        _, start, stop = ranges[place]
                        found[place] = _read_at(file, start, stop)
            except (OSError, StorageError) as error:
                for place in places:
                    found[place] = error

        # On a network's file system each file costs a round trip.
        if len(of_path) < _MANY_FILES:
            for path in of_path:
                read(path)
        else:
            with ThreadPoolExecutor(_MANY_FILES) as pool:
                list(pool.map(read, of_path))
        return found

    def _open_reader(self, path: str) -> IO[bytes]:
        import pyarrow as pa  # here, since not every process that stores needs it

        # Arrow's own file: if an Arrow thread releases a Python file after the interpreter has
        # ended, the process ends with SIGABRT, although everything was done.
        stream: IO[bytes] = pa.OSFile(str(self._locate(path)))
        return stream

    def _write(self, path: str, data: bytes, *, durable: bool) -> None:
        temporary = self._write_aside(path, lambda file: file.write(data), durable=durable)
        self._replace(temporary, self._locate(path), path, durable=durable)

    def _write_new(self, path: str, data: bytes) -> bool:
        target = self._locate(path)
        temporary = self._write_aside(path, lambda file: file.write(data), durable=True)
        try:
            # A hard link fails if the name exists, and is atomic.
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_whole(target, data)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _replace_if(self, path: str, data: bytes, expected: bytes | None) -> bool:
        target = self._locate(path)
        temporary = self._write_aside(path, lambda file: file.write(data), durable=True)
        try:
            note_operation("rename", path)
            with _locked(target.with_name(f"{_LOCK}-{target.name}")):
                if (target.read_bytes() if target.exists() else None) != expected:
                    return False
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(target.parent)
        return True

    def _publish(self, local: Path, path: str, *, durable: bool) -> None:
        target = self._locate(path)
        _make_folder(target.parent)
        if local.stat().st_dev == target.parent.stat().st_dev:
            with local.open("rb") as file:
                os.fchmod(file.fileno(), _FILE_MODE & ~_umask())
                if durable:
                    os.fsync(file.fileno())
            self._replace(local, target, path, durable=durable)
            return
        with local.open("rb") as source:
            temporary = self._write_aside(
                path, lambda file: shutil.copyfileobj(source, file, 1 << 20), durable=durable
            )
        self._replace(temporary, target, path, durable=durable)
        local.unlink()

    def _temporary(self, path: str) -> Path:
        # Within DATASET, so that the rename stays within one file system; in the
        # outermost folder, so that leftovers are found without a walk; hidden,
        # so that readers of a folder of Parquet parts ignore it.
        folder, _, rest = path.partition("/")
        name = f"{_TEMPORARY}{uuid4().hex}-{path.rpartition('/')[2]}"
        return Path(self.url, folder, name) if rest else Path(self.url, name)

    def _write_aside(
        self, path: str, fill: Callable[[IO[bytes]], object], *, durable: bool
    ) -> Path:
        _make_folder(self._locate(path).parent)
        temporary = self._temporary(path)
        try:
            with _create(temporary) as file:
                fill(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _replace(self, temporary: Path, target: Path, path: str, *, durable: bool) -> None:
        try:
            note_operation("rename", path)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sync(target.parent)

    def _exists(self, path: str) -> bool:
        return self._locate(path).is_file()

    def _size(self, path: str) -> int:
        return self._locate(path).stat().st_size

    def _list(self, prefix: str) -> Sequence[str]:
        root = self.url.rstrip("/") + "/"
        return [
            (folder.rstrip("/") + "/").removeprefix(root) + name
            for folder, _, names in os.walk(self._locate(prefix))
            for name in names
            if not name.startswith(_HIDDEN)
        ]

    def _names(self) -> Sequence[str]:
        try:
            found = [entry.name for entry in os.scandir(self.url)]
        except FileNotFoundError:
            return []
        return [name for name in found if not name.startswith(_HIDDEN)]

    def leftovers(self, age: float = 0) -> Sequence[str]:
        """Paths of half-written objects that nobody has written to for `age` seconds."""
        root, found = Path(self.url), []
        for pattern in (f"{_TEMPORARY}*", f"*/{_TEMPORARY}*"):
            for path in root.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
                    if time.time() - path.stat().st_mtime >= age:
                        found.append(str(path.relative_to(root)))
        return sorted(found)

    def _remove(self, path: str) -> None:
        self._locate(path).unlink(missing_ok=True)

    def _prune(self, prefix: str) -> None:
        for folder, _, _ in os.walk(self._locate(prefix), topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise


def _read_at(file: IO[bytes], start: int, stop: int | None) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if start < 0:
        start = max(0, size + start)
    stop = size if stop is None else min(stop, size)
    pieces = []
    while start < stop:  # one call reads 2 GiB at most
        piece = os.pread(file.fileno(), stop - start, start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; do nothing where the file system has no locks."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        # Not by parents=True, which gives parents the umask's mode, not ours.
        _make_folder(folder.parent)
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)


def _create(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb")


def _create_whole(target: Path, data: bytes) -> bool:
    """Create a file where the file system has no links: exclusively, if not atomically."""
    try:
        with _create(target) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _umask() -> int:
    # There is no way to read it without setting it; this one is atomic on Linux.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0o022
    return next(
        (int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:")),
        0o022,
    )
