"""The members of a tar stream, in the archive's order, whatever its headers claim.

`tarfile` reads a pax or GNU header of any stated size into memory, and gives up
because of an invalid time or owner. So the blocks are parsed here, and only the
fields of a header that reading needs.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from zml_dask.encodings import decode_name
from zml_dask.fetch.member import (
    BrokenStreamError,
    Member,
    MemberStatus,
    Meter,
    OverLimitError,
    TrailingBytesError,
    hard_link_member,
    is_version_control,
    link_member,
    unread,
)
from zml_dask.fetch.streams import Layer, is_nested_archive, is_tar_header, spool
from zml_dask.text_safety import escape_path

_BLOCK: Final = 512
_EMPTY_BLOCK: Final = bytes(_BLOCK)
_LARGEST_HEADER: Final = 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
# A header can state a size of up to twelve bytes, or of any number of digits.
_LARGEST_SIZE: Final = 2**62
_MAGIC: Final = b"ustar"
_POSIX_MAGIC: Final = b"ustar\0"

_DEVICES: Final = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
# Contents of a folder and names in old GNU tars; access control and attributes of Solaris.
_ABOUT_OTHERS: Final = (b"D", b"N", b"A", b"E")
_GNU_CONTINUED: Final = b"M"
_GNU_LABEL: Final = b"V"
_WITHOUT_CONTENT: Final = (
    *_DEVICES, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, _GNU_LABEL,
)  # fmt: skip
_EXTENDED: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_GNU_LONG: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_NO_END_MARK: Final = "it ends before its end mark"


class _BrokenHeaderError(Exception):
    """A header block is invalid; reading resumes at the next valid one."""


class _CutOffError(Exception):
    """The stream ends before its end mark."""


@dataclass(frozen=True, slots=True)
class _Header:
    """One header block: name and link as raw bytes."""

    name: bytes
    link: bytes
    kind: bytes
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of an archive, whose content follows."""

    path: str
    link: str
    kind: bytes
    size: int  # bytes of content
    problem: str | None  # why it is no file
    sparse: bytes  # the headers of a sparse file, whose content has holes; else empty


def tar_members(layer: Layer, meter: Meter, scratch: Path) -> Iterator[Member]:
    """Yield the members of a tar stream, and of others that follow it.

    If it is damaged, what can be read before and after is read, and a row under the archive's own
    name says so. `scratch` is for members that are themselves archives.
    """
    # Hashes, since a million paths of 4 KiB would be gigabytes.
    read, listed = set[int](), set[int]()
    odd: list[bytes] = []
    entry: _Entry | None = None
    is_damaged = has_ended = False
    try:
        while True:
            entry = None
            try:
                entry = _read_entry(layer, meter, odd)
            except _BrokenHeaderError as error:
                if not is_damaged:  # one row: a hostile archive has a million of them
                    reason = f"{error}; reading continues at the next valid one"
                    yield unread(meter.name, None, "damaged", reason)
                is_damaged = True
                meter.check_time()
                meter.add_member()
                if not _find_header(layer):
                    return
                continue
            has_ended = entry is None
            if entry is None:
                follows = _after_end_mark(layer)
                if follows == "other":
                    if not is_damaged:
                        reason = "other bytes follow its end mark; they are not read"
                        yield unread(meter.name, None, "damaged", reason)
                    is_damaged = True
                    meter.check_time()
                if follows == "nothing" or (follows == "other" and not _find_header(layer)):
                    return
                continue
            meter.add_member(len(entry.path))
            meter.check_time()
            member = _member(entry, layer, meter, read, listed, scratch)
            if member is not None:
                yield member
            padding = -entry.size % _BLOCK if entry.kind not in _WITHOUT_CONTENT else 0
            entry = None
            _skip(layer, padding)
    except OverLimitError as error:
        yield _cut(entry, meter, "refused", f"{error}; neither it nor what follows is read")
    except _CutOffError:
        reason = "the archive ends within it" if entry else _NO_END_MARK
        yield _cut(entry, meter, "damaged", reason)
    except TrailingBytesError as error:
        yield _cut(entry, meter, "damaged", str(error) if entry is None else _NO_END_MARK)
    except BrokenStreamError as error:
        reason = f"the archive does not decompress from here on ({error})"
        if has_ended:
            reason = f"all of its members were read; what follows does not decompress ({error})"
        yield _cut(entry, meter, "damaged", reason)


def _cut(entry: _Entry | None, meter: Meter, status: MemberStatus, reason: str) -> Member:
    """Return the row of the entry in which reading ended, or of the archive."""
    if entry is None:
        return unread(meter.name, None, status, reason)
    return unread(entry.path, entry.size, status, reason)


