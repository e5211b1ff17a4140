"""The members of a zip file, in path order, inflated straight from a memory map.

The central directory is read here and not by `zipfile`, which makes an object of
half a kilobyte of every entry before the first can be counted: a directory that
claims a million members must not cost a gigabyte, nor an honest one thirty
microseconds per file. Deflate is undone by `isal`, about twice as fast as zlib.

The offsets in an archive are verified: some tools write them shifted, padded or
wrapped at 4 GiB.
"""

from __future__ import annotations

import mmap
import re
import stat
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from zml_dask.encodings import decode_names
from zml_dask.fetch.member import (
    BrokenStreamError,
    Member,
    MemberStatus,
    Meter,
    OverLimitError,
    decoded,
    is_version_control,
    link_member,
    unread,
)
from zml_dask.fetch.streams import ARCHIVE_SUFFIXES, Layer, crc32, is_nested_archive, spool
from zml_dask.fetch.zip_methods import (
    DECOMPRESSION_ERRORS,
    IMPLODED,
    SLOW,
    STREAMS,
    UNPACKERS,
    explode,
)
from zml_dask.text_safety import escape_path

Buffer = memoryview

LOCAL_SIGNATURE: Final = b"PK\x03\x04"
ENTRY_SIGNATURE: Final = b"PK\x01\x02"
DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"
ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
UNKNOWN_32: Final = 0xFFFF_FFFF

# Of the records that follow a member.
_SIGNATURES: Final = (
    LOCAL_SIGNATURE, ENTRY_SIGNATURE, DESCRIPTOR_SIGNATURE, b"PK\x06\x08", b"PK\x06\x06"
)  # fmt: skip
_END: Final = struct.Struct("<4s4H2LH")
_END_64_LOCATOR: Final = struct.Struct("<4sLQL")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
# Of an entry, what listing needs: signature, flags, and the lengths of what follows.
_LISTED: Final = struct.Struct("<4s4xH18x3H12x")
# Of a local header, what finding the body needs: signature, flags, lengths of path and extra.
_LOCAL: Final = struct.Struct("<4s2xH18x2H")
_LONGEST_COMMENT: Final = 65_535
_UNKNOWN_16: Final = 0xFFFF
_STANDARD_NAMES: Final = "cp437"
_UTF8: Final = 0x800
# The largest number that a table holds; a header that states more is wrong anyway.
_LARGEST_SIZE: Final = 2**63 - 1
_EXTRA_ZIP64: Final = 0x0001
_EXTRA_UNICODE_PATH: Final = 0x7075
_WINDOW: Final = 64 * 1024 * 1024
_4_GIB: Final = 2**32
# Systems whose tools write backslashes, and no Unix mode: FAT, HPFS, NTFS, VFAT.
_DOS_HOSTS: Final = frozenset({0, 6, 10, 14})
_DOS_FOLDER: Final = 0x10
_DOS_LINK: Final = 0x400
# Without any of these bits it is a regular file, to whichever system.
_ANY_SPECIAL: Final = 0x7000_0000 | _DOS_FOLDER | _DOS_LINK
_LONGEST_LINK: Final = 4096
# No compression enlarges a file by more than this; one that seems to hides something.
_PACKED_MARGIN: Final = 65_536
_CHECK_TIME_EVERY: Final = 1024
# Most members to search for, since their entries point elsewhere; an honest archive has few.
_MAX_INDEXED: Final = 100_000


class BrokenDirectoryError(Exception):
    """The central directory is not there or makes no sense."""


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """Where the central directory is, in bytes from the beginning of the file."""

    start: int
    stop: int  # where the end record begins; padding or a signature may precede it
    stated_stop: int  # where it ends as the archive says
    shift: int  # to be added to the offsets in it: the length of what precedes the zip file
    count: int  # number of entries; modulo 65,536 if the archive has no zip64 record
    n_volumes: int = 1  # of a split archive, of which this is the last


class Entry(NamedTuple):
    """One entry of the central directory; a tuple, since there may be a million of them."""

    path: str  # not yet escaped
    flags: int
    method: int
    crc: int
    mode: int  # of a Unix file; 0 if the archive records none
    packed: int
    size: int
    offset: int  # of the local header, from the beginning of the file


