"""A pile of byte strings that stays in memory while it is small and goes to scratch when not."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Self
from uuid import uuid4

SPOOL_BYTES = 16 * 2**20
"""How much a spool holds in memory."""


class Spool:
    """Byte strings one after another, read back by number.

    Parameters
    ----------
    scratch : Path
        Folder on a local disk for what does not stay in memory.
    max_memory : int
        Bytes kept in memory; beyond, everything goes to one file in `scratch`.

    Examples
    --------
    >>> with Spool(Path("/tmp")) as spool:
    ...     number = spool.append(b"text")
    ...     spool.get(number), spool.size
    (b'text', 4)
    """

    def __init__(self, scratch: Path, max_memory: int = SPOOL_BYTES) -> None:
        self._path = scratch / f"spool-{uuid4().hex}"
        self._max_memory = max_memory
        self._items: list[bytes] = []
        self._stops = array("q", [0])
        self._file: int | None = None

    def append(self, data: bytes) -> int:
        """Add a byte string; return its number."""
        stop = self._stops[-1] + len(data)
        if self._file is None and stop > self._max_memory:
            self._spill()
        if self._file is None:
            self._items.append(data)
        else:
            _write_all(self._file, data)
        self._stops.append(stop)
        return len(self._stops) - 2

    def get(self, number: int) -> bytes:
        """Return the byte string that `append` gave `number`."""
        if self._file is None:
            return self._items[number]
        start, stop = self._stops[number], self._stops[number + 1]
        return os.pread(self._file, stop - start, start)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._stops[-1]

    @property
    def path(self) -> Path | None:
        """The file in scratch, if the spool outgrew its memory."""
        return None if self._file is None else self._path

    def join(self) -> bytes:
        """Return everything as one byte string; only for a spool still in memory."""
        return b"".join(self._items)

    def _spill(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        for item in self._items:
            _write_all(self._file, item)
        self._items.clear()

    def close(self) -> None:
        """Free the memory, and remove the file in scratch if it is still there."""
        self._items.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