def _member(
    entry: _Entry, layer: Layer, meter: Meter, read: set[int], listed: set[int], scratch: Path
) -> Member | None:
    """Read one entry's content, or skip it; None for an entry that needs no row."""
    is_passed_over = is_version_control(entry.path)
    if entry.kind in _WITHOUT_CONTENT:
        return None if is_passed_over else _special(entry, listed)
    if is_passed_over or entry.kind in _ABOUT_OTHERS:
        _skip(layer, entry.size)
        return None
    # Any other kind is a file, says POSIX.
    refusal: tuple[MemberStatus, str] | None
    if entry.problem is not None:
        refusal = "unsupported", entry.problem
    else:
        refusal = meter.limits.refusal(entry.path, entry.size)
    listed.add(hash(_plain(entry.path)))
    if refusal is None or refusal[0] == "too_large":
        if hash(entry.path) in read:
            refusal = "duplicate", "an earlier member has the same path"
        read.add(hash(entry.path))
        if refusal is not None and refusal[0] == "too_large":
            return _large_member(entry, refusal, layer, meter, scratch)
    if refusal is not None:
        _skip(layer, entry.size)
        return unread(entry.path, entry.size, *refusal)
    data = _read_exactly(layer, entry.size)
    if entry.sparse:
        return _sparse_member(entry, data, meter)
    path, note = escape_path(entry.path)
    return Member(path, entry.size, data, "ok", note)


def _sparse_member(entry: _Entry, data: bytes, meter: Meter) -> Member:
    """Fill the holes of a sparse file by the standard library, which knows all forms of them."""
    blocks = io.BytesIO(entry.sparse + data + bytes(-len(data) % _BLOCK + 2 * _BLOCK))
    try:
        with tarfile.open(fileobj=blocks, mode="r:") as archive:
            info = archive.next()
            whole = archive.extractfile(info) if info is not None else None
            if info is None or whole is None or not info.issparse():
                raise tarfile.ReadError("no file")
            if info.size > meter.limits.max_file_bytes:
                return unread(entry.path, info.size, *meter.limits.too_large)
            data = whole.read()
            if len(data) < info.size or (entry.size and not data):
                raise tarfile.ReadError("too short")
        meter.add_unpacked(len(data))
    except OverLimitError as error:
        return unread(entry.path, len(data), "refused", str(error))
    except (tarfile.TarError, ValueError, IndexError, OverflowError):
        return unread(entry.path, entry.size, "damaged", "the map of a sparse file is broken")
    path, note = escape_path(entry.path)
    return Member(path, len(data), data, "ok", note)


def _large_member(
    entry: _Entry, refusal: tuple[MemberStatus, str], layer: Layer, meter: Meter, scratch: Path
) -> Member:
    """Return the row of a file over the limit; with its content, if that is an archive."""
    content = _Content(layer, entry.size)
    head = content.read(_BLOCK)
    if not is_nested_archive(entry.path, head, is_large=True):
        _skip(layer, content.left)
        return unread(entry.path, entry.size, *refusal)
    layer.unread(head)
    content.left += len(head)
    file = spool(content, scratch, meter)
    if content.left:
        file.close()
        raise _CutOffError
    return unread(entry.path, entry.size, *refusal, file)


class _Content:
    """The next `size` bytes of a stream, as a stream."""

    def __init__(self, layer: Layer, size: int) -> None:
        self._layer = layer
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        data = self._layer.read(min(size, self.left)) if self.left else b""
        self.left -= len(data)
        return data


def _special(entry: _Entry, listed: set[int]) -> Member | None:
    """Return the row of an entry that is not a regular file; None if it needs none."""
    if entry.kind in _DEVICES:
        return unread(entry.path, entry.size, "refused", "a device or pipe")
    if entry.kind == tarfile.LNKTYPE:
        is_listed = hash(_plain(entry.link)) in listed
        listed.add(hash(_plain(entry.path)))
        return hard_link_member(entry.path, entry.link, is_listed=is_listed)
    if entry.kind == tarfile.SYMTYPE:
        return link_member(entry.path, entry.link)
    return None


def _plain(path: str) -> str:
    return path.removeprefix("./")