def mapped(file: BinaryIO) -> memoryview:
    """Map a file into memory.

    It is not closed by hand: a profiler (Dask's runs in every worker) may hold a frame with a
    slice of it for a moment longer, and closing would then fail. Its last reference closes it.
    """
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def forget_pages(buffer: Buffer) -> None:
    """Release the memory of a mapped file that has been read; it may be read again.

    The pages stay in the page cache, but no longer count as this process's own:
    Dask would restart a worker that has read its way through an archive of 5 GB.
    """
    if isinstance(buffer.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        buffer.obj.madvise(mmap.MADV_DONTNEED)


def find_directory(buffer: Buffer) -> ZipDirectory:
    """Locate the central directory from the end of the file, or raise `BrokenDirectoryError`."""
    window = _end_window(buffer)
    tail = bytes(buffer[window[0] : window[1]])
    found, reason = len(tail), "it has no end-of-directory record"
    empty: ZipDirectory | None = None
    while (found := tail.rfind(b"PK\x05\x06", 0, found)) >= 0:
        position = window[0] + found
        if position + _END.size > len(buffer):
            continue
        fields = _END.unpack_from(buffer, position)
        # A comment may be cut off, but not that of nothing.
        if position + _END.size + fields[7] > len(buffer) and fields[4] == 0:
            continue
        directory = _directory_before(buffer, position, fields)
        if directory is not None and directory.count:
            return directory
        # An empty one may be a part of a comment, or of an archive within the archive.
        empty = empty or directory
        reason = "its directory is not where its end record says"
    if empty is not None:
        return empty
    raise BrokenDirectoryError(reason)


def find_signatures(buffer: Buffer, signature: bytes, start: int, meter: Meter) -> Iterator[int]:
    """Yield positions of a signature, window by window: the file may be larger than memory."""
    pattern = re.compile(re.escape(signature))
    while start < len(buffer):
        meter.check_time()
        stop = min(len(buffer), start + _WINDOW)
        # A signature may lie across the border.
        for match in pattern.finditer(buffer[start : stop + len(signature) - 1]):
            yield start + match.start()
        start = stop
        forget_pages(buffer)


def iter_positions(
    buffer: Buffer, directory: ZipDirectory
) -> Iterator[tuple[int, bytes, int, bytes]]:
    """Yield position, raw path, flags and extra fields of every entry.

    Raises `BrokenDirectoryError` at the first entry that makes no sense.
    """
    position, stop, count = directory.start, directory.stop, 0
    unpack, fixed = _LISTED.unpack_from, _LISTED.size
    while position < stop:
        if position + fixed > stop:
            _check_end(buffer, directory, position, count)
            return
        signature, flags, n_path, n_extra, n_comment = unpack(buffer, position)
        if signature != ENTRY_SIGNATURE:
            _check_end(buffer, directory, position, count)
            return
        path_end = position + fixed + n_path
        end = path_end + n_extra + n_comment
        if end > stop:
            raise BrokenDirectoryError("its directory is incomplete")
        extra = bytes(buffer[path_end : path_end + n_extra]) if n_extra else b""
        yield position, bytes(buffer[position + fixed : path_end]), flags, extra
        position = end
        count += 1


def read_entry(buffer: Buffer, position: int, shift: int, path: str) -> Entry:
    """Read the entry at a position that `iter_positions` gave; `path` is its decoded name.

    `shift` is the number of bytes that precede the archive, to be added to every offset.
    """
    (
        _, made_by, _, flags, method, _, _, crc, packed, size,
        n_path, n_extra, _, _, _, attributes, offset,
    ) = _CENTRAL.unpack_from(buffer, position)  # fmt: skip
    if UNKNOWN_32 in (packed, size, offset):
        start = position + _CENTRAL.size + n_path
        extra = bytes(buffer[start : start + n_extra])
        values = zip64_values(extra)  # of those fields that 32 bits do not hold, in this order
        size = next(values, size) if size == UNKNOWN_32 else size
        packed = next(values, packed) if packed == UNKNOWN_32 else packed
        offset = next(values, offset) if offset == UNKNOWN_32 else offset
    mode = 0
    if attributes & _ANY_SPECIAL:
        mode = _mode_of(made_by >> 8, attributes, size)
    return Entry(path, flags, method, crc, mode, packed, size, offset + shift)


def decode_path(raw: bytes, flags: int, extra: bytes) -> str:
    """Decode a path.

    In order: the Unicode path of Info-ZIP; UTF-8 if the flag says so or the bytes are valid
    (many tools write it without the flag); code page 437. If the names of an archive show
    together that they are in another encoding, `_index` decodes them once more.
    """
    if raw.isascii():
        return raw.decode("ascii")
    if extra and not flags & _UTF8:
        # Its checksum is that of the path: a tool that renames may leave the old field.
        known = b"\x01" + crc32(raw).to_bytes(4, "little")
        for kind, body in iter_extra(extra):
            if kind == _EXTRA_UNICODE_PATH and len(body) > 5 and body.startswith(known):
                return decoded(body[5:], _STANDARD_NAMES)
    return decoded(raw, _STANDARD_NAMES)


def iter_extra(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of each extra field; stop at one that breaks off."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if position + length > len(extra):
            return
        yield kind, extra[position : position + length]
        position += length


def zip64_values(extra: bytes) -> Iterator[int]:
    """Yield the 64-bit values of a header's zip64 field, if it has one."""
    for kind, body in iter_extra(extra):
        if kind == _EXTRA_ZIP64:
            values = struct.unpack_from(f"<{len(body) // 8}Q", body)
            yield from (min(value, _LARGEST_SIZE) for value in values)
            return


def zip_members(
    buffer: Buffer,
    directory: ZipDirectory,
    meter: Meter,
    scratch: Path,
    salvage: Callable[[str | None, set[int]], Iterator[Member]],
    first: int | None = None,
) -> Iterator[Member]:
    """Yield the members of a zip file, sorted by path.

    `buffer` is the whole file. `scratch` is for members that are themselves archives. `salvage`
    reads what the directory does not list, or wrongly as empty, given what is wrong with it and the
    hashes of the paths that were read. `first` limits the number of entries that are read.
    """
    hidden = set[int]()
    found, stopped, broken = _index(buffer, directory, meter, first)
    bodies = _Bodies(buffer, directory, meter)
    last: str | None = None
    for number, (path, position) in enumerate(found):
        if number % _CHECK_TIME_EVERY == 0:
            meter.check_time()
        entry = read_entry(buffer, position, directory.shift, path)
        member = None
        if entry.mode and not stat.S_ISREG(entry.mode):
            if stat.S_ISDIR(entry.mode):
                continue
            member = _special(bodies, entry)
            if member is None:
                continue
        elif not entry.size and _is_parent(path, found):
            continue
        if path == last:
            member = _refused(entry, ("duplicate", "an earlier member has the same path"))
        last = path
        try:
            member = member or _read_member(bodies, entry, meter, scratch)
        except OverLimitError as error:
            member = _refused(entry, ("refused", str(error)))
        if bodies.is_hidden(entry, member):
            hidden.add(position)
        else:
            yield member
    if stopped is not None:
        yield stopped
    if directory.count and directory.shift % _4_GIB and bytes(buffer[:4]) == LOCAL_SIGNATURE:
        broken = broken or "another zip file comes before it"
    if broken is not None or hidden:
        # Names as salvage decodes them, one by one.
        listed = set[int]()
        with suppress(BrokenDirectoryError):
            for position, raw, flags, extra in iter_positions(buffer, directory):
                if position not in hidden:
                    listed.add(hash(decode_path(raw, flags, extra)))
        yield from salvage(broken, listed)


def _is_parent(path: str, found: list[tuple[str, int]]) -> bool:
    """Whether other paths are below one, which is then a folder that nothing marks as such."""
    at = bisect_left(found, (f"{path}/",))
    return at < len(found) and found[at][0].startswith(f"{path}/")


def unpack_member(body: Buffer, entry: Entry, meter: Meter) -> Member:
    """Unpack one regular file; it is damaged if it is not what its header says.

    Raises `OverLimitError`, as `large_member` does.
    """
    if len(body) < entry.packed:
        return _refused(entry, ("damaged", "the archive ends within it"))
    unpack = UNPACKERS.get(entry.method)
    if entry.method == IMPLODED:
        unpack = partial(explode, flags=entry.flags)
    if unpack is None:
        return _refused(
            entry, ("unsupported", f"compression method {entry.method} is not supported")
        )
    try:
        data = unpack(body, entry.size)
    except MemoryError:
        return _refused(entry, ("refused", "its decompression asks for too much memory"))
    except DECOMPRESSION_ERRORS:
        return _refused(entry, ("damaged", "it does not decompress"))
    if len(data) != entry.size:
        more = "more" if len(data) > entry.size else "less"
        return _refused(entry, ("damaged", f"it unpacks to {more} than its header says"))
    if crc32(data) != entry.crc:
        return _refused(entry, ("damaged", "its checksum is wrong"))
    meter.add_unpacked(len(data))
    path, note = escape_path(entry.path)
    return Member(path, entry.size, data, "ok", note)


def large_member(body: Buffer, entry: Entry, meter: Meter, scratch: Path) -> Member:
    """Return the row of a file over the limit; with its content, if that is an archive."""
    open_stream = STREAMS.get(entry.method)
    if open_stream is None or not entry.path.lower().endswith(ARCHIVE_SUFFIXES):
        return _refused(entry, meter.limits.too_large)
    layer = Layer(open_stream(Slices(body)), meter)
    if not is_nested_archive(entry.path, layer.peek(), is_large=True):
        return _refused(entry, meter.limits.too_large)
    try:
        file = spool(layer, scratch, meter)
    except BrokenStreamError:
        return _refused(entry, ("damaged", "it does not decompress"))
    return unread(entry.path, entry.size, *meter.limits.too_large, file)


class Slices:
    """A part of the map, as a stream."""

    def __init__(self, body: Buffer) -> None:
        self._body = body

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; nothing at the end."""
        data = bytes(self._body[:size] if size >= 0 else self._body)
        self._body = self._body[len(data) :]
        return data


class _Bodies:
    """Packed bodies of the members; those that are not where their entries say are searched for."""

    def __init__(self, buffer: Buffer, directory: ZipDirectory, meter: Meter) -> None:
        self.buffer = buffer
        self._directory = directory
        self._last_header = len(buffer) - _LOCAL.size
        self._meter = meter
        self._index: dict[int, list[int]] | None = None
        self._n_taken = 0

    @property
    def outside(self) -> str:
        """The reason for a body that is missing."""
        if self._directory.n_volumes > 1:
            return "its content lies in another volume of a split archive"
        return "its content lies outside of the archive"

    def at(self, entry: Entry, offset: int) -> Buffer | None:
        """Return the body behind a local header, cut where the file ends; None if there is none."""
        if not 0 <= offset <= self._last_header:
            return None
        signature, _, n_path, n_extra = _LOCAL.unpack_from(self.buffer, offset)
        if signature != LOCAL_SIGNATURE:
            return None
        start = offset + _LOCAL.size + n_path + n_extra
        return self.buffer[start : start + entry.packed]

    def is_hidden(self, entry: Entry, member: Member) -> bool:
        """Whether a member has content although its entry says that it is empty.

        Some tools that stream leave lengths of 0 in the directory. No content is what the next
        record follows, or a descriptor of zeros.
        """
        if (entry.size and entry.packed) or member.status not in {"ok", "damaged"}:
            return False
        rest = bytes(self.at(entry._replace(packed=12), entry.offset) or b"")
        has_content = len(rest) == 12 and any(rest) and not rest.startswith(_SIGNATURES)
        return has_content and (member.status == "damaged" or not entry.packed)

    def take(self, entry: Entry) -> Buffer | None:
        """Return the body where its entry says, and count it; `OverLimitError` to read no more."""
        body = self.at(entry, entry.offset)
        self._n_taken += 0 if body is None else len(body)
        if self._n_taken > len(self.buffer):
            raise OverLimitError("its members overlap one another")
        self._meter.add_unpacked(0)
        return body

    def elsewhere(self, entry: Entry) -> Iterator[Buffer]:
        """Yield bodies at other offsets: beyond 4 GiB, or behind a header of the same name."""
        stated = entry.offset
        for offset in range(stated + _4_GIB, len(self.buffer), _4_GIB):
            body = self.at(entry, offset)
            if body is not None:
                yield body
        if self._index is None:
            self._index = self._make_index()
        for offset in self._index.get(hash(entry.path), []):
            body = self.at(entry, offset) if offset != stated else None
            if body is not None:
                yield body

    def _make_index(self) -> dict[int, list[int]]:
        index: dict[int, list[int]] = {}
        stop = self._directory.start
        found = find_signatures(self.buffer[:stop], LOCAL_SIGNATURE, 0, self._meter)
        for number, offset in enumerate(found):
            if offset > self._last_header or number >= _MAX_INDEXED:
                break
            _, flags, n_path, n_extra = _LOCAL.unpack_from(self.buffer, offset)
            middle = offset + _LOCAL.size + n_path
            path = decode_path(
                bytes(self.buffer[offset + _LOCAL.size : middle]),
                flags,
                bytes(self.buffer[middle : middle + n_extra]),
            )
            places = index.setdefault(hash(path), [])
            if len(places) < 4:
                places.append(offset)
        return index


def _read_member(bodies: _Bodies, entry: Entry, meter: Meter, scratch: Path) -> Member:
    """Read one regular file within the limits."""
    if entry.flags & ENCRYPTED:
        return _refused(entry, ("encrypted", "encrypted"))
    refusal = meter.limits.refusal(entry.path, entry.size)
    if refusal is not None and refusal[0] == "too_large":
        if not entry.path.lower().endswith(ARCHIVE_SUFFIXES):
            return _refused(entry, refusal)
    elif refusal is not None:
        return _refused(entry, refusal)
    elif entry.packed > 2 * entry.size + _PACKED_MARGIN:
        return _refused(entry, ("refused", "its packed form is far larger than its content"))
    body = bodies.take(entry)
    if refusal is not None:
        return (
            _refused(entry, refusal) if body is None else large_member(body, entry, meter, scratch)
        )
    if body is None:
        member = _refused(entry, ("damaged", bodies.outside))
    else:
        member = unpack_member(body, entry, meter)
    if member.status == "damaged":
        for other in bodies.elsewhere(entry):
            again = unpack_member(other, entry, meter)
            if again.status == "ok":
                return again
    if entry.method in SLOW:
        meter.check_time()
    return member


def _index(
    buffer: Buffer, directory: ZipDirectory, meter: Meter, first: int | None
) -> tuple[list[tuple[str, int]], Member | None, str | None]:
    """Return path and position of every regular file, sorted by path.

    Also a row if counting had to stop, and what is wrong with the directory itself.
    """
    found: list[tuple[str, int]] = []
    others: dict[int, bytes] = {}
    stopped = broken = None
    has_slash = False
    positions = iter_positions(buffer, directory)
    try:
        for position, raw, flags, extra in positions:
            meter.add_member(len(raw))
            if raw.endswith(b"/"):
                has_slash = True
                continue
            is_ascii = raw.isascii()
            path = raw.decode("ascii") if is_ascii else decode_path(raw, flags, extra)
            if not is_version_control(path):
                if not is_ascii and path == raw.decode(_STANDARD_NAMES):
                    others[len(found)] = raw
                found.append((path, position))
            else:
                has_slash = True
            if len(found) == first:
                break
    except BrokenDirectoryError as error:
        broken = str(error)
    except OverLimitError as error:
        reason = f"{error}; neither it nor what follows in the archive is read"
        stopped = unread(decode_path(raw, flags, extra), None, "refused", reason)
    # Names that are neither UTF-8 nor said to be: all of them together show what they are.
    names = decode_names(others.values(), _STANDARD_NAMES)
    for number, path in zip(others, names, strict=True):
        found[number] = (path, found[number][1])
    if not has_slash and any("\\" in path for path, _ in found):
        found = _with_slashes(buffer, found)
    found.sort()
    return found, stopped, broken


def _with_slashes(buffer: Buffer, found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Turn backslashes into slashes if a DOS or Windows tool wrote them and no slash is there."""
    if any("/" in path for path, _ in found) or any(
        buffer[position + 5] not in _DOS_HOSTS for path, position in found if "\\" in path
    ):
        return found
    turned = ((path.replace("\\", "/"), position) for path, position in found)
    return [
        (path, position)
        for path, position in turned
        if not path.endswith("/") and not is_version_control(path)
    ]


def _refused(entry: Entry, refusal: tuple[MemberStatus, str]) -> Member:
    return unread(entry.path, entry.size, *refusal)


def _mode_of(host: int, attributes: int, size: int) -> int:
    """Return the mode of a Unix file; for DOS, that of a folder or a link if it is marked as one.

    Tools of all systems write links with their mode, only those of Unix other kinds of files
    (macOS has two numbers). What has content is a file, whatever a tool has put into its mode.
    """
    mode = attributes >> 16
    if attributes & _DOS_FOLDER and size == 0:
        return stat.S_IFDIR
    if stat.S_ISLNK(mode):
        return mode
    if host not in _DOS_HOSTS:
        return mode if stat.S_IFMT(mode) and size == 0 else 0
    return stat.S_IFLNK if attributes & _DOS_LINK and size <= _LONGEST_LINK else 0


def _special(bodies: _Bodies, entry: Entry) -> Member | None:
    """Return the row of a device, or of a link out of the archive; None for any other link."""
    if not stat.S_ISLNK(entry.mode):
        return _refused(entry, ("refused", "a device, pipe or socket"))
    body = bodies.at(entry, entry.offset)
    target = None
    if body is not None and entry.size <= _LONGEST_LINK and entry.method in {0, 8}:
        with suppress(*DECOMPRESSION_ERRORS):
            target = UNPACKERS[entry.method](body, entry.size)
    if target is None:
        return _refused(entry, ("refused", "a symbolic link that cannot be read"))
    return link_member(entry.path, target.decode("utf-8", "replace"))


def _end_window(buffer: Buffer) -> tuple[int, int]:
    """Return where an end record may begin: its comment, and zeros as padding, may follow it."""
    stop = len(buffer)
    while stop > 0:
        start = max(0, stop - _LONGEST_COMMENT)
        rest = bytes(buffer[start:stop]).rstrip(b"\0")
        if rest:
            last = start + len(rest)
            return max(0, last - _END.size - _LONGEST_COMMENT), min(len(buffer), last + _END.size)
        stop = start
    return 0, 0


def _directory_before(buffer: Buffer, end: int, fields: tuple[int, ...]) -> ZipDirectory | None:
    """Return the directory that an end record points to; None if it is not there."""
    _, disk, _, _, count, size, offset, _ = fields
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and bytes(buffer[locator : locator + 4]) == b"PK\x06\x07":
        _, _, offset_64, _ = _END_64_LOCATOR.unpack_from(buffer, locator)
        # Right before the locator unless it has a part of variable length.
        for end_64 in (locator - _END_64.size, offset_64):
            if 0 <= end_64 <= locator - _END_64.size:
                found = _END_64.unpack_from(buffer, end_64)
                if found[0] == b"PK\x06\x06":
                    count, size, offset, end = found[7], found[8], found[9], end_64
                    break
    if size == 0 and count == 0:
        return ZipDirectory(end, end, end, max(0, end - offset), 0)
    # The distance from the end is right where something stands before the archive,
    # the offset where something stands between directory and end.
    for start in (end - size, *range(offset, end, _4_GIB)):
        if 0 <= start <= end and bytes(buffer[start : start + 4]) == ENTRY_SIGNATURE:
            n_volumes = disk + 1 if disk != _UNKNOWN_16 else 1
            shift = _shift_of(buffer, start, offset)
            return ZipDirectory(start, end, start + size, shift, count, n_volumes)
    return None


def _shift_of(buffer: Buffer, start: int, offset: int) -> int:
    """Return what to add to offsets, so that the first entry's leads to a header."""
    first = read_entry(buffer, start, 0, "").offset if start + _CENTRAL.size <= len(buffer) else 0
    for shift in (start - offset, 0):
        at = first + shift
        if at >= 0 and bytes(buffer[at : at + 4]) == LOCAL_SIGNATURE:
            return shift
    return start - offset


def _check_end(buffer: Buffer, directory: ZipDirectory, position: int, count: int) -> None:
    """Raise `BrokenDirectoryError` if the directory may not end at `position`."""
    if position == directory.stated_stop:
        return
    is_all = count % (_UNKNOWN_16 + 1) == directory.count % (_UNKNOWN_16 + 1)
    rest = bytes(buffer[position : min(directory.stated_stop, position + _LONGEST_COMMENT)])
    if is_all and (not rest.strip(b"\0") or rest.startswith(b"PK\x05\x05")):
        return
    raise BrokenDirectoryError("its directory is incomplete or holds something else")
