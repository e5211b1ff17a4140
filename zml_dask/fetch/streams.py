"""Recognises files by their first bytes, and removes compressions, as streams within limits.

Names are ignored. Unpacked bytes are counted as they come, so that no more is unpacked
than the limits allow.
"""

from __future__ import annotations

import binascii
import bz2
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Final, Literal, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from zml_dask.fetch.foreign import PieceStream, unpacked
from zml_dask.fetch.member import BrokenStreamError, Meter, OverLimitError, TrailingBytesError
from zml_dask.net.transfer import local_disk

Kind = Literal[
    "zip", "tar", "gzip", "bzip2", "xz", "zstd", "lzma", "compress", "lzip", "lz4", "encoded",
    "foreign", "bundle", "unsupported", "bare",
]  # fmt: skip
"""``"foreign"`` is read by another program, ``"unsupported"`` is known and not read,
``"encoded"`` is an archive in the letters of uuencode or base64."""

CONTAINERS: Final[frozenset[Kind]] = frozenset({"zip", "tar", "foreign", "bundle"})
HEAD_BYTES: Final = 512
PAYLOAD_WITHIN: Final = 1024 * 1024
"""How many bytes may precede an archive in a file; self-extracting programs are smaller."""

PROGRAM_MARKS: Final = (b"MZ", b"\x7fELF", b"#!")
"""First bytes of programs and scripts, which an archive may follow."""

SUFFIXES: Final = (".gz", ".bz2", ".bz", ".xz", ".zst", ".lzma", ".lz", ".lz4", ".z")
"""What a compression appends to a name, lower case."""

ARCHIVE_SUFFIXES: Final = (
    ".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz", ".taz", ".7z", ".rar",
    ".cab", ".deb", ".rpm", ".gem", ".cpio", ".lha", ".lzh", ".xar", ".iso",
    *(f"{inner}{outer}" for inner in (".tar", ".cpio") for outer in SUFFIXES),
)  # fmt: skip
"""Ends of the names of archives within an archive that are opened, lower case."""

_NAMED_ARCHIVES: Final = (
    *ARCHIVE_SUFFIXES, *SUFFIXES, ".br", ".zz", ".gpg", ".pgp", ".dmg", ".arj", ".ace", ".sit",
    ".zoo", ".wim",
)  # fmt: skip
_LAST_SUFFIXES: Final = frozenset(
    suffix[suffix.rindex(".") :] for suffix in (*ARCHIVE_SUFFIXES, *SUFFIXES)
)

InflateError: Final = cast("type[Exception]", isal_zlib.error)
"""Raised for a broken stream; it does not derive from `zlib.error`, despite its name."""

