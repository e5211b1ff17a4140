"""Archives that a library in C reads, in a process of its own: 7z, RAR, cab, deb, rpm and others.

`zml_dask.fetch.foreign_child` is that process. Its time, memory and output are limited,
and its output is trusted no more than the archive itself.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from zml_dask.fetch.member import BrokenStreamError, Meter, OverLimitError

INSTALL: Final = (
    "pip install 'zml-dask[archives]', with the system's libarchive (Debian: libarchive13)"
)
_PROGRAM: Final = Path(__file__).with_name("foreign_child.py")
FOREIGN_MEMORY: Final = 512 * 2**20
"""Bytes that the process may take, beside its worker: the largest dictionary that 7-Zip offers
by a preset is an eighth of it."""

_LARGEST_FRAME: Final = 1024 * 1024
_LARGEST_RAR5_HEADER: Final = 64 * 1024
_RAR5_FILE: Final = 2
_POLL_SECONDS: Final = 1.0
_SLOWEST: Final = 2e6  # bytes per second
_OUT_OF: Final = {signal.SIGXCPU: "time", signal.SIGKILL: "memory or time"}


class MissingLibraryError(BrokenStreamError):
    """The library that reads such archives is not installed."""


class ForeignReader:
    """A process that reads one archive.

    `source` needs a file descriptor, and is read from its beginning. `stream` says that it is
    one compressed stream rather than an archive of entries. Entries whose names, in lower
    case, end with one of `archives` are sent whatever their size.
    """

    def __init__(
        self,
        source: IO[bytes],
        meter: Meter,
        *,
        stream: bool = False,
        archives: tuple[str, ...] = (),
    ) -> None:
        asked = {
            "memory": FOREIGN_MEMORY,
            # One that takes longer than the slowest compression would is in an endless loop.
            "seconds": int(
                min(max(1, meter.limits.max_seconds), 60 + meter.max_unpacked / _SLOWEST)
            ),
            "most": meter.limits.max_file_bytes,
            "archives": archives,
            "stream": stream,
        }
        self._meter = meter
        self._pending = b""
        # A descriptor of its own: the position of one that is passed on is shared.
        with open(f"/dev/fd/{source.fileno()}", "rb", buffering=0) as own:  # noqa: PTH123
            os.lseek(own.fileno(), 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), json.dumps(asked)],
                stdin=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    "LC_ALL": "C.UTF-8",
                    "PATH": os.environ.get("PATH", os.defpath),
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    **{
                        name: os.environ[name]
                        for name in ("LIBARCHIVE", "LD_LIBRARY_PATH")
                        if name in os.environ
                    },
                },
                start_new_session=True,
            )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)

    @property
    def _out(self) -> int:
        return self._process.stdout.fileno()  # type: ignore[union-attr]

    def close(self) -> None:
        """End the process, whatever it does."""
        self._selector.close()
        self._process.kill()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()

    def frame(self) -> tuple[bytes, bytes]:
        """Return the letter and the body of the next frame.

        Raises `BrokenStreamError` if the process ends before it, or writes something else.
        """
        head = self._take(5)
        length = int.from_bytes(head[1:], "little")
        if length > _LARGEST_FRAME:
            raise BrokenStreamError("its reader gave an invalid answer")
        return head[:1], self._take(length)

    def json_of(self, body: bytes) -> dict[str, Any]:
        """Return the JSON object that a frame's body should be."""
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise BrokenStreamError("its reader gave an invalid answer")
        return value

    def finish(self, body: bytes) -> None:
        """Check the last message of the process; raise the error that it names."""
        said = self.json_of(body)
        if said.get("library") is False:
            raise MissingLibraryError(f"install what reads it: {INSTALL}")
        raise_for(said.get("error"))

    def _take(self, count: int) -> bytes:
        pieces = [self._pending]
        missing = count - len(self._pending)
        while missing > 0:
            self._meter.check_time()
            if not self._selector.select(_POLL_SECONDS):
                continue
            piece = os.read(self._out, max(missing, 65_536))
            if not piece:
                raise BrokenStreamError(self._death())
            pieces.append(piece)
            missing -= len(piece)
        whole = b"".join(pieces)
        self._pending = whole[count:]
        return whole[:count]

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            number = signal.Signals(-code)
            lack = _OUT_OF.get(number)
            return f"its reader ran out of {lack}" if lack else f"its reader ended by {number.name}"
        return f"its reader ended with status {code}"


