"""Compression around a file, peeled off as a stream, within bounds."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Final, Protocol, cast

import zstandard
from isal import igzip

from zml_dask.fetch.inflate import InflateError, memory_error
from zml_dask.fetch.limits import Meter
from zml_dask.fetch.sniff import HEAD_BYTES, Kind, recognise

_XZ_MEMORY: Final = 256 * 1024 * 1024
_ZSTD_WINDOW: Final = 128 * 1024 * 1024
_PIECE: Final = 256 * 1024
_MORSEL: Final = 1024

_BROKEN: Final = (EOFError, OSError, zlib.error, InflateError, lzma.LZMAError,
                  zstandard.ZstdError, ValueError)  # fmt: skip


class BrokenStreamError(Exception):
    """The stream does not decompress from here on."""


class OverLimitError(Exception):
    """Reading on would unpack more than is allowed."""


class Readable(Protocol):
    """What every layer is read through."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Layer:
    """A stream that counts what comes out of it and whose first bytes can be looked at.

    Parameters
    ----------
    stream : Readable
    meter : Meter
    counted : bool
        Whether its bytes count as unpacked: those of the file itself do not.
    """

    def __init__(self, stream: Readable, meter: Meter, *, counted: bool = True) -> None:
        self._stream = stream
        self._meter = meter
        self._counted = counted
        self._head = b""
        self._amiss: BrokenStreamError | OverLimitError | None = None
        self.position = 0

    def peek(self) -> bytes:
        """The first 512 bytes, or fewer where there are no more or they cannot be had."""
        if not self._head and self._amiss is None:
            try:
                self._head = self._pull(HEAD_BYTES)
            except (BrokenStreamError, OverLimitError) as error:
                self._amiss = error  # for the one who reads
        return self._head

    def read(self, size: int = -1, /) -> bytes:
        """`size` bytes, fewer at the end.

        Raises
        ------
        BrokenStreamError, OverLimitError
        """
        size = _PIECE if size < 0 else size
        head, self._head = self._head[:size], self._head[size:]
        data = head if len(head) == size else head + self._pull(size - len(head))
        self.position += len(data)
        return data

    def readinto(self, buffer: bytearray) -> int:
        """As `read`, into a buffer: what igzip asks of a file."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def unread(self, data: bytes) -> None:
        """Put back what was read too much."""
        self._head = data + self._head
        self.position -= len(data)

    def _pull(self, size: int) -> bytes:
        if self._amiss is not None:
            raise self._amiss
        pieces: list[bytes] = []
        missing = size
        while missing:
            # Also of what lies beneath a compression: that may unpack to nothing for hours.
            self._meter.check_time()
            try:
                piece = self._stream.read(min(missing, _PIECE))
            except MemoryError:
                raise OverLimitError("its decompression asks for too much memory") from None
            except _BROKEN as error:
                raise BrokenStreamError(type(error).__name__) from error
            if not piece:
                break
            missing -= len(piece)
            over = self._meter.add_unpacked(len(piece)) if self._counted else None
            if over is not None:
                raise OverLimitError(over)
            pieces.append(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Framed:
    """xz and zstd with a limit to their memory, and an error where a frame breaks off.

    `lzma.LZMAFile` has no such limit, and the reader of `zstandard` takes a
    frame that breaks off for one that ends. Fed by the kilobyte, of which
    neither makes more than some 30 MB.

    Parameters
    ----------
    stream : Readable
    new : callable
        Gives a decompressor for the next frame.
    """

    def __init__(self, stream: Readable, new: Callable[[], _Decompressor]) -> None:
        self._stream = stream
        self._new = new
        self._decompressor: _Decompressor | None = None
        self._packed = b""
        self._ready = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        while not self._ready:
            if not self._packed:
                self._packed = self._stream.read(_MORSEL)
            if self._decompressor is None:
                # Zeros may pad the space between frames.
                self._packed = self._packed.lstrip(b"\x00")
            if not self._packed:
                if self._decompressor is not None:
                    raise EOFError("the stream ends within a frame")
                if self._stream_has_ended():
                    return b""
                continue
            self._ready = memoryview(self._feed())
        data = bytes(self._ready[:size] if size >= 0 else self._ready)
        self._ready = self._ready[len(data) :]
        return data

    def _stream_has_ended(self) -> bool:
        self._packed = self._stream.read(_MORSEL)
        return not self._packed

    def _feed(self) -> bytes:
        if self._decompressor is None:
            self._decompressor = self._new()
        packed, self._packed = self._packed, b""
        try:
            data = self._decompressor.decompress(packed)
        except lzma.LZMAError as error:
            raise memory_error(error) from error
        if self._decompressor.eof:
            self._packed = self._decompressor.unused_data
            self._decompressor = None
        return data


def peel(layer: Layer, meter: Meter) -> tuple[Kind, Layer, int]:
    """Take off every compression around a file.

    Returns
    -------
    kind : Kind
        Of what is inside; one of the compressions where there are too many.
    layer : Layer
        The innermost stream, from its first byte.
    depth : int
        How many were taken off.
    """
    depth = 0
    kind = recognise(layer.peek())
    while kind in _OPENERS and depth < meter.limits.max_depth:
        layer = Layer(_OPENERS[kind](layer), meter)
        depth += 1
        kind = recognise(layer.peek())
    return kind, layer, depth


def _open_gzip(stream: Readable) -> Readable:
    opened: Readable = igzip.IGzipFile(fileobj=stream, mode="rb")  # type: ignore[no-untyped-call]
    return opened


def _open_bzip2(stream: Readable) -> Readable:
    return bz2.BZ2File(cast("IO[bytes]", stream))


def _new_xz() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


def _new_zstd() -> _Decompressor:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


_OPENERS: Final[dict[Kind, Callable[[Readable], Readable]]] = {
    "gzip": _open_gzip,
    "bzip2": _open_bzip2,
    "xz": lambda stream: _Framed(stream, _new_xz),
    "zstd": lambda stream: _Framed(stream, _new_zstd),
}