_BLOCK: Final = 512
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")
_GZIP: Final = b"\x1f\x8b\x08"
_XZ: Final = b"\xfd7zXZ\x00"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_TAR_MAGIC: Final = (b"ustar\x0000", b"ustar  \0")
_LZ4: Final = (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18")
_COMPRESSED: Final[tuple[tuple[bytes, Kind], ...]] = (
    (_GZIP, "gzip"),
    (_XZ, "xz"),
    (_ZSTD, "zstd"),
    (b"\x1f\x9d", "compress"),
    (b"LZIP", "lzip"),
    *((magic, "lz4") for magic in _LZ4),
    (b"# v2 git bundle\n", "bundle"),
    (b"# v3 git bundle\n", "bundle"),
)
# Position, bytes, name; and whether another program reads it.
_OTHERS: Final = (
    (0, b"7z\xbc\xaf\x27\x1c", "7z", True),
    (0, b"Rar!\x1a\x07", "RAR", True),
    (0, b"MSCF\0\0\0\0", "cab", True),
    (0, b"!<arch>\ndebian", "deb", True),
    (0, b"!<arch>\n", "ar", True),
    (0, b"\xed\xab\xee\xdb", "rpm", True),
    (0, b"xar!\0", "xar", True),
    (2, b"-lh", "LHA", True),
    (0, b"\x60\xea", "ARJ", False),
    (7, b"**ACE**", "ACE", False),
    (0, b"SIT!", "StuffIt", False),
    (0, b"StuffIt (c)", "StuffIt", False),
    (0, b"(This file must be converted with BinHex", "BinHex", False),
    (20, b"\xdc\xa7\xc4\xfd", "Zoo", False),
    (0, b"LRZI", "lrzip", False),
    (0, b"\x89LZO\0", "lzop", False),
    (0, b"HG10", "Mercurial bundle", False),
    (0, b"HG20", "Mercurial bundle", False),
    (0, b"Salted__", "encrypted (OpenSSL)", False),
    (0, b"age-encryption.org/", "encrypted (age)", False),
    (0, b"hsqs", "squashfs", False),
    (0, b"MSWIM\0\0\0", "WIM", False),
    (8, b"AI\x02", "AppImage", False),
    (32, b"SIF_MAGIC", "SIF", False),
)

_IN_PROGRAM: Final = re.compile(
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07(?:\x00..\x73|\x01\x00)", re.DOTALL
)
_IN_SCRIPT: Final = re.compile(
    rb"\n(?=\x1f\x8b\x08|\xfd7zXZ\x00|BZh[1-9]1AY|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|LZIP|7z\xbc\xaf)"
)
_STRAY: Final = b"\r\n\xef\xbb\xbf"
_ENCODED: Final = re.compile(
    rb"(?<![^\n])(?:begin(?:-base64)? [0-7]{3,4} \S|(?:[A-Za-z0-9+/]{60,76}\r?\n){2})"
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_CONTROL: Final = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b"))
_LEADING_ZEROS: Final = 64
_ISO_MARK: Final = slice(32_769, 32_774)

_XZ_MEMORY: Final = 256 * 1024 * 1024
_ZSTD_WINDOW: Final = 128 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_FEED_BYTES: Final = 64 * 1024
# So much of a frame, packed, is kept to unpack it again if it is damaged.
_KEPT_BYTES: Final = 8 * 1024 * 1024
_SMALL_STEP: Final = 512
# The output of zstd cannot be limited; a kilobyte of input gives some 30 MB at most.
_ZSTD_FEED_BYTES: Final = 1024
_LONGEST_MAGIC: Final = 16
_LARGEST_LZMA: Final = 2**40

_DECOMPRESSION_ERRORS: Final = (EOFError, OSError, zlib.error, InflateError, lzma.LZMAError,
                                zstandard.ZstdError, ValueError)  # fmt: skip


def recognise(head: bytes) -> Kind:
    r"""Return the kind of a file by its first 512 bytes, or all of a shorter one.

    Examples
    --------
    >>> recognise(b"PK\x03\x04" + bytes(26)), recognise(b"import os")
    ('zip', 'bare')
    """
    if head.startswith(_ZIP):
        return "zip"
    for magic, kind in _COMPRESSED:
        if head.startswith(magic):
            return kind
    if head.startswith(b"BZh") and head[3:4].isdigit() and head[4:8] in {b"1AY&", b"\x17rE8"}:
        return "bzip2"
    if _is_skippable_frame(head):
        behind = head[8 + int.from_bytes(head[4:8], "little") :]
        return "lz4" if behind.startswith(_LZ4) else "zstd"
    if _is_lzma(head):
        return "lzma"
    if is_tar_header(head[:_BLOCK]):
        return "tar"
    if _ENCODED.match(head) and _encodes_archive(head):
        return "encoded"
    found = _other_format(head)
    if found is None:
        # Of a tar, the first header may be damaged.
        return "tar" if head[257:265] in _TAR_MAGIC else "bare"
    return "foreign" if found[1] else "unsupported"


def payload_start(head: bytes) -> int | None:
    r"""Return where an archive begins behind other bytes; None if there is none.

    These may be a program (as of 7-Zip and RAR), a script (as of makeself), or what a server put
    first: headers, line ends, a byte order mark. A zip file is found by its end, not here. `head`
    is the first `PAYLOAD_WITHIN` bytes of the file.

    Examples
    --------
    >>> payload_start(b"#!/bin/sh\ntail -n+3 $0 | gunzip\n\x1f\x8b\x08\0")
    32
    >>> payload_start(b"#!/bin/sh\n") is None
    True
    """
    if head.startswith(PROGRAM_MARKS[:2]):
        for match in _IN_PROGRAM.finditer(head):
            packed = head[match.start() : match.start() + 32]
            # A program that unpacks names the format it knows: the header behind is checked.
            if not packed.startswith(b"7z") or zlib.crc32(packed[12:]) == int.from_bytes(
                packed[8:12], "little"
            ):
                return match.start()
        return None
    starts = [len(head) - len(head.lstrip(_STRAY))]
    if not _is_binary(head[:8]):
        starts += [match.end() for match in _IN_SCRIPT.finditer(head)]
        if (tar := head.find(b"ustar") - 257) > 0 and head[tar - 1 : tar] == b"\n":
            starts.append(tar)
        # What is mostly something else is a text to be read.
        encoded = _ENCODED.search(head, 1)
        starts += [encoded.start()] if encoded and 4 * encoded.start() < 3 * len(head) else []
    for start in starts:
        if start and recognise(head[start : start + HEAD_BYTES]) not in {"bare", "unsupported"}:
            return start
    return None


def misnamed(name: str, head: bytes) -> str | None:
    """What stands in the place of an archive, by a file's name and first bytes; None for nothing.

    Examples
    --------
    >>> misnamed("code.zip", b"<!DOCTYPE html><title>Log in</title>")
    'a web page stands in its place'
    >>> misnamed("code.py", b"<html>") is None
    True
    """
    name = name.lower()
    if not name.endswith(_NAMED_ARCHIVES) or recognise(head) != "bare":
        return None
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page stands in its place"
    if head.startswith(b"version https://git-lfs."):
        return "a pointer of Git LFS stands in its place; the file itself was not published"
    if _is_binary(head):
        # A tar may be nothing but empty blocks.
        if head.strip(b"\0") or not name.endswith((".tar", ".iso")):
            return "its name says that it is an archive, its bytes are those of none that is known"
    elif name.endswith(ARCHIVE_SUFFIXES):
        begin = head[:60].decode("utf-8", "replace")
        return f"a text stands in its place: {begin!r}" if head else "it is empty"
    return None


def _is_binary(head: bytes) -> bool:
    return len(head.translate(None, _CONTROL)) < len(head)


def format_name(head: bytes) -> str:
    """Name of an archive format that this package does not read itself."""
    found = _other_format(head)
    return "ISO 9660" if found is None else found[0]


def is_tar_header(block: bytes) -> bool:
    """Whether a block's own checksum holds: older tars have no other mark.

    Some of them added up signed bytes.
    """
    if len(block) < _BLOCK:
        return False
    field = block[148:156].strip(b" \x00")
    if not field or not field.isdigit():
        return False
    try:
        stated = int(field, 8)
    except ValueError:
        return False
    rest = block[:148] + block[156:]
    # The checksum's own field counts as eight spaces.
    unsigned = sum(rest) + 8 * 32
    if stated == unsigned:
        return True
    return stated == unsigned - 256 * sum(byte > 127 for byte in rest)


def inflate(body: bytes | memoryview, size: int) -> bytes:
    """Return the content of a raw deflate stream, with at most one byte more than `size`.

    That byte shows that a header understates the size; nothing beyond it is ever unpacked.
    Raises `InflateError`.
    """
    data: bytes = isal_zlib.decompressobj(wbits=-15).decompress(body, size + 1)
    return data


def memory_error(error: Exception) -> Exception:
    """Return `MemoryError` for an error of a decompressor's memory limit, any other as it is."""
    return MemoryError(str(error)) if "emory" in str(error) else error


def crc32(data: bytes, value: int = 0) -> int:
    """CRC-32 as in zip and gzip, ten times as fast as zlib's."""
    checksum: int = isal_zlib.crc32(data, value)
    return checksum


def is_nested_archive(path: str, head: bytes, *, is_large: bool = False) -> bool:
    """Whether a member of an archive is itself one that is opened: by name and by content.

    The name decides that a program's own containers (``.jar``, ``.npz``, ``.whl``)
    stay the files that they are. One compressed file over the limit is none: what is
    in it is larger still.
    """
    if path[path.rfind(".") :].lower() not in _LAST_SUFFIXES:
        return False  # nearly every path there is
    if is_large and not path.lower().endswith(ARCHIVE_SUFFIXES):
        return False
    if is_large and path.lower().endswith(".iso"):
        return True  # its mark lies further behind
    return recognise(head[:HEAD_BYTES]) not in {"bare", "unsupported", "bundle"}


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; nothing at the end."""
        ...


class Layer:
    """A stream that counts what comes out of it and whose first bytes can be looked at.

    `counted` is whether its bytes count as unpacked: those of the file itself do not.
    """

    def __init__(self, stream: Readable, meter: Meter, *, counted: bool = True) -> None:
        self._stream = stream
        self._meter = meter
        self._counted = counted
        self._head = b""
        self._deferred_error: BrokenStreamError | OverLimitError | None = None

    def peek(self) -> bytes:
        """Return the first 512 bytes, or fewer if there are no more or they cannot be read."""
        if not self._head:
            self._head = self._pull(HEAD_BYTES)
        return self._head

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes; fewer at the end or before an error, which the next call raises."""
        size = _READ_BYTES if size < 0 else size
        head, self._head = self._head[:size], self._head[size:]
        if len(head) == size:
            return head
        data = head + self._pull(size - len(head))
        if not data and size:
            self.check()
        return data

    def check(self) -> None:
        """Raise the error that reading has met, if it has."""
        if self._deferred_error is not None:
            raise self._deferred_error

    def unread(self, data: bytes) -> None:
        """Put back what was read too far."""
        self._head = data + self._head

    def _pull(self, size: int) -> bytes:
        pieces: list[bytes] = []
        missing = size
        while missing and self._deferred_error is None:
            # Also of what lies beneath a compression: that may unpack to nothing for hours.
            self._meter.check_time()
            try:
                piece = self._stream.read(min(missing, _READ_BYTES))
                if piece and self._counted:
                    self._meter.add_unpacked(len(piece))
            except (BrokenStreamError, OverLimitError) as error:
                self._deferred_error = error
                break
            except MemoryError:
                self._deferred_error = OverLimitError("its decompression asks for too much memory")
                break
            except _DECOMPRESSION_ERRORS as error:
                said = "it breaks off" if isinstance(error, EOFError) else "its bytes are damaged"
                self._deferred_error = BrokenStreamError(said)
                break
            if not piece:
                break
            missing -= len(piece)
            pieces.append(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]


def strip_compression(
    layer: Layer, file: IO[bytes] | None, meter: Meter, scratch: Path
) -> tuple[Kind, Layer, int]:
    """Remove every compression around a file.

    `layer` is of `file` itself, or of a part of one (then `file` is None). `scratch` is for what
    another program has to read from a file. Returns the kind of what is inside (a compression if
    there are too many), its stream from the first byte, and the number of compressions removed.
    """
    depth = 0
    kind = recognise(layer.peek())
    while depth < meter.limits.max_depth:
        if kind in OPENERS:
            layer = Layer(OPENERS[kind](layer), meter)
        elif kind in {"compress", "lzip", "lz4"}:
            source = spool(layer, scratch, meter) if depth or file is None else file
            layer = Layer(PieceStream(unpacked(source, meter)), meter)
        else:
            break
        depth += 1
        kind = recognise(layer.peek())
    if kind == "bare":
        kind = _behind_its_begin(layer)
    return kind, layer, depth


def _behind_its_begin(layer: Layer) -> Kind:
    """Kind of a tar behind empty blocks, as at the end of a tape, and of an image of a disc."""
    if b"\0" not in layer.peek():
        return "bare"
    head = layer.read((_LEADING_ZEROS + 1) * _BLOCK)
    layer.unread(head)
    if head[_ISO_MARK] == b"CD001":
        return "foreign"
    start = (len(head) - len(head.lstrip(b"\0"))) // _BLOCK * _BLOCK
    return "tar" if start and is_tar_header(head[start : start + _BLOCK]) else "bare"


def spool(layer: Readable, scratch: Path, meter: Meter) -> IO[bytes]:
    """Copy a stream to a temporary file that can be sought in.

    Raises what reading raises, and `NetworkError` if `scratch` cannot be written.
    """
    left = meter.limits.max_archive_bytes
    with local_disk(scratch / "spool"):
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the caller's
    with ExitStack() as stack:
        stack.enter_context(file)
        while piece := layer.read(_READ_BYTES):
            left -= len(piece)
            if left < 0:
                most = meter.limits.max_archive_bytes
                raise OverLimitError(f"unpacked it is over the limit of {most:,} bytes")
            with local_disk(scratch / "spool"):
                file.write(piece)
        with local_disk(scratch / "spool"):
            file.flush()
        file.seek(0)
        stack.pop_all()
    return file


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _frames(
    stream: Readable,
    new: Callable[[], _Decompressor],
    is_frame: Callable[[bytes], bool],
    feed: int = _FEED_BYTES,
) -> Iterator[bytes]:
    """Unpack compressed frames that follow one another, with or without zeros between them.

    The readers of the standard library lose what they have read when something else follows, set
    LZMA no limit of memory, and take a frame that breaks off for one that ends. `new` makes a
    decompressor for the next frame, `is_frame` tells whether bytes begin one, `feed` is the
    number of bytes to unpack at a time.
    """
    packed, is_first = b"", True
    while True:
        while not packed:
            packed = stream.read(feed)
            if not packed:
                return
            if not is_first:
                packed = packed.lstrip(b"\x00")
        if not is_first:
            if len(packed) < _LONGEST_MAGIC:
                packed += stream.read(_LONGEST_MAGIC)
            if not is_frame(packed):
                raise TrailingBytesError("other bytes follow the compressed ones")
        is_first = False
        decompressor = new()
        kept: list[bytes] = []
        n_kept = n_given = 0
        while not decompressor.eof:
            if not packed and decompressor.needs_input:
                packed = stream.read(feed)
                if not packed:
                    raise EOFError("the stream ends within a frame")
            n_kept += len(packed)
            if n_kept > _KEPT_BYTES:
                kept.clear()
            elif packed:
                kept.append(packed)
            try:
                data = decompressor.decompress(packed, _READ_BYTES)
            except _DECOMPRESSION_ERRORS as error:
                if kept:
                    yield _before_damage(new(), kept, n_given)
                raise memory_error(error) from None
            packed = b""
            n_given += len(data)
            yield data
        packed = decompressor.unused_data.lstrip(b"\x00")


def _before_damage(decompressor: _Decompressor, kept: list[bytes], n_given: int) -> bytes:
    """Unpack a damaged frame anew byte by byte; return what it holds beyond `n_given` bytes.

    A decompressor that meets damage, or a wrong checksum, returns nothing of that call.
    """
    found, data, count = bytearray(), b"", 0
    last = [kept[-1][at : at + 1] for at in range(len(kept[-1]))]
    with suppress(*_DECOMPRESSION_ERRORS):
        for piece in (*kept[:-1], *last):
            fed = piece
            while fed or data or not decompressor.needs_input:
                step = max(_SMALL_STEP, min(n_given - count, _READ_BYTES))
                data, fed = decompressor.decompress(fed, step), b""
                count += len(data)
                if count > n_given:
                    found += data[-(count - n_given) :]
    return bytes(found)


class _ZstdFrame:
    """A frame of zstd, in the manner of the standard library's decompressors."""

    needs_input = True

    def __init__(self, context: zstandard.ZstdDecompressor) -> None:
        self._decompressor = context.decompressobj()

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    def decompress(self, data: bytes, _max_length: int, /) -> bytes:
        return self._decompressor.decompress(data)


def _opener(
    new: Callable[[], _Decompressor], is_frame: Callable[[bytes], bool]
) -> Callable[[Readable], Readable]:
    return lambda stream: PieceStream(_frames(stream, new, is_frame))


def _igzip(flag: int) -> Callable[[], _Decompressor]:
    return lambda: cast("_Decompressor", igzip_lib.IgzipDecompressor(flag=flag))


def _lzma(form: int) -> Callable[[], _Decompressor]:
    return lambda: lzma.LZMADecompressor(form, memlimit=_XZ_MEMORY)


def _open_zstd(stream: Readable) -> Readable:
    # One context for all frames: a million empty ones would each cost a new one.
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frames = _frames(
        stream,
        lambda: _ZstdFrame(context),
        lambda data: data.startswith(_ZSTD) or _is_skippable_frame(data),
        _ZSTD_FEED_BYTES,
    )
    return PieceStream(frames)


def _encodes_archive(head: bytes) -> bool:
    """Whether lines of uuencode or base64 hold an archive: scripts hold pictures as well."""
    decoded = b""
    with suppress(ValueError):
        for piece in _decoded([head]):
            decoded += piece
    return recognise(decoded) not in {"bare", "unsupported"} or decoded[257:262] == b"ustar"


def _decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode lines of uuencode or base64, up to the first that is neither."""
    rest = letters = b""
    is_uu: bool | None = None
    for piece in chain(pieces, [b"\n"]):
        *lines, rest = (rest + piece).split(b"\n")
        for line in map(bytes.rstrip, lines):
            is_begin = is_uu is None and line.startswith(b"begin")
            is_uu = line.startswith(b"begin ") if is_uu is None else is_uu
            if is_begin:
                continue
            if line in {b"", b"`", b"end"} or not (is_uu or _BASE64.fullmatch(line)):
                return
            letters += line
            whole = len(letters) // 4 * 4
            yield binascii.a2b_uu(line) if is_uu else binascii.a2b_base64(letters[:whole])
            letters = letters[whole:]


def _is_skippable_frame(head: bytes) -> bool:
    """Whether a frame begins that decompressors of zstd and lz4 pass over; pzstd writes them."""
    return len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


def _is_lzma(head: bytes) -> bool:
    """Whether the header of an ``.lzma`` file is one that a compressor writes."""
    if len(head) < 13 or head[0] >= 225:
        return False
    dictionary = int.from_bytes(head[1:5], "little")
    size = int.from_bytes(head[5:13], "little")
    if head[0] != 0x5D and (size != 2**64 - 1 or head[13:14] != b"\0"):
        return False  # other settings than the usual ones: the rest must leave no doubt
    # A power of two, or the sum of two that follow one another.
    low = dictionary & -dictionary
    return (
        dictionary >= 4096
        and dictionary in {low, 3 * low, 2**32 - 1}
        and (size == 2**64 - 1 or size < _LARGEST_LZMA)
    )


def _other_format(head: bytes) -> tuple[str, bool] | None:
    """Name of an archive format of others, and whether it is read."""
    for position, magic, name, is_read in _OTHERS:
        if head[position : position + len(magic)] == magic:
            if name == "LHA" and head[6:7] != b"-":
                continue
            return name, is_read
    return ("cpio", True) if _is_cpio(head) else None


def _is_cpio(head: bytes) -> bool:
    if head[:6] in {b"070701", b"070702"}:
        return len(head) >= 110 and all(byte in b"0123456789abcdefABCDEF" for byte in head[6:110])
    if head[:6] == b"070707":
        return len(head) >= 76 and all(byte in b"01234567" for byte in head[6:76])
    for magic, order in ((b"\xc7\x71", "little"), (b"\x71\xc7", "big")):
        if head[:2] == magic and len(head) > 28:
            length = int.from_bytes(head[20:22], cast("Literal['little', 'big']", order))
            return 2 <= length <= len(head) - 26 and head[25 + length] == 0 and head[26] != 0
    return False


OPENERS: Final[dict[Kind, Callable[[Readable], Readable]]] = {
    "gzip": _opener(_igzip(igzip_lib.DECOMP_GZIP), lambda data: data.startswith(_GZIP)),
    "bzip2": _opener(bz2.BZ2Decompressor, lambda data: recognise(data) == "bzip2"),
    "xz": _opener(_lzma(lzma.FORMAT_XZ), lambda data: data.startswith(_XZ)),
    "lzma": _opener(_lzma(lzma.FORMAT_ALONE), _is_lzma),
    "zstd": _open_zstd,
    "encoded": lambda stream: PieceStream(_decoded(iter(partial(stream.read, _FEED_BYTES), b""))),
}
open_deflate: Final = _opener(_igzip(igzip_lib.DECOMP_DEFLATE), lambda _: False)
"""Content of a raw deflate stream, as a stream."""
