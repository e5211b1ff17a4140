"""The members of a zip file, in path order, inflated straight from a memory map.

Deflate is undone by `isal`, which is about twice as fast as zlib; `zipfile`
itself spends more time around a file than on its content.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from zml_dask.fetch.inflate import InflateError, crc32, inflate, memory_error
from zml_dask.fetch.limits import Meter
from zml_dask.fetch.member import Member, MemberStatus, is_version_control
from zml_dask.fetch.zip_directory import (
    BrokenDirectoryError,
    Buffer,
    Directory,
    Entry,
    decode_path,
    iter_positions,
    read_entry,
)
from zml_dask.text_safety import escape_path

_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_LOCAL: Final = 30
_LENGTHS: Final = struct.Struct("<2H")
ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_LONGEST_LINK: Final = 4096
# No compression makes more of a file than this; what does hides something.
_PACKED_MARGIN: Final = 65_536
_CHECK_TIME_EVERY: Final = 1024

# What the decompressors raise; `struct` where LZMA's own header breaks off.
_BROKEN: Final = (
    InflateError,
    OSError,
    EOFError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
    zstandard.ZstdError,
)

Refusal = tuple[MemberStatus, str]


def zip_members(buffer: Buffer, directory: Directory, meter: Meter) -> Iterator[Member]:
    """Members of a zip file, sorted by path.

    Parameters
    ----------
    buffer : memoryview
        The whole file.
    directory : Directory
    meter : Meter
        Shared by everything that is read of the archive.
    """
    found, stopped = _index(buffer, directory, meter)
    last: str | None = None
    for number, (path, position) in enumerate(found):
        if number % _CHECK_TIME_EVERY == 0:
            meter.check_time()
        entry = read_entry(buffer, position, directory.shift, path)
        member = _no_file(buffer, entry) if entry.mode else None
        if member is None and entry.mode and not _is_regular(entry.mode):
            continue
        if path == last:
            member = _refused(entry, ("duplicate", "an earlier member has the same path"))
        last = path
        yield read_member(buffer, entry, meter) if member is None else member
    if stopped is not None:
        yield stopped


def read_member(buffer: Buffer, entry: Entry, meter: Meter) -> Member:
    """One regular file, read within the limits."""
    refusal = _refusal(entry, meter)
    if refusal is not None:
        return _refused(entry, refusal)
    start = entry.offset
    header = bytes(buffer[start : start + _LOCAL])
    if len(header) < _LOCAL or not header.startswith(_LOCAL_SIGNATURE):
        return _refused(entry, ("damaged", "its content lies outside of the archive"))
    n_path, n_extra = _LENGTHS.unpack_from(header, 26)
    start += _LOCAL + n_path + n_extra
    return unpack_member(buffer[start : start + entry.packed], entry, meter)


def unpack_member(body: Buffer, entry: Entry, meter: Meter) -> Member:
    """One regular file from its packed body; damaged where it is not what its header says."""
    if len(body) < entry.packed:
        return _refused(entry, ("damaged", "the archive ends within it"))
    unpack = _UNPACKERS.get(entry.method)
    if unpack is None:
        return _refused(entry, ("unsupported", f"compression method {entry.method}"))
    try:
        data = unpack(body, entry.size)
    except MemoryError:
        return _refused(entry, ("refused", "its decompression asks for too much memory"))
    except _BROKEN:
        return _refused(entry, ("damaged", "it does not decompress"))
    if len(data) != entry.size:
        more = "more" if len(data) > entry.size else "less"
        return _refused(entry, ("damaged", f"it unpacks to {more} than its header says"))
    if crc32(data) != entry.crc:
        return _refused(entry, ("damaged", "its checksum does not fit"))
    over = meter.add_unpacked(len(data))
    if over is not None:
        return _refused(entry, ("refused", over))
    path, note = escape_path(entry.path)
    return Member(path, entry.size, data, "ok", note)


def _index(
    buffer: Buffer, directory: Directory, meter: Meter
) -> tuple[list[tuple[str, int]], Member | None]:
    """Path and position of every regular file, sorted; and a row where counting had to stop."""
    found: list[tuple[str, int]] = []
    stopped: Member | None = None
    positions = iter_positions(buffer, directory)
    try:
        for position, raw, flags, extra in positions:
            over = meter.add_member(len(raw))
            if over is None and raw.endswith(b"/"):
                continue
            path = decode_path(raw, flags, extra)
            if over is not None:
                stopped = Member(
                    escape_path(path[: meter.limits.max_path_bytes])[0],
                    None,
                    None,
                    "refused",
                    f"{over}; neither it nor what follows in the archive is read",
                )
                break
            if not is_version_control(path):
                found.append((path, position))
    except BrokenDirectoryError as error:
        stopped = Member(meter.name, None, None, "damaged", f"{error}; what follows is not listed")
    found.sort()
    return found, stopped


def _refusal(entry: Entry, meter: Meter) -> Refusal | None:
    """Why a file is not read, as far as its header tells."""
    limits = meter.limits
    if entry.flags & ENCRYPTED:
        return "encrypted", "encrypted"
    if entry.size > limits.max_file_bytes:
        return "too_large", f"over the limit of {limits.max_file_bytes:,} bytes"
    if len(entry.path) > limits.max_path_bytes:
        return "refused", f"its path is over the limit of {limits.max_path_bytes:,} bytes"
    if entry.packed > 2 * entry.size + _PACKED_MARGIN:
        return "refused", "its packed form is far larger than its content"
    over = meter.add_unpacked(0)
    return None if over is None else ("refused", over)


def _refused(entry: Entry, refusal: Refusal) -> Member:
    status, reason = refusal
    return Member(escape_path(entry.path[:4096])[0], entry.size, None, status, reason)


def _is_regular(mode: int) -> bool:
    return stat.S_IFMT(mode) in {0, stat.S_IFREG}


def _no_file(buffer: Buffer, entry: Entry) -> Member | None:
    """The row of what is no regular file and worth one: a device, a link that leads out."""
    if _is_regular(entry.mode) or stat.S_ISDIR(entry.mode):
        return None
    if not stat.S_ISLNK(entry.mode):
        return _refused(entry, ("refused", "a device, pipe or socket"))
    start = entry.offset
    header = bytes(buffer[start : start + _LOCAL])
    if len(header) < _LOCAL or entry.size > _LONGEST_LINK or entry.method not in {0, 8}:
        return _refused(entry, ("refused", "a symbolic link that cannot be read"))
    n_path, n_extra = _LENGTHS.unpack_from(header, 26)
    start += _LOCAL + n_path + n_extra
    try:
        target = _UNPACKERS[entry.method](buffer[start : start + entry.packed], entry.size)
    except _BROKEN:
        return _refused(entry, ("refused", "a symbolic link that cannot be read"))
    return link_member(entry.path, target.decode("utf-8", "replace"))


def link_member(path: str, target: str) -> Member | None:
    """A row for a symbolic link that leads out of the archive; None for any other.

    Links are never followed; one within the archive names a file that is listed
    anyway.
    """
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in {"", "."}
        if depth < 0:
            break
    if depth >= 0 and not target.startswith("/"):
        return None
    reason = (
        f"a symbolic link out of the archive, to {escape_path(target[:200])[0]!r}: not followed"
    )
    return Member(escape_path(path)[0], None, None, "refused", reason)


def _stored(body: Buffer, size: int) -> bytes:
    return bytes(body[: size + 1])


def _bunzip2(body: Buffer, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(body, size + 1)


def _unxz(body: Buffer, size: int) -> bytes:
    try:
        return lzma.LZMADecompressor(memlimit=128 * 1024 * 1024).decompress(body, size + 1)
    except lzma.LZMAError as error:
        raise memory_error(error) from error


def _unzstd(body: Buffer, size: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
    with decompressor.stream_reader(body) as reader:
        return reader.read(size + 1)


def _unlzma(body: Buffer, size: int) -> bytes:
    """A raw LZMA stream after the four bytes and the properties that zip puts before it."""
    _, n_properties, packed_properties, dictionary = struct.unpack_from("<2sHBL", body, 0)
    if n_properties != 5:
        raise lzma.LZMAError("unknown properties")
    rest, lc = divmod(packed_properties, 9)
    pb, lp = divmod(rest, 5)
    properties = {
        "id": lzma.FILTER_LZMA1,
        "lc": lc,
        "lp": lp,
        "pb": pb,
        # No match reaches back further than the file: a header that asks for
        # gigabytes gets what the file can use.
        "dict_size": max(4096, min(dictionary, size + 1)),
    }
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[properties])
    return decompressor.decompress(body[9:], size + 1)


_UNPACKERS: Final[dict[int, Callable[[Buffer, int], bytes]]] = {
    0: _stored,
    8: inflate,
    12: _bunzip2,
    14: _unlzma,
    93: _unzstd,
    95: _unxz,
}
