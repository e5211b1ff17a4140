"""Where PNGs go: a folder a group, or a tar a group; nothing half-written under a final name."""

from __future__ import annotations

import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Self

_OPEN_FILES = 64
"""Tars open at a time: a dataset has thousands of extensions, a process fewer handles."""

_PARTIAL = ".partial"


class FolderTarget:
    """Writes each image to ``<folder>/<group>/<name>``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def write(self, group: str, name: str, data: bytes) -> None:
        """Write one image."""
        if group not in self._made:
            (self._folder / group).mkdir(parents=True, exist_ok=True)
            self._made.add(group)
        (self._folder / group / name).write_bytes(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: every file is closed."""


class TarTarget:
    """Appends each image to ``<folder>/<group>.tar``; a context manager.

    All groups grow at once, so that the dataset is read once. A tar is a row of
    headers and bodies, and can be closed and taken up again at any of them; it
    gets its name when the last image is in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._groups: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, group: str, name: str, data: bytes) -> None:
        """Append one image, as ``<group>/<name>``; owner and time are not recorded."""
        member = tarfile.TarInfo(f"{group}/{name}")
        member.size = len(data)
        stream = self._stream(group)
        stream.write(member.tobuf(tarfile.PAX_FORMAT))
        stream.write(data)
        stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def _stream(self, group: str) -> IO[bytes]:
        if group in self._open:
            self._open.move_to_end(group)
            return self._open[group]
        if len(self._open) == _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        # What a run before this one left unfinished is not continued.
        stream = self._path(group, _PARTIAL).open("ab" if group in self._groups else "wb")
        self._groups.add(group)
        self._open[group] = stream
        return stream

    def _path(self, group: str, suffix: str = "") -> Path:
        return self._folder / f"{group}.tar{suffix}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End all tars; on an error, remove them."""
        try:
            for group in sorted(self._groups):
                if kind is None:
                    self._stream(group).write(bytes(2 * tarfile.BLOCKSIZE))
        finally:
            for stream in self._open.values():
                stream.close()
            self._open.clear()
        for group in self._groups:
            partial = self._path(group, _PARTIAL)
            if kind is None:
                partial.replace(self._path(group))
            else:
                partial.unlink(missing_ok=True)
