"""Archives that lie. Each class of lie has a test that fails without its guard."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
import zstandard

from zml_dask.errors import RecordError
from zml_dask.fetch import member as limits_module
from zml_dask.fetch.unpack import read_members

from .archives import (
    COMPRESSIONS,
    GOOD,
    RawMember,
    make_tar,
    make_zip,
    raw_zip,
    tar_header,
    tar_info,
    tar_of,
)
from .conftest import Read, fates, good, reason_of

UNIX = 3 << 8


MEGABYTE = 1024 * 1024


def without_end(tar: bytes) -> bytes:
    """A tar without its end mark, so that more can follow."""
    content = tar.rstrip(b"\0")
    return content + bytes(-len(content) % 512)


# Bombs


def test_a_header_that_understates_is_unpacked_by_one_byte_too_much(read: Read) -> None:
    bomb = RawMember.of(b"bomb", bytes(50 * MEGABYTE), size=10)
    archive = raw_zip(RawMember.of(b"good", b"good"), bomb)
    assert good(read(archive)) == {"good": b"good"}
    assert fates(read(archive)) == {"bomb": "damaged"}
    assert "more than its header says" in reason_of(read, archive, "bomb")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_understating_under_other_methods(read: Read, method: int) -> None:
    honest = make_zip({"bomb": bytes(20 * MEGABYTE)}, method)
    size = struct.pack("<L", 20 * MEGABYTE)
    assert honest.count(size) == 2
    assert fates(read(honest.replace(size, struct.pack("<L", 10)))) == {"bomb": "damaged"}


def test_all_members_together_are_bounded(read: Read) -> None:
    archive = make_zip({f"{number:03}": b"x" * 1000 for number in range(100)})
    members = read(archive, max_unpacked_bytes=50_000)
    assert len(good(members)) == 50
    assert list(fates(members).values()) == ["refused"] * 50


def test_the_ratio_is_bounded(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "_RATIO_FROM_BYTES", MEGABYTE)
    files = {f"{number:03}": bytes(100_000) for number in range(200)}
    for archive in (
        make_zip(files),
        gzip.compress(make_tar(files)),
        lzma.compress(make_tar(files)),
    ):
        members = read(archive, max_ratio=5)
        assert "refused" in fates(members).values()
        assert sum(len(data) for data in good(members).values()) <= max(MEGABYTE, 5 * len(archive))


def test_members_that_share_one_body_are_bounded(read: Read) -> None:
    # One body, listed a thousand times: 100 KB become 100 MB.
    shared = RawMember.of(b"0", bytes(100_000))
    members = [shared, *(RawMember.of(b"%d" % n, bytes(100_000), local=False, offset=0)
                         for n in range(1, 1000))]  # fmt: skip
    found = read(raw_zip(*members), max_unpacked_bytes=MEGABYTE)
    assert len(good(found)) == 10
    assert len(fates(found)) == 990


def test_of_archives_within_archives_one_level_is_opened(read: Read) -> None:
    innermost = make_tar({"x": b"x"})
    inner = make_zip({"a": b"a", "deep.tar": innermost})
    for outer in (make_zip, make_tar):
        members = read(outer({"inner.zip": inner}))
        assert good(members) == {"inner.zip/a": b"a"}
        assert fates(members) == {"inner.zip": "binary", "inner.zip/deep.tar": "unsupported"}
    assert good(read(gzip.compress(inner), name="x.zip.gz")) == {
        "a": b"a",
        "deep.tar/x": b"x",
    }


def test_compression_around_compression_ends(read: Read) -> None:
    data = make_tar()
    for _ in range(50):
        data = gzip.compress(data)
    assert fates(read(data)) == {"archive": "unsupported"}


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_stream_of_zeros_ends(
    read: Read, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "_RATIO_FROM_BYTES", 4 * MEGABYTE)
    behind = tar_header("zeros", 30 * MEGABYTE) + bytes(30 * MEGABYTE) + make_tar()
    members = read(COMPRESSIONS[compression](without_end(make_tar()) + behind))
    assert fates(members) == {"zeros": "refused"}
    assert good(members) == GOOD


def test_many_members_are_bounded(read: Read) -> None:
    files = {f"{number:05}": b"" for number in range(3000)}
    for archive in (make_zip(files), make_tar(files)):
        members = read(archive, max_members=1000)
        assert len(good(members)) == 1000
        assert fates(members) == {"01000": "refused"}


def test_folders_count_as_members(read: Read) -> None:
    archive = make_zip({f"{number:05}/": b"" for number in range(3000)})
    assert list(fates(read(archive, max_members=1000)).values()) == ["refused"]


def test_paths_are_bounded(read: Read) -> None:
    files = {"d/" * 3000 + "a": b"a", "b": b"b"}
    for archive in (make_zip(files), make_tar(files)):
        members = read(archive)
        assert good(members) == {"b": b"b"}
        assert [(one.status, len(one.path)) for one in members if one.data is None] == [
            ("refused", 4096)
        ]
    many = make_zip({"d/" * 1000 + f"{number}": b"" for number in range(200)})
    assert "refused" in fates(read(many, max_path_bytes=2)).values()


def test_time_is_bounded(read: Read) -> None:
    for archive in (make_zip(), make_tar(), gzip.compress(make_tar())):
        with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
            read(archive, max_seconds=-1)


# Headers that ask for memory


def test_an_extended_header_without_end_is_not_read_into_memory(read: Read) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        endless = tar_header("x", 8 * 1024**3 - 1, kind)
        assert fates(read(endless + bytes(1000))) == {"archive": "damaged"}
        large = tar_header("x", 2 * MEGABYTE, kind) + bytes(2 * MEGABYTE)
        members = read(large + make_tar())
        assert fates(members) == {"owner-name-1a2b3c4/README.md": "unsupported"}
        assert len(good(members)) == len(GOOD) - 1


def test_extended_headers_without_number_are_bounded(read: Read) -> None:
    chain = tar_header("x", 0, tarfile.XHDTYPE) * 5000
    assert fates(read(chain + make_tar(), max_members=1000)) == {"archive": "refused"}


def test_extended_headers_that_make_no_sense(read: Read) -> None:
    for body in (
        b"99999999999999999999 path=x\n",
        b"-5 path=x\n",
        b"7 path",
        b"0 =\n",
        b"\xff" * 9,
    ):
        header = tar_header("x", len(body), tarfile.XHDTYPE) + body.ljust(512, b"\0")
        assert good(read(header + make_tar())) == GOOD


def test_an_extended_header_may_not_shrink_or_grow_the_size_unseen(read: Read) -> None:
    body = b"20 size=99999999999\n"
    header = tar_header("x", len(body), tarfile.XHDTYPE) + body.ljust(512, b"\0")
    members = read(header + make_tar())
    assert members[0].size == 99_999_999_999
    assert members[0].status == "damaged"


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11], ids=["negative", "huge"])
def test_a_size_that_no_file_has(read: Read, size: bytes) -> None:
    block = bytearray(tar_header("a", 0))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    members = read(bytes(block) + make_tar())
    assert fates(members) == {"archive": "damaged"}
    assert good(members) == GOOD


def test_windows_larger_than_memory_are_refused(read: Read) -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    archive = stream.compress(make_tar()) + stream.flush()
    assert set(fates(read(archive)).values()) <= {"refused", "damaged"}
    assert not good(read(archive))


def test_a_dictionary_larger_than_memory_is_not_made(read: Read) -> None:
    honest = make_zip({"a": b"abc" * 99}, zipfile.ZIP_LZMA)
    position = honest.index(b"\x05\x00\x5d") + 3
    huge = honest[:position] + b"\xff\xff\xff\xff" + honest[position + 4 :]
    assert good(read(huge)) == {"a": b"abc" * 99}


# Names


NAMES = {
    "../../../etc/passwd": "../../../etc/passwd",
    "/etc/passwd": "/etc/passwd",
    "a/../../b": "a/../../b",
    "..\\..\\win.ini": "..\\..\\win.ini",
    "C:\\win.ini": "C:\\win.ini",
    "\x1b[2Jcleared": "\\x1b[2Jcleared",
    "bell\x07\nline": "bell\\x07\\nline",
    "\u202egpj.exe": "\\u202egpj.exe",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "'; DROP TABLE files; --": "'; DROP TABLE files; --",
    "~/.bashrc": "~/.bashrc",
    "$(reboot)": "$(reboot)",
    "con": "con",
    " ": " ",
}


def test_no_name_writes_anything_and_every_content_is_read(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    files = {name: name.encode() for name in NAMES}
    for archive in (make_zip(files), make_tar(files)):
        path = inside / "archive"
        path.write_bytes(archive)
        found = good(list(read_members(path, name="archive")))
        assert found == {shown: name.encode() for name, shown in NAMES.items()}
        assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", inside, path]
        path.unlink()


def test_names_that_lead_out_or_cannot_be_shown_are_noted(read: Read) -> None:
    archive = make_zip(dict.fromkeys(NAMES, b""))
    notes = {one.path: one.reason for one in read(archive) if one.reason}
    assert set(notes) == {
        "../../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "\\x1b[2Jcleared",
        "bell\\x07\\nline",
        "\\u202egpj.exe",
    }


def test_every_path_can_be_stored(read: Read) -> None:
    hostile = b"\xff\xfe\x80 \xed\xa0\x80"
    archive = raw_zip(RawMember.of(hostile, b"1"), RawMember.of(hostile + b"2", b"2", flags=0x800))
    tar = bytearray(tar_header("x", 0))
    tar[0 : len(hostile)] = hostile
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar)
    for data in (archive, bytes(tar)):
        members = read(data)
        assert members
        for one in members:
            one.path.encode("utf-8")


def test_a_zero_byte_does_not_end_a_name(read: Read) -> None:
    assert set(good(read(raw_zip(RawMember.of(b"a.py\0.exe", b""))))) == {"a.py\\x00.exe"}


def test_a_later_member_of_the_same_path_is_a_duplicate(read: Read) -> None:
    twice = raw_zip(RawMember.of(b"a", b"first"), RawMember.of(b"a", b"second"))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for data in (b"first", b"second"):
            info = tarfile.TarInfo("a")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for archive in (twice, target.getvalue()):
        members = read(archive)
        assert [(one.status, one.data) for one in members] == [
            ("ok", b"first"),
            ("duplicate", None),
        ]


# What is no regular file


def test_links_and_devices_in_tar(read: Read) -> None:
    archive = tar_of(
        tar_info("to-passwd", tarfile.SYMTYPE, "/etc/passwd"),
        tar_info("d/climbs", tarfile.SYMTYPE, "../../x"),
        tar_info("d/inside", tarfile.SYMTYPE, "../README"),
        tar_info("hard", tarfile.LNKTYPE, "README"),
        tar_info("fifo", tarfile.FIFOTYPE),
        tar_info("char", tarfile.CHRTYPE),
        tar_info("block", tarfile.BLKTYPE),
        tar_info("label", b"V"),
    )
    assert fates(read(archive + make_tar())) == {
        "to-passwd": "refused",
        "d/climbs": "refused",
        "hard": "refused",
        "fifo": "refused",
        "char": "refused",
        "block": "refused",
    }


def test_links_and_devices_in_zip(read: Read) -> None:
    def unix(name: bytes, kind: int, data: bytes = b"") -> RawMember:
        return RawMember.of(name, data, made_by=UNIX, attributes=(kind | 0o777) << 16)

    archive = raw_zip(
        unix(b"link", stat.S_IFLNK, b"/etc/passwd"),
        unix(b"inside", stat.S_IFLNK, b"file"),
        unix(b"fifo", stat.S_IFIFO),
        unix(b"device", stat.S_IFCHR),
        unix(b"file", stat.S_IFREG, b"data"),
    )
    members = read(archive)
    assert good(members) == {"file": b"data"}
    assert fates(members) == {"link": "refused", "fifo": "refused", "device": "refused"}


@pytest.mark.parametrize("kind", ["old", "1.0", "endless", "huge"])
def test_maps_of_sparse_files_that_make_no_sense(read: Read, kind: str) -> None:
    if kind in {"old", "endless"}:
        block = bytearray(tar_header("sparse", 512, tarfile.GNUTYPE_SPARSE))
        block[482] = 1  # one more block of map
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        more = bytes(504) + b"\1" + bytes(7)
        archive = bytes(block) + (bytes(512) if kind == "old" else more * 3000) + bytes(512)
    else:
        records = {
            "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse"},
            "huge": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 18},
        }[kind]
        info = tarfile.TarInfo("sparse")
        info.pax_headers = records
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info)
        archive = target.getvalue()[:1536]
    members = read(archive + make_tar())
    fate = {"huge": "too_large"}.get(kind, "damaged")
    assert fates(members) == {"archive" if kind == "endless" else "sparse": fate}
    assert good(members) == GOOD


# Memory, for real


@pytest.mark.slow
def test_memory_is_bounded_by_none_of_what_an_archive_claims(tmp_path: Path) -> None:
    """Peak memory of a process that reads a million members and 8 GB of zeros."""
    archive = tmp_path / "million.zip"
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0
    )
    with archive.open("wb") as file:
        file.write(b"PK\x03\x04" + bytes(26))
        for start in range(0, 1_200_000, 10_000):
            file.write(b"".join(entry + b"%040d" % n for n in range(start, start + 10_000)))
        size = file.tell() - 30
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, 30, 0))
    zeros = tmp_path / "zeros.tar.gz"
    block = gzip.compress(bytes(50 * MEGABYTE), 1)
    zeros.write_bytes(gzip.compress(tar_header("x", 8 * 1024**3 - 1, tarfile.XHDTYPE)) + block * 20)
    large = tmp_path / "large.zip"
    with zipfile.ZipFile(large, "w") as stored:
        for number in range(5000):
            stored.writestr(f"{number}", random.Random(number).randbytes(100_000))
    script = textwrap.dedent(
        """
        import re, sys
        from pathlib import Path
        from zml_dask.fetch.unpack import read_members

        def peak():
            # Not ru_maxrss: that begins with what the tests' own process held.
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        before = peak()
        count = sum(1 for _ in read_members(Path(sys.argv[1]), name="a"))
        print(count, (peak() - before) // 1024)
        """
    )
    for path, count, most in ((archive, 1_000_001, 500), (zeros, 1, 100), (large, 5000, 150)):
        command = [sys.executable, "-c", script, str(path)]
        out = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
        assert int(out[0]) == count
        assert int(out[1]) < most, f"{path.name} takes {out[1]} MiB"
