"""Archives made for the tests: good ones, and ones that no honest tool would write."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import zstandard

GOOD = {
    "owner-name-1a2b3c4/README.md": b"# A readme\n",
    "owner-name-1a2b3c4/src/a.py": b"print('a')\n" * 500,
    "owner-name-1a2b3c4/src/b.c": b"int main(void) { return 0; }\n",
    "owner-name-1a2b3c4/empty": b"",
}

COMPRESSIONS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def make_zip(files: Mapping[str, bytes] = GOOD, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return target.getvalue()


def make_tar(files: Mapping[str, bytes] = GOOD, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def tar_of(*infos: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002
    """A tar of headers alone: links, devices."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as archive:
        for info in infos:
            archive.addfile(info)
    return target.getvalue()


def tar_info(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that states any size, with nothing behind it."""
    info = tar_info(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@dataclass(frozen=True)
class RawMember:
    """A member of a zip file, each of whose fields may lie."""

    name: bytes
    body: bytes
    size: int
    crc: int
    method: int = 8
    flags: int = 0
    made_by: int = 20
    attributes: int = 0
    packed: int | None = None
    offset: int | None = None
    local: bool = True
    extra: bytes = b""

    @classmethod
    def of(cls, name: bytes, data: bytes, **fields: object) -> RawMember:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = compressor.compress(data) + compressor.flush()
        return replace(cls(name, body, len(data), zlib.crc32(data)), **fields)


def raw_zip(*members: RawMember) -> bytes:
    """A zip file written field by field."""
    content, directory = bytearray(), bytearray()
    for one in members:
        packed = len(one.body) if one.packed is None else one.packed
        offset = len(content) if one.offset is None else one.offset
        lengths = (one.crc, packed & 0xFFFFFFFF, one.size & 0xFFFFFFFF)
        if one.local:
            content += struct.pack(
                "<4s5H3L2H", b"PK\x03\x04", 20, one.flags, one.method, 0, 0, *lengths,
                len(one.name), len(one.extra),
            ) + one.name + one.extra + one.body  # fmt: skip
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", one.made_by, 20, one.flags, one.method, 0, 0, *lengths,
            len(one.name), len(one.extra), 0, 0, 0, one.attributes, offset,
        ) + one.name + one.extra  # fmt: skip
    count = min(len(members), 0xFFFF)
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(content), 0
    )
    return bytes(content + directory + end)
