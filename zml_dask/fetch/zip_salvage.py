"""Reads the members of a zip file whose directory is missing, as after an interrupted copy."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isal import isal_zlib

from zml_dask.fetch.member import Member, Meter, OverLimitError, is_version_control, unread
from zml_dask.fetch.streams import InflateError, crc32
from zml_dask.fetch.zip import (
    DESCRIPTOR_SIGNATURE,
    ENCRYPTED,
    ENTRY_SIGNATURE,
    LOCAL_SIGNATURE,
    UNKNOWN_32,
    Buffer,
    Entry,
    decode_path,
    find_signatures,
    large_member,
    unpack_member,
    zip64_values,
)

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_DESCRIPTOR_FOLLOWS: Final = 0x8
_DEFLATE: Final = 8
_PIECE: Final = 1024 * 1024


def salvaged_members(
    buffer: Buffer, meter: Meter, scratch: Path, wrong: str | None, seen: set[int] | None = None
) -> Iterator[Member]:
    """Yield members by their local headers, in the archive's order.

    If no header follows a member, the next one is searched for. `wrong` is what is wrong with the
    directory, for the row about the archive, if it has one; paths with a hash in `seen` are listed
    by the directory and left out here. `scratch` is for members that are themselves archives.
    """
    listed = frozenset(seen or ())
    found = set[int]()
    position = _next_header(buffer, 0, meter)
    while position is not None:
        meter.check_time()
        header = _entry_at(buffer, position)
        if header is None:
            position = _next_header(buffer, position + 1, meter)
            continue
        entry, start = header
        end: int | None = start + entry.packed
        try:
            meter.add_member(len(entry.path))
            if entry.flags & _DESCRIPTOR_FOLLOWS and not entry.packed:
                entry, end = _measured(buffer, start, entry, meter)
        except OverLimitError as error:
            reason = f"{error}; neither it nor what follows is read"
            yield unread(entry.path, entry.size, "refused", reason)
            return
        key = hash(entry.path)
        if not (entry.path.endswith("/") or is_version_control(entry.path) or key in listed):
            if key in found:
                reason = "an earlier member has the same path"
                yield unread(entry.path, entry.size, "duplicate", reason)
            else:
                try:
                    yield _member(buffer, start, entry, end, meter, scratch)
                except OverLimitError as error:
                    yield unread(entry.path, entry.size, "refused", str(error))
            found.add(key)
        if end is None or end > len(buffer):
            position = _next_header(buffer, start, meter)
            continue
        position = _after_descriptor(buffer, end, entry)
        if bytes(buffer[position : position + 4]) != LOCAL_SIGNATURE:
            if bytes(buffer[position : position + 4]) == ENTRY_SIGNATURE:
                break
            position = _next_header(buffer, position, meter)
    if wrong is not None:
        reason = f"{wrong}; members that it does not list are read by their own headers"
        yield unread(meter.name, None, "damaged", reason)


def _next_header(buffer: Buffer, start: int, meter: Meter) -> int | None:
    return next(find_signatures(buffer, LOCAL_SIGNATURE, start, meter), None)


def _member(
    buffer: Buffer, start: int, entry: Entry, end: int | None, meter: Meter, scratch: Path
) -> Member:
    if entry.flags & ENCRYPTED:
        return unread(entry.path, entry.size, "encrypted", "encrypted")
    if end is None:
        return unread(entry.path, entry.size, "damaged", "its end cannot be found")
    refusal = meter.limits.refusal(entry.path, entry.size)
    if refusal is None:
        return unpack_member(buffer[start:end], entry, meter)
    if refusal[0] == "too_large" and end <= len(buffer):
        return large_member(buffer[start:end], entry, meter, scratch)
    return unread(entry.path, entry.size, *refusal)


def _entry_at(buffer: Buffer, position: int) -> tuple[Entry, int] | None:
    """Return the local header at a position, and where its body begins."""
    if position + _LOCAL.size > len(buffer):
        return None
    (
        _, _, flags, method, _, _, crc, packed, size, n_path, n_extra,
    ) = _LOCAL.unpack_from(buffer, position)  # fmt: skip
    path_end = position + _LOCAL.size + n_path
    if path_end > len(buffer):
        return None
    raw = bytes(buffer[position + _LOCAL.size : path_end])
    extra = bytes(buffer[path_end : path_end + n_extra])
    if UNKNOWN_32 in (packed, size):
        values = zip64_values(extra)
        size, packed = next(values, size), next(values, packed)
    path = decode_path(raw, flags, extra)
    return Entry(path, flags, method, crc, 0, packed, size, position), path_end + n_extra


def _measured(buffer: Buffer, start: int, entry: Entry, meter: Meter) -> tuple[Entry, int | None]:
    """Measure a member whose lengths follow its content.

    Returns the entry, and where its body ends (None if that is unknown); raises `OverLimitError`.
    """
    if entry.flags & ENCRYPTED:
        return entry, None
    if entry.method == _DEFLATE:
        return _inflated(buffer, start, entry, meter)
    for position in find_signatures(buffer, DESCRIPTOR_SIGNATURE, start, meter):
        fields = bytes(buffer[position + 4 : position + 16])
        if len(fields) == 12:
            crc, packed, size = struct.unpack("<3L", fields)
            if packed == position - start:
                return entry._replace(crc=crc, packed=packed, size=size), position
    return entry, None


def _inflated(buffer: Buffer, start: int, entry: Entry, meter: Meter) -> tuple[Entry, int | None]:
    """Do the same for a deflate stream, which has an end of its own."""
    decompressor = isal_zlib.decompressobj(wbits=-15)
    position, size, crc = start, 0, 0
    pending: bytes | Buffer = b""
    while not decompressor.eof:
        if not pending:
            pending = buffer[position : position + _PIECE]
            position += len(pending)
        if not pending:
            return entry, None
        try:
            data = decompressor.decompress(pending, _PIECE)
        except InflateError:
            return entry, None
        size, crc = size + len(data), crc32(data, crc)
        pending = decompressor.unconsumed_tail
        meter.check_time()
        meter.add_unpacked(len(data))
    end = position - len(decompressor.unused_data)
    return entry._replace(crc=crc, packed=end - start, size=size), end


def _after_descriptor(buffer: Buffer, end: int, entry: Entry) -> int:
    """Return where the next header should be."""
    if not entry.flags & _DESCRIPTOR_FOLLOWS:
        return end
    # 12, 16, 20 or 24 bytes: with or without a signature, lengths of 32 or 64 bits.
    for length in (16, 12, 24, 20):
        if bytes(buffer[end + length : end + length + 2]) == b"PK":
            return end + length
    return end