def _read_entry(layer: Layer, meter: Meter, odd: list[bytes]) -> _Entry | None:
    """Read the next entry of a stream; None at its end mark.

    After a `_BrokenHeaderError`, the next call looks for the next header. Raises also as
    `_read_exactly`.
    """
    pax: dict[str, str] = {}
    long_path = long_link = problem = None
    headers = b""
    while True:
        block = _read_exactly(layer, _BLOCK)
        if block == _EMPTY_BLOCK:
            return None
        header = _parse(block)
        if header.kind not in _EXTENDED and header.kind not in _GNU_LONG:
            break
        body = _header_body(layer, header.size, meter)
        if body is None:
            problem = "its extended header is over 1 MiB"
        elif header.kind in _GNU_LONG:
            text = decode_name(body.partition(b"\x00")[0], "latin-1", odd)
            if header.kind == tarfile.GNUTYPE_LONGNAME:
                long_path = text
            else:
                long_link = text
        elif header.kind != tarfile.XGLTYPE:
            pax.update(_pax_records(body, odd))
            if b"GNU.sparse." in body:
                headers = block + body + bytes(-len(body) % _BLOCK)
    headers = headers and headers + block
    if header.kind == tarfile.GNUTYPE_SPARSE:
        headers = block
        # Blocks that continue an old GNU sparse file's map.
        more = bool(block[482])
        while more:
            block = _read_exactly(layer, _BLOCK)
            headers, more = headers + block, bool(block[504])
            if len(headers) > _LARGEST_HEADER:
                raise _BrokenHeaderError("the map of a sparse file is over 1 MiB")
    elif header.kind == _GNU_CONTINUED:
        problem = "the continuation of a file that another volume begins"
    path = (
        pax.get("GNU.sparse.name")
        or pax.get("path")
        or long_path
        or decode_name(header.name, "latin-1", odd)
    )
    link = pax.get("linkpath") or long_link or decode_name(header.link, "latin-1", odd)
    kind = header.kind
    if path.endswith("/") and kind in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        kind = tarfile.DIRTYPE
    size = _pax_size(pax.get("size"), header.size)
    if kind == tarfile.LNKTYPE and size and _holds_content(layer):
        kind = tarfile.REGTYPE
    return _Entry(path, link, kind, size, problem, headers)


def _holds_content(layer: Layer) -> bool:
    """Whether a hard link of some size is followed by its content, as POSIX allows."""
    block = layer.read(_BLOCK)
    layer.unread(block)
    return bool(block.strip(b"\0")) and not is_tar_header(block)


def _parse(block: bytes) -> _Header:
    """Parse the fields of a header that reading needs; the others may hold anything."""
    if not is_tar_header(block):
        raise _BrokenHeaderError("a header is invalid (its checksum is wrong)")
    size = _number(block[124:136])
    kind = block[156:157]
    if size is None or not 0 <= size <= _LARGEST_SIZE:
        if kind not in _WITHOUT_CONTENT:
            raise _BrokenHeaderError("a header states an impossible size")
        size = 0
    name = block[0:100].partition(b"\0")[0]
    if block[257:263] == _POSIX_MAGIC and kind not in _GNU_LONG:
        # star keeps times in the last bytes of the field.
        end = 476 if block[508:512] == b"tar\0" else 500
        prefix = block[345:end].partition(b"\0")[0]
        if prefix:
            name = prefix + b"/" + name
    return _Header(name, block[157:257].partition(b"\0")[0], kind, size)


def _number(field: bytes) -> int | None:
    """Read a number in octal digits, or in base 256 with a mark; None if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _after_end_mark(layer: Layer) -> Literal["nothing", "header", "other"]:
    """Return what follows an empty block.

    Zeros are read, so that a checksum around them is checked. A header follows if the block was a
    single one, or if another archive follows.
    """
    while block := layer.read(_BLOCK):
        if block.strip(b"\0"):
            layer.unread(block)
            return "header" if is_tar_header(block) else "other"
    return "nothing"


def _find_header(layer: Layer) -> bool:
    """Skip blocks up to the next header of the modern kind; False if there is none."""
    while len(block := layer.read(_BLOCK)) == _BLOCK:
        if block[257:262] == _MAGIC and is_tar_header(block):
            layer.unread(block)
            return True
    return False


def _read_exactly(layer: Layer, size: int) -> bytes:
    """Read exactly so many bytes; raise `_CutOffError`, or the error that the layer has met."""
    data = layer.read(size)
    if len(data) < size:
        layer.check()
        raise _CutOffError
    return data


def _skip(layer: Layer, count: int) -> None:
    """Skip exactly so many bytes; raise as `_read_exactly`."""
    while count > 0:
        gone = len(layer.read(min(count, _READ_BYTES)))
        if not gone:
            raise _CutOffError
        count -= gone


def _header_body(layer: Layer, size: int, meter: Meter) -> bytes | None:
    """Read the content of an extended header; skip one that is too large and return None.

    Each counts as a member, so that a chain of them ends as well.
    """
    meter.add_member()
    if size > _LARGEST_HEADER:
        _skip(layer, size + -size % _BLOCK)
        return None
    body = _read_exactly(layer, size)
    _skip(layer, -size % _BLOCK)
    return body


def _pax_records(body: bytes, odd: list[bytes]) -> dict[str, str]:
    r"""Parse records ``LENGTH KEY=VALUE\n`` of a pax header, up to the first that is none."""
    records: dict[str, str] = {}
    position = 0
    while position < len(body):
        digits, space, _ = body[position : position + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        end = position + int(digits)
        key, equals, value = body[position + len(digits) + 1 : end].partition(b"=")
        if not equals or end > len(body) or not value.endswith(b"\n"):
            break
        records[key.decode("latin-1")] = decode_name(value[:-1], "latin-1", odd)
        position = end
    return records


def _pax_size(text: str | None, size: int) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        return size
    if len(text) > len(str(_LARGEST_SIZE)) or int(text) > _LARGEST_SIZE:
        raise _BrokenHeaderError("a header states an impossible size")
    return int(text)
