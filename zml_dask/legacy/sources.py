"""Sources of 2018's records: a folder, or a squashfs image that is read without mounting it.

PySquashfsImage reads squashfs in pure Python, without root, FUSE or a kernel module, which compute
nodes rarely allow.
"""

from __future__ import annotations

import errno
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from zml_dask.errors import UsageError, ZmlError

_SQUASHFS_MAGIC = b"hsqs"
_ID = re.compile(r"[0-9]{1,18}")
_OF_BAD_OFFSETS = (None, errno.EINVAL, errno.EOVERFLOW)


class LegacyFileError(ZmlError):
    """A file does not belong to the legacy (2018) dataset, or cannot be read."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Paths of a record's files in a source, None where one is missing, and their total size."""

    record_id: int
    pickle: str | None = None
    hdf5: str | None = None
    metadata: str | None = None
    size: int = 0


class LegacySource(ABC):
    """A dataset of 2018. Sources can be pickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file, in any order."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file as a stream that is read once, from beginning to end."""

    def close(self) -> None:  # noqa: B027 - a folder is not opened
        """Close the source."""

    def records(self) -> list[SourceRecord]:
        """List the records in ascending order.

        A folder named by a number, at any depth, is a record's; if there are several with the same
        number, the first in path order is used.
        """
        folders: dict[int, dict[str, dict[str, tuple[str, int]]]] = {}
        for path, size in self.files():
            folder, _, name = path.rpartition("/")
            number = folder.rpartition("/")[2]
            kind = _KINDS.get(name.replace(number, "<id>", 1)) if _ID.fullmatch(number) else None
            if kind is not None:
                kinds = folders.setdefault(int(number), {}).setdefault(folder, {})
                kinds[kind] = (path, size)
        records = []
        for record_id in sorted(folders):
            kinds = folders[record_id][min(folders[record_id])]
            paths = {kind: path for kind, (path, _) in kinds.items()}
            size = sum(size for _, size in kinds.values())
            records.append(SourceRecord(record_id, **paths, size=size))
        return records


_KINDS = {"images_<id>.pkl": "pickle", "images_<id>.h5": "hdf5", "metadata_<id>.pkl": "metadata"}


class FolderSource(LegacySource):
    """A folder with one folder per record, for example a mounted image."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file; symbolic links are not followed."""
        # os.walk: Path.walk is of Python 3.12.
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder, name)
                if file.is_file() and not file.is_symlink():
                    yield file.relative_to(self.path).as_posix(), file.stat().st_size

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        return (self.path / path).open("rb")


class SquashfsSource(LegacySource):
    """A squashfs image."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened: Any = None

    def __reduce__(self) -> Any:
        return SquashfsSource, (self.path,)

    def _image(self) -> Any:
        if self._opened is None:
            from PySquashfsImage import SquashFsImage

            with self._errors():
                self._opened = SquashFsImage.from_file(str(self.path))
        return self._opened

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:  # of the decompressor
            raise UsageError(f"{self.path} needs the Python package {error.name!r}") from error
        except Exception as error:  # PySquashfsImage raises whatever a bad image leads to
            if isinstance(error, OSError) and error.errno not in _OF_BAD_OFFSETS:
                raise  # of the disk, which may be read another time
            raise LegacyFileError(
                f"{self.path} cannot be read as squashfs: {type(error).__name__}: {error}"
            ) from error

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of every regular file."""
        image = self._image()
        with self._errors():
            found = [(file.path.lstrip("/"), file.size) for file in image if file.is_file]
        yield from found

    def open(self, path: str) -> IO[bytes]:
        """Open a file, whose blocks are decompressed as they are read."""
        with self._errors():
            file = self._image().select(f"/{path}")
        if file is None:
            raise LegacyFileError(f"{self.path} does not contain {path}")
        return io.BufferedReader(_BlockStream(file.iter_bytes(), self))

    def close(self) -> None:
        """Close the image."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class _BlockStream(io.RawIOBase):
    """A stream of the blocks from an iterator."""

    def __init__(self, blocks: Iterator[bytes], source: SquashfsSource) -> None:
        super().__init__()
        self._blocks = blocks
        self._source = source
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        with self._source._errors():  # noqa: SLF001 - a part of the source
            while not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    return 0
                self._rest = memoryview(block)
        n = min(len(target), len(self._rest))
        target[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def open_source(path: str | Path) -> LegacySource:
    """Open a folder of 2018's records, or a squashfs image; `UsageError` if it is neither."""
    place = Path(path)
    if place.is_dir():
        return FolderSource(place.absolute())
    if not place.is_file():
        raise UsageError(
            f"there is no {str(place)!r}; give a folder with records of 2018, or a .sqsh file"
        )
    with place.open("rb") as stream:
        if stream.read(len(_SQUASHFS_MAGIC)) != _SQUASHFS_MAGIC:
            raise UsageError(
                f"{str(place)!r} is neither a folder nor a squashfs image; "
                "give a folder with records of 2018, or a .sqsh file"
            )
    return SquashfsSource(place.absolute())
