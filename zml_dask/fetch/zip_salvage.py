"""What can be read of a zip file without its directory: one that was cut off, mostly."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from isal import isal_zlib

from zml_dask.fetch.inflate import InflateError, crc32
from zml_dask.fetch.limits import Meter
from zml_dask.fetch.member import Member, MemberStatus, is_version_control
from zml_dask.fetch.zip_directory import Buffer, Entry, decode_path, iter_zip64
from zml_dask.fetch.zip_members import ENCRYPTED, unpack_member
from zml_dask.text_safety import escape_path

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_DESCRIPTOR_FOLLOWS: Final = 0x8
_DEFLATE: Final = 8
_UNKNOWN_32: Final = 0xFFFF_FFFF
_PIECE: Final = 1024 * 1024
_DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"


def salvaged_members(buffer: Buffer, meter: Meter) -> Iterator[Member]:
    """Members by their local headers, one after the other, in the archive's order.

    Parameters
    ----------
    buffer : memoryview
        The file, from its first local header on.
    meter : Meter
    """
    position, seen = 0, set[int]()
    while True:
        meter.check_time()
        found = _entry_at(buffer, position)
        if found is None:
            break
        entry, start = found
        over = meter.add_member(len(entry.path))
        if over is not None:
            yield _row(entry, "refused", over)
            return
        end: int | None = start + entry.packed
        if entry.flags & _DESCRIPTOR_FOLLOWS and not entry.packed:
            entry, end, over = _measured(buffer, start, entry, meter)
            if over is not None:
                yield _row(entry, "refused", f"{over}; neither it nor what follows is read")
                return
        if not entry.path.endswith("/") and not is_version_control(entry.path):
            key = hash(entry.path)
            yield (
                _row(entry, "duplicate", "an earlier member has the same path")
                if key in seen
                else _member(buffer, start, entry, end, meter)
            )
            seen.add(key)
        if end is None or end > len(buffer):
            break
        position = _after_descriptor(buffer, end, entry)
    yield Member(
        meter.name, None, None, "damaged", "it has no directory: what comes before its end is read"
    )


def _member(buffer: Buffer, start: int, entry: Entry, end: int | None, meter: Meter) -> Member:
    if entry.flags & ENCRYPTED:
        return _row(entry, "encrypted", "encrypted")
    if end is None:
        return _row(entry, "damaged", "the archive ends within it")
    if entry.size > meter.limits.max_file_bytes:
        return _row(entry, "too_large", f"over the limit of {meter.limits.max_file_bytes:,} bytes")
    return unpack_member(buffer[start:end], entry, meter)


def _entry_at(buffer: Buffer, position: int) -> tuple[Entry, int] | None:
    """The local header at a position, and where its body begins."""
    if position + _LOCAL.size > len(buffer):
        return None
    (
        signature, _, flags, method, _, _, crc, packed, size, n_path, n_extra,
    ) = _LOCAL.unpack_from(buffer, position)  # fmt: skip
    if signature != b"PK\x03\x04":
        return None
    path_end = position + _LOCAL.size + n_path
    if path_end > len(buffer):
        return None
    raw = bytes(buffer[position + _LOCAL.size : path_end])
    extra = bytes(buffer[path_end : path_end + n_extra])
    if _UNKNOWN_32 in (packed, size):
        for values in iter_zip64(extra):
            size, packed = next(values, size), next(values, packed)
    path = decode_path(raw, flags, extra)
    return Entry(path, flags, method, crc, 0, packed, size, position), path_end + n_extra


def _measured(
    buffer: Buffer, start: int, entry: Entry, meter: Meter
) -> tuple[Entry, int | None, str | None]:
    """A member whose header leaves its lengths to what follows it: inflated to find its end.

    Returns
    -------
    entry : Entry
    end : int or None
        Where its body ends; None where that cannot be told.
    over : str or None
        The limit that this has met.
    """
    if entry.method != _DEFLATE or entry.flags & ENCRYPTED:
        return entry, None, None
    decompressor = isal_zlib.decompressobj(wbits=-15)
    position, size, crc = start, 0, 0
    pending: bytes | Buffer = b""
    while not decompressor.eof:
        if not pending:
            pending = buffer[position : position + _PIECE]
            position += len(pending)
        if not pending:
            return entry, None, None
        try:
            data = decompressor.decompress(pending, _PIECE)
        except InflateError:
            return entry, None, None
        size, crc = size + len(data), crc32(data, crc)
        pending = decompressor.unconsumed_tail
        meter.check_time()
        over = meter.add_unpacked(len(data))
        if over is not None:
            return entry, None, over
    end = position - len(decompressor.unused_data)
    measured = Entry(entry.path, entry.flags, entry.method, crc, 0, end - start, size, entry.offset)
    return measured, end, None


def _after_descriptor(buffer: Buffer, end: int, entry: Entry) -> int:
    """Where the next local header should be."""
    if not entry.flags & _DESCRIPTOR_FOLLOWS:
        return end
    # 12, 16, 20 or 24 bytes: with or without a signature, lengths of 32 or 64 bits.
    for length in (16, 12, 24, 20):
        if bytes(buffer[end + length : end + length + 2]) == b"PK":
            return end + length
    return end


def _row(entry: Entry, status: MemberStatus, reason: str) -> Member:
    path = escape_path(entry.path[:4096])[0]
    return Member(path, entry.size, None, status, reason)
