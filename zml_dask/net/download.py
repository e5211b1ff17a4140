"""What is to be downloaded, what has been, and the local disk that may refuse it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from zml_dask.net.errors import (
    DiskFullError,
    ScratchError,
)

HEAD_BYTES: Final = 512
"""How much of a file is shown to the one who may not want the rest: a tar header."""

PIECE: Final = 256 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Download:
    """A file that has arrived.

    Attributes
    ----------
    path : Path
    bytes : int
        Of the content on disk.
    md5 : str
        Hex digest of it.
    requests : int
        How many it took.
    complete : bool
        False where the first bytes showed that the rest is not wanted; `path`
        then does not exist.
    """

    path: Path
    bytes: int
    md5: str
    requests: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What to fetch, where to, and what it has to be; see `HttpClient.download`."""

    url: str
    target: Path
    max_bytes: int | None = None
    checksum: str | None = None
    size: int | None = None
    keep_partial: bool = False
    wanted: Callable[[bytes], bool] | None = None

    @property
    def md5(self) -> str | None:
        """Expected md5, hex; None where the record names none that we can check."""
        if self.checksum is None:
            return None
        algorithm, colon, digest = self.checksum.rpartition(":")
        return digest.lower() if algorithm.lower() in {"md5", ""} or not colon else None

    @property
    def part(self) -> Path:
        """Where the file grows."""
        return self.target.with_name(self.target.name + ".part")


def write_all(file: FileIO, piece: bytes) -> None:
    """Write to an unbuffered file: the system may take a part of it, as of a disk almost full."""
    written = file.write(piece)
    while written < len(piece):
        written += file.write(piece[written:])


@contextmanager
def local_disk(path: Path) -> Iterator[None]:
    """Turn what the local disk refuses into errors that say so.

    Raises
    ------
    DiskFullError
        No space, or over quota.
    ScratchError
        Anything else, such as a folder that may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no space left at {str(path.parent)!r}; free some, or name another scratch folder"
            ) from error
        raise ScratchError(
            f"{str(path)!r} cannot be written ({error.strerror}); name another scratch folder"
        ) from error
