"""Temporary folders that are removed even if their process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_PREFIX: Final = "zml-"
# A lock may hold on one machine only, where machines share a folder.
_LOCK: Final = f".in-use-{socket.gethostname()}"


@contextmanager
def temporary_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder in the system's folder for temporary files, and remove it in the end.

    A process that is killed removes nothing. So each folder holds a locked file, and the lock ends
    with its process, however that ended: what nobody holds is removed here. `purpose` is a part of
    the folder's name, `parent` another place for it.

    Examples
    --------
    >>> with temporary_folder("example") as folder:
    ...     _ = (folder / "file").write_text("text")
    >>> folder.exists()
    False
    """
    parent = parent or Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder, lock = _make(parent, purpose)
    try:
        yield folder
    finally:
        # Interrupted, threads may still write to it.
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _make(parent: Path, purpose: str) -> tuple[Path, BinaryIO]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
        lock = (folder / _LOCK).open("wb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        lock.close()  # another process took it for abandoned before it was locked


def _remove_abandoned(parent: Path) -> None:
    for marker in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            if marker.lstat().st_uid != os.getuid() or marker.is_symlink():
                continue
            with marker.open("rb") as lock:
                # Refused where its process lives.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(marker.parent, ignore_errors=True)
