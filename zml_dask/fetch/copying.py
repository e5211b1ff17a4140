"""Bytes of any stream onto the local disk, or through a hash, piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from zml_dask.errors import NetworkError
from zml_dask.fetch.streams import Readable
from zml_dask.net.transfer import local_disk, write_all

_PIECE: Final = 1024 * 1024


def copy_stream(source: Readable, target: Path, most: int) -> tuple[int, str]:
    """Copy a stream to a file.

    Returns
    -------
    count : int
        Bytes.
    md5 : str
        Hex.

    Raises
    ------
    NetworkError
        Where there are more bytes than `most`, or `target` cannot be written. What `source`
        raises is passed on.
    """
    digest, count = hashlib.md5(usedforsecurity=False), 0
    with local_disk(target):
        to = target.open("wb", buffering=0)
    with to:
        while piece := source.read(_PIECE):
            count += len(piece)
            if count > most:
                raise NetworkError(
                    "too_large", f"{target.name!r} is over the limit of {most:,} bytes"
                )
            digest.update(piece)
            with local_disk(target):
                write_all(to, piece)
    return count, digest.hexdigest()


def md5_of(path: Path) -> str:
    """Hex md5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
