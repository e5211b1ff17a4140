"""Bounds that a hostile archive meets in the decompressors, in headers, in time and after a cut."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import random
import re
import resource
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from zml_dask.errors import RecordError
from zml_dask.fetch import member as limits_module
from zml_dask.fetch.fetched import FetchedArchive, FetchedRecord
from zml_dask.fetch.zip_methods import UNPACKERS

from .archives import (
    COMPRESSIONS,
    GOOD,
    RawMember,
    make_tar,
    make_zip,
    raw_zip,
    tar_header,
)
from .conftest import Read, fates, good

MEGABYTE = 1024 * 1024
ZEROS = bytes(20 * MEGABYTE)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let this process take so many bytes more of address space than it has, and no more."""
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(re.search(r"VmSize:\s+(\d+)", status)[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def zip_body(data: bytes, method: int) -> bytes:
    """A member's body as zipfile packs it."""
    archive = make_zip({"a": data}, method)
    packed = struct.unpack_from("<L", archive, archive.index(b"PK\x01\x02") + 20)[0]
    return archive[31 : 31 + packed]


def wide_xz(data: bytes) -> bytes:
    """An xz stream that asks for a dictionary of 4 GiB."""
    stream = bytearray(lzma.compress(data))
    header_size = (stream[12] + 1) * 4
    assert stream[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    stream[16] = 40
    end = 12 + header_size - 4
    stream[end : end + 4] = struct.pack("<L", zlib.crc32(stream[12:end]))
    return bytes(stream)


def wide_zstd(data: bytes) -> bytes:
    """A zstd frame that asks for a window of 1 GiB."""
    wide = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return stream.compress(data) + stream.flush()


def pax_header(**records: str) -> bytes:
    """A pax header of any records."""
    body = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = next(n for n in range(len(rest), 10**7) if n == len(rest) + len(str(n)))
        body += str(length).encode() + rest
    return tar_header("pax", len(body), tarfile.XHDTYPE) + body + bytes(-len(body) % 512)


# Decompressors


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (0, ZEROS),
        (8, zip_body(ZEROS, zipfile.ZIP_DEFLATED)),
        (9, zip_body(bytes(200), zipfile.ZIP_DEFLATED)),
        (12, bz2.compress(ZEROS)),
        (14, zip_body(ZEROS, zipfile.ZIP_LZMA)),
        (93, zstandard.compress(ZEROS)),
        (95, lzma.compress(ZEROS)),
    ],
)
def test_what_a_header_hides_is_never_unpacked(method: int, body: bytes) -> None:
    # Implode (6) has no end mark, and LZMA need not have one: they are unpacked to their stated
    # size, and no further; the others to one byte more, which is damage.
    assert set(UNPACKERS) == {0, 8, 9, 12, 14, 93, 95}
    assert len(UNPACKERS[method](memoryview(body), 10)) == (10 if method == 14 else 11)


def test_memory_that_an_xz_asks_for_is_refused(read: Read) -> None:
    member = RawMember(b"a", wide_xz(b"abc"), 3, zlib.crc32(b"abc"), method=95)
    assert fates(read(raw_zip(member))) == {"a": "refused"}
    # Under a compression the file's kind cannot even be seen.
    found = read(wide_xz(make_tar()))
    assert [(one.status, one.data) for one in found] == [("refused", None)]
    assert "too much memory" in str(found[0].reason)


def test_memory_that_a_zstd_member_asks_for_is_refused(read: Read) -> None:
    member = RawMember(b"a", wide_zstd(b"abc"), 3, zlib.crc32(b"abc"), method=93)
    assert set(fates(read(raw_zip(member)))) == {"a"}


def test_a_dictionary_of_4_gib_takes_no_memory(read: Read) -> None:
    honest = make_zip({"a": b"abc" * 99}, zipfile.ZIP_LZMA)
    position = honest.index(b"\x05\x00\x5d") + 3
    huge = honest[:position] + b"\xff\xff\xff\xff" + honest[position + 4 :]
    with room_for(512 * MEGABYTE):
        assert good(read(huge)) == {"a": b"abc" * 99}


# Numbers that no table holds


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 30, "9" * 5000, str(2**63)])
def test_a_size_of_any_number_of_digits(read: Read, digits: str) -> None:
    members = read(pax_header(size=digits) + make_tar())
    assert fates(members) == {"archive": "damaged"}
    assert len(good(members)) == len(GOOD) - 1


