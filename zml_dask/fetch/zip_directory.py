"""Where the members of a zip file are: its central directory, zip64 included.

Read here and not by `zipfile`, which makes an object of half a kilobyte of
every entry before the first can be counted: a directory that claims a million
members must not cost a gigabyte, nor an honest one thirty microseconds a file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from zml_dask.fetch.member import decoded

Buffer = memoryview

_END: Final = struct.Struct("<4s4H2LH")
_END_64_LOCATOR: Final = struct.Struct("<4sLQL")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LONGEST_COMMENT: Final = 65_535
_UTF8: Final = 0x800
_UNKNOWN_32: Final = 0xFFFF_FFFF
# What a table holds; a header that states more lies anyway.
_LARGEST_SIZE: Final = 2**63 - 1
_EXTRA_ZIP64: Final = 0x0001
_EXTRA_UNICODE_PATH: Final = 0x7075


class BrokenDirectoryError(Exception):
    """The central directory is not there or makes no sense."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory lies, in bytes from the file's begin.

    Attributes
    ----------
    start, stop : int
    shift : int
        To be added to the offsets within it: what was put before the zip file.
    """

    start: int
    stop: int
    shift: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the central directory.

    Attributes
    ----------
    path : str
        Not yet made escape_path.
    flags, method, crc, mode : int
        `mode` is that of a Unix file, 0 where the archive tells none.
    packed, size, offset : int
        Bytes; `offset` is that of the local header, from the file's begin.
    """

    path: str
    flags: int
    method: int
    crc: int
    mode: int
    packed: int
    size: int
    offset: int


def mapped(file: BinaryIO) -> memoryview:
    """Content of a file as it lies in the page cache.

    Not closed by hand: a profiler (Dask's runs in every worker) may hold a frame
    with a slice of it for a moment longer, and closing would then fail. It goes
    with its last reference.
    """
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def forget_pages(buffer: memoryview) -> None:
    """Give back the memory of what has been read of a mapped file; it may be read again.

    The pages stay in the page cache, but no longer count as this process's own:
    Dask would restart a worker that has read its way through an archive of 5 GB.
    """
    if isinstance(buffer.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        buffer.obj.madvise(mmap.MADV_DONTNEED)


def find_directory(buffer: Buffer) -> Directory:
    """Locate the central directory from the end of the file.

    Raises
    ------
    BrokenDirectoryError
    """
    tail_start = max(0, len(buffer) - _END.size - _LONGEST_COMMENT)
    tail = bytes(buffer[tail_start:])
    found = len(tail)
    while (found := tail.rfind(b"PK\x05\x06", 0, found)) >= 0:
        position = tail_start + found
        if len(tail) - found < _END.size:
            continue
        fields = _END.unpack_from(tail, found)
        if position + _END.size + fields[7] <= len(buffer):
            return _directory_before(buffer, position, size=fields[5], offset=fields[6])
    raise BrokenDirectoryError("it has no end-of-directory record")


def iter_positions(buffer: Buffer, directory: Directory) -> Iterator[tuple[int, bytes, int, bytes]]:
    """Position, raw path, flags and extra fields of every entry.

    Raises
    ------
    BrokenDirectoryError
        At the first entry that makes no sense.
    """
    position, stop = directory.start, directory.stop
    unpack, fixed = _CENTRAL.unpack_from, _CENTRAL.size
    while position < stop:
        if position + fixed > stop:
            raise BrokenDirectoryError("its directory breaks off")
        fields = unpack(buffer, position)
        if fields[0] != b"PK\x01\x02":
            raise BrokenDirectoryError("its directory holds something else")
        path_end = position + fixed + fields[10]
        extra_end = path_end + fields[11]
        end = extra_end + fields[12]
        if end > stop:
            raise BrokenDirectoryError("its directory breaks off")
        yield (
            position,
            bytes(buffer[position + fixed : path_end]),
            fields[3],
            bytes(buffer[path_end:extra_end]) if fields[11] else b"",
        )
        position = end


def read_entry(buffer: Buffer, position: int, shift: int, path: str) -> Entry:
    """The entry at a position that `iter_positions` gave.

    Parameters
    ----------
    buffer : Buffer
        The central directory.
    position : int
        Where the entry begins in it.
    shift : int
        Bytes that stand before the archive, to be added to every offset.
    path : str
        Its name, decoded.
    """
    (
        _, made_by, _, flags, method, _, _, crc, packed, size,
        n_path, n_extra, _, _, _, attributes, offset,
    ) = _CENTRAL.unpack_from(buffer, position)  # fmt: skip
    if _UNKNOWN_32 in (packed, size, offset):
        start = position + _CENTRAL.size + n_path
        extra = bytes(buffer[start : start + n_extra])
        size, packed, offset = _zip64_fields(extra, size, packed, offset)
    is_unix = made_by >> 8 == 3
    mode = attributes >> 16 if is_unix else 0
    return Entry(path, flags, method, crc, mode, packed, size, offset + shift)


def decode_path(raw: bytes, flags: int, extra: bytes) -> str:
    """A path's bytes as text.

    In order: the Unicode path of Info-ZIP, UTF-8 where the flag says so or the
    bytes are (many tools write it without the flag), else code page 437.
    """
    if raw.isascii():
        return raw.decode("ascii")
    if extra and not flags & _UTF8:
        for kind, body in iter_extra(extra):
            if kind == _EXTRA_UNICODE_PATH and len(body) > 5 and body[0] == 1:
                return decoded(body[5:], "cp437")
    return decoded(raw, "cp437")


def iter_extra(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each extra field; stops at one that breaks off."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if position + length > len(extra):
            return
        yield kind, extra[position : position + length]
        position += length


def iter_zip64(extra: bytes) -> Iterator[Iterator[int]]:
    """The 64-bit values of a header's zip64 field, where it has one."""
    for kind, body in iter_extra(extra):
        if kind == _EXTRA_ZIP64:
            values = struct.unpack_from(f"<{len(body) // 8}Q", body)
            yield (min(value, _LARGEST_SIZE) for value in values)
            return


def _zip64_fields(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Real values of those fields that 32 bits do not hold; in the order of the format."""
    for values in iter_zip64(extra):
        size = next(values, size) if size == _UNKNOWN_32 else size
        packed = next(values, packed) if packed == _UNKNOWN_32 else packed
        offset = next(values, offset) if offset == _UNKNOWN_32 else offset
    return size, packed, offset


def _directory_before(buffer: Buffer, end: int, *, size: int, offset: int) -> Directory:
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and bytes(buffer[locator : locator + 4]) == b"PK\x06\x07":
        _, _, offset_64, _ = _END_64_LOCATOR.unpack_from(buffer, locator)
        # Right before the locator unless it has a part of variable length.
        for end_64 in (locator - _END_64.size, offset_64):
            if 0 <= end_64 <= locator - _END_64.size:
                fields = _END_64.unpack_from(buffer, end_64)
                if fields[0] == b"PK\x06\x06":
                    size, offset, end = fields[8], fields[9], end_64
                    break
    start = end - size
    if start < 0 or offset > start:
        raise BrokenDirectoryError("its directory lies outside of it")
    return Directory(start, end, start - offset)
