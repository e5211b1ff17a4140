"""The bytes of a record's file: made when first asked for, then kept."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Settled:
    """Content that is there.

    Attributes
    ----------
    source : bytes or Path
    size : int
        Bytes.
    md5 : str
        Hex digits.
    """

    source: bytes | Path
    size: int
    md5: str

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``."""
        if isinstance(self.source, bytes):
            return self.source[start:stop]
        with self.source.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


class Content:
    """Content that is made by a function, once, by whichever thread asks first.

    Parameters
    ----------
    make : bytes, Path or callable
        The content, a file that holds it, or a function that gives either.
    """

    def __init__(self, make: bytes | Path | Callable[[], bytes | Path]) -> None:
        self._make = make
        self._settled: Settled | None = None
        self._lock = threading.Lock()

    def settle(self) -> Settled:
        """Make it, if need be, and say how large it is and what its md5 is."""
        with self._lock:
            if self._settled is None:
                source = self._make() if callable(self._make) else self._make
                self._settled = _measured(source)
            return self._settled


def _measured(source: bytes | Path) -> Settled:
    if isinstance(source, bytes):
        return Settled(source, len(source), hashlib.md5(source, usedforsecurity=False).hexdigest())
    digest = hashlib.md5(usedforsecurity=False)
    with source.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return Settled(source, source.stat().st_size, digest.hexdigest())