def test_sizes_of_64_bits_in_a_zip(read: Read) -> None:
    def member(name: bytes, size: int, packed: int) -> RawMember:
        extra = struct.pack("<HHQQ", 1, 16, size, packed)
        unknown = 0xFFFFFFFF
        return RawMember.of(name, b"abc", extra=extra, size=unknown, packed=unknown)

    body = len(RawMember.of(b"", b"abc").body)
    honest, huge = member(b"honest", 3, body), member(b"huge", 2**64 - 1, 2**64 - 1)
    archive = raw_zip(honest, huge)
    for data in (archive, archive[: archive.index(b"PK\x01\x02")]):
        members = read(data)
        assert good(members) == {"honest": b"abc"}
        assert fates(members)["huge"] == "too_large"
        assert all(one.size is None or one.size < 2**63 for one in members)


# Counts


def test_all_paths_together_are_bounded(read: Read) -> None:
    """Seventy thousand entries of forty bytes, over one body."""
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0
    )
    directory = b"".join(entry + b"%040d" % number for number in range(70_000))
    local = b"PK\x03\x04" + bytes(26)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), len(local), 0)
    tar = b"".join(tar_header(f"{number:040}", 0) for number in range(70_000)) + bytes(1024)
    for archive in (local + directory + end, tar):
        members = read(archive, max_path_bytes=40)
        assert members[-1].reason is not None
        assert members[-1].reason.startswith("over the limit of all paths together")
        assert 65_000 < len(members) < 66_000


def cut(archive: bytes) -> bytes:
    """A zip file without its directory."""
    return archive[: archive.index(b"PK\x01\x02")]


def test_members_of_a_cut_zip_are_bounded(read: Read) -> None:
    files = {f"{number:05}": b"" for number in range(300)}
    members = read(cut(make_zip(files)), max_members=100)
    assert len(good(members)) == 100
    assert fates(members) == {"00100": "refused"}


def test_a_cut_zip_is_held_to_the_same_rules(read: Read) -> None:
    archive = raw_zip(
        RawMember.of(b"good", b"y"),
        RawMember.of(b"secret", b"x", flags=1),
        RawMember.of(b"masked", b"x", flags=0x2000),
        RawMember.of(b"twice", b"1"),
        RawMember.of(b"twice", b"2"),
        RawMember.of(b"large", bytes(100_001)),
        RawMember.of(b"bad", b"x", crc=1),
        RawMember.of(b"odd", b"x", method=97),
        RawMember.of(b"liar", b"xyz", size=2),
    )
    members = read(cut(archive))
    assert good(members) == {"good": b"y", "twice": b"1"}
    assert fates(members) == {
        "secret": "encrypted",
        "masked": "encrypted",
        "twice": "duplicate",
        "large": "too_large",
        "bad": "damaged",
        "odd": "unsupported",
        "liar": "damaged",
        "archive": "damaged",
    }


def test_a_streamed_bomb_in_a_cut_zip_is_bounded(read: Read) -> None:
    """Its length is stated after it: it has to be inflated to find where it ends."""
    member = RawMember.of(b"bomb", bytes(50 * MEGABYTE), flags=8)
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 8, 0, 0, 0, 0, 0, len(member.name), 0)
    members = read(header + member.name + member.body, max_unpacked_bytes=10 * MEGABYTE)
    assert fates(members) == {"bomb": "refused"}
    assert "unpacks to over 10,485,760 bytes" in str(members[0].reason)


