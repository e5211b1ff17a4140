"""The bytes of a pickle, as they come."""

from __future__ import annotations

from typing import IO

_PIECE = 1 << 20


class Pieces:
    """A stream that is read in pieces, so that only bytes that are there take memory.

    Attributes
    ----------
    n_read : int
        Bytes that were there so far.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.n_read = 0

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or what is left of them where they are few."""
        if size <= _PIECE:
            return self._counted(self._stream.read(size))
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._counted(self._stream.read(min(_PIECE, size - len(pieces))))
            if not piece:
                raise EOFError(f"{size:,} bytes are announced, {len(pieces):,} are there")
            pieces += piece
        return bytes(pieces)

    def readline(self) -> bytes:
        """Read to the end of a line."""
        return self._counted(self._stream.readline())

    def _counted(self, data: bytes) -> bytes:
        self.n_read += len(data)
        return data