def rar5_extras(file: IO[bytes], meter: Meter) -> dict[str, str | None]:
    """Read what libarchive ignores in the headers of a RAR 5 archive.

    Returns the paths of the files that are encrypted (with None) and of those that are copies
    of others (with that one's path).
    """
    extras: dict[str, str | None] = {}
    file.seek(0)
    if file.read(8) != b"Rar!\x1a\x07\x01\x00":
        return extras
    position = 8
    # It ends early, or its lengths lead further than a file can reach.
    with suppress(IndexError, OSError, OverflowError, ValueError):
        for _ in range(meter.limits.max_members):
            meter.check_time()
            file.seek(position)
            head = file.read(_LARGEST_RAR5_HEADER)
            size, at = _vint(head, 4)
            stop = at + size
            kind, at = _vint(head, at)
            flags, at = _vint(head, at)
            n_extra, at = _vint(head, at) if flags & 1 else (0, at)
            n_data, at = _vint(head, at) if flags & 2 else (0, at)
            position += stop + n_data
            if kind == _RAR5_FILE:
                path = _rar5_name(head, at)
                for target in _rar5_special(head[max(at, stop - n_extra) : stop]):
                    extras[path] = target
    return extras


def _rar5_name(head: bytes, at: int) -> str:
    file_flags, at = _vint(head, at)
    for _ in range(2):  # its size, its attributes
        _, at = _vint(head, at)
    at += 4 * (file_flags >> 1 & 1) + 4 * (file_flags >> 2 & 1)
    for _ in range(2):  # how it is compressed, on which system
        _, at = _vint(head, at)
    length, at = _vint(head, at)
    return head[at : at + length].decode("utf-8", "surrogateescape")


def _rar5_special(extra: bytes) -> Iterator[str | None]:
    """Yield None for an entry that is encrypted, and the other's path for one that is a copy."""
    at = 0
    while at < len(extra):
        size, start = _vint(extra, at)
        kind, at = _vint(extra, start)
        if kind == 1:
            yield None
        elif kind == 5 and _vint(extra, at)[0] == 5:
            _, at = _vint(extra, _vint(extra, at)[1])
            length, at = _vint(extra, at)
            yield extra[at : at + length].decode("utf-8", "surrogateescape")
        at = start + max(1, size)


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of RAR 5 and where it ends; raise `IndexError` after the last byte."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def raise_for(said: Any) -> None:
    """Raise the `BrokenStreamError` or `OverLimitError` that libarchive's message means, if any."""
    if said is None:
        return
    message = plain(said)
    if "llocate" in message or "emory" in message:
        raise OverLimitError("reading it asks for too much memory")
    raise BrokenStreamError(message)


def plain(said: Any) -> str:
    """Return a message of libarchive in one line."""
    return " ".join(str(said).split())[:200].replace("codec ID: 40109", "codec Deflate64")


class PieceStream:
    """A stream of the pieces of bytes that an iterator gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ready = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, or one piece; nothing at the end."""
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ready = memoryview(piece)
        data = bytes(self._ready[:size] if size >= 0 else self._ready)
        self._ready = self._ready[len(data) :]
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""
        self._ready = memoryview(data + bytes(self._ready))


def unpacked(source: IO[bytes], meter: Meter) -> Iterator[bytes]:
    """Yield the content of one compressed file, such as a ``.Z``."""
    reader = ForeignReader(source, meter, stream=True)
    try:
        while True:
            kind, body = reader.frame()
            if kind == b"D":
                yield body
            elif kind == b"X":
                raise_for(reader.json_of(body).get("error"))
            elif kind == b"F":
                reader.finish(body)
                return
    finally:
        reader.close()