# Time, by a clock that goes on by a second whenever it is looked at


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(limits_module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_time_is_looked_at_while_a_member_is_read_over(read: Read, compression: str) -> None:
    tar = tar_header("large", 60 * MEGABYTE) + bytes(60 * MEGABYTE) + bytes(1024)
    with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
        read(COMPRESSIONS[compression](tar), max_seconds=50)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_time_is_looked_at_where_nothing_comes_out(read: Read, compression: str) -> None:
    """A million streams of no content: one read of them all would not come back."""
    nothing = COMPRESSIONS[compression](b"")
    archive = COMPRESSIONS[compression](make_tar()[:512]) + nothing * (2 * MEGABYTE // len(nothing))
    with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
        read(archive, max_seconds=8)


@pytest.mark.usefixtures("ticking")
def test_time_is_looked_at_in_a_cut_zip(read: Read) -> None:
    files = {f"{number:05}": b"" for number in range(300)}
    with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
        read(cut(make_zip(files)), max_seconds=100)
    member = RawMember.of(b"bomb", bytes(200 * MEGABYTE), flags=8)
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 8, 0, 0, 0, 0, 0, 4, 0)
    with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
        read(header + member.name + member.body, max_seconds=100)


# Names


def test_a_path_by_infozip_s_own_field(read: Read) -> None:
    name = "unï.py".encode("cp437")
    field = b"\x01" + struct.pack("<L", zlib.crc32(name)) + "ünï.py".encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    hostile = b"\x01" + struct.pack("<L", zlib.crc32(b"\x80")) + b"\xff\x1b[2J"
    archive = raw_zip(
        RawMember.of(name, b"1", extra=extra),
        RawMember.of(b"\x80", b"2", extra=struct.pack("<HH", 0x7075, len(hostile)) + hostile),
        RawMember.of(b"\x81", b"3", extra=struct.pack("<HH", 0x7075, 9) + b"\x01short"),
    )
    assert good(read(archive)) == {
        "ünï.py": b"1",
        b"\xff".decode("cp437") + "\\x1b[2J": b"2",
        b"\x81".decode("cp437"): b"3",
    }


def test_separators_of_lines_and_lone_surrogates_are_escaped(read: Read) -> None:
    members = read(make_zip({"a\u2028b\u2029c.py": b"x"}))
    assert [one.path for one in members] == ["a\\u2028b\\u2029c.py"]
    # The name of the file itself is the record's own word.
    assert [one.path for one in read(b"x", name="\ud800\x1b.py")] == ["\\ud800\\x1b.py"]


def test_the_name_of_an_archive_is_no_more_trusted_than_its_members(tmp_path: Path) -> None:
    archives = []
    for number, name in enumerate(("\x1b[2Ja.zip", "b\u202e.zip", "README\n")):
        path = tmp_path / f"{number}"
        path.write_bytes(b"text" if number == 2 else cut(make_zip({"x.py": b"1", "README\n": b""})))
        archives.append(FetchedArchive(name, path, 1, None, "bare" if number == 2 else "zip"))
    paths = [one.path for one in FetchedRecord("zenodo", tuple(archives)).members()]
    assert sorted(paths) == [
        "README\\n",
        "\\x1b[2Ja.zip",
        "\\x1b[2Ja.zip/README\\n",
        "\\x1b[2Ja.zip/x.py",
        "b\\u202e.zip",
        "b\\u202e.zip/README\\n",
        "b\\u202e.zip/x.py",
    ]
    alone = FetchedRecord("zenodo", tuple(archives[1:])).members()
    assert {one.path: one.status for one in alone}["README\\n"] == "ok"


@pytest.mark.parametrize("flags", [0x1, 0x40, 0x41, 0x2000])
def test_every_mark_of_encryption(read: Read, flags: int) -> None:
    archive = raw_zip(RawMember.of(b"secret", b"x", flags=flags), RawMember.of(b"open", b"y"))
    assert fates(read(archive)) == {"secret": "encrypted"}


def test_a_link_to_a_target_of_any_length(read: Read) -> None:
    link = RawMember.of(
        b"link", bytes(5 * MEGABYTE), made_by=3 << 8, attributes=(stat.S_IFLNK | 0o777) << 16
    )
    assert fates(read(raw_zip(link))) == {"link": "refused"}


# What breaks off


def test_a_checksum_behind_the_padding_is_checked(read: Read) -> None:
    """Tape blocks may be large: the checksum comes after what nobody needs."""
    for compression in (".gz", ".bz2", ".xz", ".zst"):
        padding = random.Random(1).randbytes(1_000_000)
        if compression == ".zst":
            whole = zstandard.ZstdCompressor(write_checksum=True).compress(make_tar() + padding)
        else:
            whole = COMPRESSIONS[compression](make_tar() + padding)
        position = {".gz": -6, ".bz2": -6, ".xz": -10, ".zst": -1}[compression]
        flipped = bytearray(whole)
        flipped[position] ^= 1
        members = read(bytes(flipped))
        assert fates(members) == {"archive": "damaged"}, compression
        assert good(members) == GOOD, compression


def test_a_tar_without_its_end_mark(read: Read) -> None:
    content = make_tar().rstrip(b"\0")
    members = read(content + bytes(-len(content) % 512))
    assert fates(members) == {"archive": "damaged"}
    assert good(members) == GOOD


@pytest.mark.parametrize("junk", [b"PK\x01\x02short", b"x" * 45])
def test_a_directory_with_less_than_an_entry_at_its_end(read: Read, junk: bytes) -> None:
    whole = make_zip()
    end = whole.rindex(b"PK\x05\x06")
    size = struct.unpack_from("<L", whole, end + 12)[0] + len(junk)
    record = whole[end : end + 12] + struct.pack("<L", size) + whole[end + 16 :]
    members = read(whole[:end] + junk + record)
    assert good(members) == GOOD
    assert fates(members) == {"archive": "damaged"}


def test_an_entry_that_is_longer_than_its_directory(read: Read) -> None:
    whole = bytearray(make_zip())
    last = whole.rindex(b"PK\x01\x02")
    whole[last + 32 : last + 34] = b"\xff\x00"  # a comment that is not there
    members = read(bytes(whole))
    assert good(members) == GOOD  # the last one by its own header
    assert fates(members) == {"archive": "damaged"}


@pytest.mark.parametrize("length", [1, 2, 5, 9, 14])
def test_a_compression_that_ends_in_its_own_header(read: Read, length: int) -> None:
    for compress in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        members = read(compress(b"text\n" * 9)[:length])
        assert len(members) == 1
        assert members[0].status in {"ok", "damaged"}  # a few bytes alone are a file of their own


def test_paths_that_come_out_alike_are_one(tmp_path: Path) -> None:
    """An escaped name and one that spells the escape; two archives whose paths meet."""

    def members(**contents: dict[str, bytes]) -> list[tuple[str, str, bytes | None]]:
        archives = []
        for number, (name, files) in enumerate(contents.items()):
            path = tmp_path / f"{number}"
            path.write_bytes(make_zip(files))
            archives.append(FetchedArchive(name, path, 1, None, "zip"))
        found = FetchedRecord("zenodo", tuple(archives)).members()
        return [(one.path, one.status, one.data) for one in found]

    assert members(alone={"e\x1b.py": b"1", "e\\x1b.py": b"2", "e\\x1c.py": b"3"}) == [
        ("e\\x1b.py", "ok", b"1"),
        ("e\\x1b.py", "duplicate", None),
        ("e\\x1c.py", "ok", b"3"),
    ]
    assert members(**{"a": {"b/c": b"1", "d": b"2"}, "a/b": {"c": b"3", "e": b"4"}}) == [
        ("a/b/c", "ok", b"1"),
        ("a/d", "ok", b"2"),
        ("a/b/c", "duplicate", None),
        ("a/b/e", "ok", b"4"),
    ]
