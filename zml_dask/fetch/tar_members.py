"""The members of a tar stream, in the archive's order."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Final

from zml_dask.fetch.layers import BrokenStreamError, Layer, OverLimitError
from zml_dask.fetch.limits import Meter
from zml_dask.fetch.member import Member, MemberStatus, is_version_control
from zml_dask.fetch.tar_headers import (
    BrokenHeaderError,
    CutOffError,
    TarEntry,
    padding,
    read_entry,
    resume,
    skip,
)
from zml_dask.fetch.zip_members import link_member
from zml_dask.text_safety import escape_path

_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_DEVICES: Final = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_WITHOUT_CONTENT: Final = (*_DEVICES, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_CUT: Final = "it ends before its end mark"
# After the end mark comes padding; reading it proves the checksum of what is around.
_LONGEST_PADDING: Final = 1024 * 1024


def tar_members(layer: Layer, meter: Meter) -> Iterator[Member]:
    """Members of a tar stream.

    Where it is damaged, what can be read before and after is read, and a row
    under the archive's own name says so.

    Parameters
    ----------
    layer : Layer
    meter : Meter
    """
    seen: set[int] = set()
    entry: TarEntry | None = None
    damaged = False
    try:
        while True:
            entry = None
            try:
                entry = read_entry(layer, meter)
            except BrokenHeaderError as error:
                if not damaged:  # one row: a hostile archive has a million of them
                    reason = f"{error}; the next good one is looked for"
                    yield _archive_row(meter, "damaged", reason)
                damaged = True
                meter.check_time()
                over = meter.add_member()
                if over is not None:
                    yield _archive_row(meter, "refused", f"{over}; what follows is not read")
                    return
                if not resume(layer):
                    return
                continue
            if entry is None:
                _drain(layer)
                return
            over = meter.add_member(len(entry.path))
            if over is not None:
                yield _row(entry, "refused", f"{over}; neither it nor what follows is read")
                return
            meter.check_time()
            member = _member(entry, layer, meter, seen)
            if member is not None:
                yield member
            left_over = padding(entry.size) if entry.kind not in _WITHOUT_CONTENT else 0
            entry = None
            skip(layer, left_over)
    except OverLimitError as error:
        reason = f"{error}; neither it nor what follows is read"
        yield _row(entry, "refused", reason) if entry else _archive_row(meter, "refused", reason)
    except CutOffError:
        reason = "the archive ends within it"
        yield _row(entry, "damaged", reason) if entry else _archive_row(meter, "damaged", _CUT)
    except BrokenStreamError as error:
        reason = f"the archive does not decompress from here on ({error})"
        yield _row(entry, "damaged", reason) if entry else _archive_row(meter, "damaged", reason)


def _member(entry: TarEntry, layer: Layer, meter: Meter, seen: set[int]) -> Member | None:
    """Read one entry's content, or read over it; None for what needs no row."""
    if entry.kind in _WITHOUT_CONTENT:
        return _no_file(entry)
    refusal = _refusal(entry, meter)
    passed_over = is_version_control(entry.path)
    if refusal is None and not passed_over:
        # Hashes, since a million paths of 4 KiB would be gigabytes.
        if hash(entry.path) in seen:
            refusal = "duplicate", "an earlier member has the same path"
        seen.add(hash(entry.path))
    if passed_over or refusal is not None:
        skip(layer, entry.size)
        return None if passed_over or refusal is None else _row(entry, *refusal)
    data = layer.read(entry.size)
    if len(data) < entry.size:
        raise CutOffError
    path, note = escape_path(entry.path)
    return Member(path, entry.size, data, "ok", note)


def _refusal(entry: TarEntry, meter: Meter) -> tuple[MemberStatus, str] | None:
    limits = meter.limits
    if entry.problem is not None:
        return "unsupported", entry.problem
    if entry.kind not in _FILES:
        return "unsupported", f"an entry of type {entry.kind!r}"
    if len(entry.path) > limits.max_path_bytes:
        return "refused", f"its path is over the limit of {limits.max_path_bytes:,} bytes"
    if entry.size > limits.max_file_bytes:
        return "too_large", f"over the limit of {limits.max_file_bytes:,} bytes"
    return None


def _no_file(entry: TarEntry) -> Member | None:
    """The row of what is no regular file and worth one."""
    if is_version_control(entry.path):
        return None
    if entry.kind in _DEVICES:
        return _row(entry, "refused", "a device or pipe")
    if entry.kind == tarfile.LNKTYPE:
        target = escape_path(entry.link[:200])[0]
        return _row(entry, "refused", f"a hard link to {target!r}, where its content is listed")
    if entry.kind == tarfile.SYMTYPE:
        return link_member(entry.path, entry.link)
    return None


def _drain(layer: Layer) -> None:
    """Read the padding after the end mark, so that a checksum around it is checked."""
    left = _LONGEST_PADDING
    while left > 0 and (piece := layer.read(min(left, 65_536))):
        left -= len(piece)


def _row(entry: TarEntry, status: MemberStatus, reason: str) -> Member:
    return Member(escape_path(entry.path[:4096])[0], entry.size, None, status, reason)


def _archive_row(meter: Meter, status: MemberStatus, reason: str) -> Member:
    return Member(meter.name, None, None, status, reason)
