"""Archives that are not as the standard says, and are read all the same.

Prefixed, padded, shifted, split, made on DOS or macOS, with fields that make no sense:
each kind was met in public reports, and each is one mechanism, tried on several members.
"""

from __future__ import annotations

import binascii
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from zml_dask.fetch.unpack import kind_of, read_members

from .archives import COMPRESSIONS, GOOD, RawMember, make_tar, make_zip, raw_zip, tar_info, tar_of
from .conftest import Read, fates, good, reason_of

SKIPPABLE = struct.pack("<II", 0x184D2A57, 3) + b"abc"
PY = b"x = 1\n"


def header(
    name: bytes, data: bytes = PY, *, magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """An entry of a tar, any field of which may hold anything."""
    places = {
        "mode": 100, "uid": 108, "gid": 116, "mtime": 136, "devmajor": 329, "devminor": 337,
        "prefix": 345,
    }  # fmt: skip
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"%011o\0" % len(data)
    block[156:157] = b"0"
    block[257 : 257 + len(magic)] = magic
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    return checked(block) + data + bytes(-len(data) % 512)


def checked(block: bytearray, *, signed: bool = False) -> bytes:
    block[148:156] = b" " * 8
    total = sum(struct.unpack("512b" if signed else "512B", bytes(block)))
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


END = bytes(1024)


# A. A fault costs only what it touches


@pytest.mark.parametrize(
    "fields",
    [
        {"mtime": b"garbage!!!!!"},
        {"mtime": b"\x80" + b"\xff" * 11, "uid": b"\xff" * 8},
        {"mode": b"rw-r--r-", "gid": b"-1     \0"},
        {"devmajor": b"????????", "devminor": b"\x01\x02\x03"},
    ],
)
def test_fields_that_reading_does_not_need_may_be_anything(
    read: Read, fields: dict[str, bytes]
) -> None:
    members = read(header(b"a.py", **fields) + header(b"b.py") + END)
    assert good(members) == {"a.py": PY, "b.py": PY}
    assert fates(members) == {}


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_size_that_makes_no_sense_on_what_has_no_content(read: Read, kind: bytes) -> None:
    block = bytearray(tar_of(tar_info("odd", kind, "a.py"))[:512])
    block[124:136] = b"not a size\0\0"
    members = read(header(b"a.py") + checked(block) + header(b"b.py") + END)
    assert good(members) == {"a.py": PY, "b.py": PY}


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst", ".lzma"])
@pytest.mark.parametrize("junk", [b"\r\n", b"junk\n" * 99, b"\x1f\x8b", b"\0\0\0x"])
def test_bytes_behind_one_compressed_file_are_noted(
    read: Read, compression: str, junk: bytes
) -> None:
    pack = COMPRESSIONS.get(compression, lambda data: lzma.compress(data, lzma.FORMAT_ALONE))
    (member,) = read(pack(PY) + junk, name=f"A.PY{compression.upper()}")
    assert (member.path, member.status, member.data) == ("A.PY", "ok", PY)
    assert "other bytes follow" in str(member.reason)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_bytes_behind_a_compressed_tar_are_noted(read: Read, compression: str) -> None:
    members = read(COMPRESSIONS[compression](make_tar()) + b"<html>error</html>")
    assert good(members) == GOOD
    assert fates(members) == {"archive": "damaged"}
    assert "other bytes follow" in str(members[-1].reason)


def test_zeros_behind_a_compressed_file_need_no_note(read: Read) -> None:
    for pack in COMPRESSIONS.values():
        if pack(b"") != b"":
            assert read(pack(PY) + bytes(5000), name="a.py")[0].reason is None


# B. Recognised by more than the first bytes


PREFIXES = {
    "zipapp": b"#!/usr/bin/env python3\n",
    "self-extracting": b"MZ" + bytes(3000),
    "shell": b"#!/bin/sh\nexec unzip $0\n" * 400,
    "newline": b"\r\n",
    "image": b"\x89PNG\r\n\x1a\n" + bytes(200_000),
    "crx": b"Cr24\3\0\0\0\4\0\0\0abcd",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("is_shifted", [True, False])
def test_a_zip_file_behind_anything(read: Read, prefix: str, is_shifted: bool) -> None:
    if is_shifted:
        data = PREFIXES[prefix] + make_zip()
    else:
        target = io.BytesIO()
        target.write(PREFIXES[prefix])
        with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in GOOD.items():
                archive.writestr(name, content)
        data = target.getvalue()
    members = read(data)
    assert good(members) == GOOD
    assert fates(members) == {}


SCRIPT = b"#!/bin/sh\ntail -n+3 $0 | tar -x; exit\n"


@pytest.mark.parametrize(
    "before", [SCRIPT, b"\n", b"\r\n", b"\xef\xbb\xbf", SCRIPT + b"#" * 99_000 + b"\n"]
)
@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_tar_behind_a_script_or_what_a_server_put_first(
    read: Read, before: bytes, compression: str
) -> None:
    members = read(before + COMPRESSIONS[compression](make_tar()))
    assert good(members) == GOOD
    assert fates(members) == {}


@pytest.mark.parametrize(
    "text", [SCRIPT, SCRIPT + b"ustar  \n" * 99, b"\n\nimport os\n", b"MZ = 1\n"]
)
def test_texts_that_begin_so_are_texts(read: Read, text: bytes) -> None:
    assert good(read(text)) == {"archive": text}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("blocks", [1, 2, 20])
def test_a_tar_behind_empty_blocks(read: Read, compression: str, blocks: int) -> None:
    assert good(read(COMPRESSIONS[compression](bytes(512 * blocks) + make_tar()))) == GOOD
    (member,) = read(bytes(512 * blocks))
    assert (member.path, member.status) == ("archive", "ok")


@pytest.mark.parametrize("marker", [b"PK00", b"PK\7\x08"])
def test_the_marker_of_a_split_archive(read: Read, marker: bytes) -> None:
    assert good(read(marker + make_zip())) == GOOD
    whole = marker + make_zip(GOOD, zipfile.ZIP_STORED)
    cut = read(whole[: whole.index(b"PK\x01\x02")])
    assert good(cut) == GOOD
    assert fates(cut) == {"archive": "damaged"}


@pytest.mark.parametrize("place", ["first", "between", "only"])
def test_skippable_frames_of_zstd(read: Read, place: str) -> None:
    raw = make_tar()
    parts = [zstandard.compress(raw[:3000]), zstandard.compress(raw[3000:])]
    data = {
        "first": SKIPPABLE + b"".join(parts),
        "between": parts[0] + SKIPPABLE * 3 + parts[1] + SKIPPABLE,
        "only": struct.pack("<II", 0x184D2A50, 4000) + bytes(4000) + b"".join(parts),
    }[place]
    assert good(read(data)) == GOOD


def test_lzma_alone_with_and_without_its_size(read: Read) -> None:
    for preset in (0, 6, 9):
        packed = lzma.compress(make_tar(), lzma.FORMAT_ALONE, preset=preset)
        assert good(read(packed)) == GOOD
        sized = packed[:5] + struct.pack("<Q", len(make_tar())) + packed[13:]
        assert good(read(sized)) == GOOD


@pytest.mark.parametrize("name", [b"proj\xe9/a.py", "projé/a.py".encode(), b"\xff\xfe.py"])
def test_old_tars_with_signed_checksums(read: Read, name: bytes) -> None:
    block = bytearray(header(name, magic=bytes(8))[:512])
    signed = checked(block, signed=True) + PY + bytes(506)
    members = read(signed + header(b"b.py", magic=bytes(8)) + END)
    assert sorted(good(members).values()) == [PY, PY]
    assert fates(members) == {}


OFFICE = {
    "docx": ["[Content_Types].xml", "_rels/.rels", "word/document.xml", "docProps/app.xml"],
    "xlsx": ["_rels/.rels", "xl/workbook.xml", "xl/sheet1.xml", "[Content_Types].xml"],
    "pptx": ["[Content_Types].xml", "ppt/presentation.xml", "ppt/slides/slide1.xml"],
    "epub": ["META-INF/container.xml", "OEBPS/content.opf", "OEBPS/one.xhtml"],
}
CODE = {
    "mltbx": ["[Content_Types].xml", "_rels/.rels", "metadata/a.xml", "fsroot/a.m"],
    "vsix": ["extension.vsixmanifest", "[Content_Types].xml", "extension/src/a.js"],
    "nupkg": ["_rels/.rels", "[Content_Types].xml", "lib/a.cs", "x.nuspec"],
    "library": ["word/document.xml", "[Content_Types].xml", "a.py", "b.py", "c.py", "d/e.py"],
    "epub-maker": ["src/META-INF/container.xml", "src/content.opf", "src/a.py"],
}


@pytest.mark.parametrize("kind", [*OFFICE, "odt", "epub-first"])
def test_documents_are_one_file(tmp_path: Path, kind: str) -> None:
    names = OFFICE.get(kind, ["mimetype", "content.xml"])
    files = dict.fromkeys(names, b"<xml/>")
    if "mimetype" in files:
        what = "vnd.oasis.opendocument.text" if kind == "odt" else "epub+zip"
        files["mimetype"] = b"application/" + what.encode()
    (tmp_path / "d").write_bytes(make_zip(files, zipfile.ZIP_STORED))
    assert kind_of(tmp_path / "d") == "bare"
    assert [one.path for one in read_members(tmp_path / "d", name=f"d.{kind}")] == [f"d.{kind}"]


@pytest.mark.parametrize("kind", CODE)
def test_toolboxes_and_extensions_are_archives(read: Read, kind: str) -> None:
    files = dict.fromkeys(CODE[kind], PY)
    assert good(read(make_zip(files))) == files


# C. Where things are, and not where the directory says


def rebuilt(
    change: Callable[[bytes, bytes, list[int]], tuple[bytes, bytes, list[int]]], size: int = 0
) -> bytes:
    """A zip whose bodies, directory, or end record's fields (size, offset) are changed."""
    whole = make_zip()
    start, end = whole.index(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    fields = [len(whole[start:end]) + size, start]
    bodies, directory, fields = change(whole[:start], whole[start:end], fields)
    record = whole[end : end + 12] + struct.pack("<LL", *fields) + b"\0\0"
    return bodies + directory + record


WHERE = {
    "signed": lambda b, d, f: (b, d + struct.pack("<4sH", b"PK\5\5", 9) + bytes(9), f),
    "signed, and counted": lambda b, d, f: (
        b, d + struct.pack("<4sH", b"PK\5\5", 9) + bytes(9), [f[0] + 15, f[1]],
    ),
    "gap": lambda b, d, f: (b, d + bytes(64), f),
    "gap, counted": lambda b, d, f: (b, d + bytes(64), [f[0] + 64, f[1]]),
    "size too low": lambda b, d, f: (b, d, [f[0] - 10, f[1]]),
    "size too high": lambda b, d, f: (b, d, [f[0] + 17, f[1]]),
    "offset wrong": lambda b, d, f: (b, d, [f[0], 12]),
    "begin cut off": lambda b, d, f: (b[7:], d, f),
    "gap before the directory": lambda b, d, f: (b + bytes(100), d, f),
    "wrapped": lambda b, d, f: (b, d, [f[0], (f[1] - 5) % 2**32]),
}  # fmt: skip


@pytest.mark.parametrize("how", WHERE)
def test_directories_that_are_elsewhere(read: Read, how: str) -> None:
    members = read(rebuilt(WHERE[how]))
    found = good(members)
    if how == "begin cut off":  # its first header is gone
        assert found.items() <= GOOD.items()
        assert len(found) == len(GOOD) - 1
    else:
        assert found == GOOD
        assert fates(members) == {}


@pytest.mark.parametrize("padding", [1, 512, 200_000])
def test_zeros_behind_a_zip_file(read: Read, padding: int) -> None:
    assert good(read(make_zip() + bytes(padding))) == GOOD


def test_a_directory_that_is_nowhere_is_done_without(read: Read) -> None:
    members = read(rebuilt(lambda b, _d, _f: (b, b"nothing of use", [14, len(b)])))
    assert good(members) == GOOD
    assert fates(members) == {"archive": "damaged"}


def test_a_damaged_member_costs_the_salvage_nothing_else(read: Read) -> None:
    whole = bytearray(make_zip(GOOD, zipfile.ZIP_STORED))
    cut = whole[: whole.index(b"PK\x01\x02")]
    at = cut.index(b"owner-name-1a2b3c4/src/a.py") - 30
    cut[at + 18 : at + 22] = b"\x01\0\0\x70"  # its packed size leads far out of the file
    members = read(bytes(cut))
    assert set(good(members)) == set(GOOD) - {"owner-name-1a2b3c4/src/a.py"}


def streamed(files: dict[str, bytes], method: int) -> tuple[bytes, list[RawMember], list[int]]:
    """Entries of a zip file whose sizes come behind; with their members and offsets."""
    entries, members, offsets = b"", [], []
    for name, data in files.items():
        member = RawMember.of(name.encode(), data)
        body = member.body if method else data
        offsets.append(len(entries))
        members.append(replace(member, body=body))
        entries += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, 8, method, 0, 0, 0, 0, 0, len(member.name), 0
        ) + member.name + body + struct.pack(
            "<4s3L", b"PK\7\x08", member.crc, len(body), len(data)
        )  # fmt: skip
    return entries, members, offsets


@pytest.mark.parametrize("method", [0, 8])
def test_a_cut_zip_whose_sizes_come_behind(read: Read, method: int) -> None:
    assert good(read(streamed(GOOD, method)[0])) == GOOD


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("kept", ["", "crc", "crc packed", "crc size"])
def test_a_streamed_zip_whose_directory_says_0_bytes(read: Read, method: int, kept: str) -> None:
    files = GOOD | {"empty.py": b"", "z\u00e9.py": PY * 99}
    body, members, offsets = streamed(files, method)
    directory = b""
    for member, offset in zip(members, offsets, strict=True):
        stated = {"crc": member.crc, "packed": len(member.body), "size": member.size}
        crc, packed, size = (value * (key in kept.split()) for key, value in stated.items())
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 8, method, 0, 0, crc, packed, size,
            len(member.name), 0, 0, 0, 0, 0, offset,
        ) + member.name  # fmt: skip
    n = len(members)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n, n, len(directory), len(body), 0)
    members_read = read(body + directory + end)
    assert good(members_read) == files
    assert len(members_read) == n


@pytest.mark.slow
@pytest.mark.parametrize("n_shifts", [1, 2])
def test_offsets_wrapped_at_4_gib(tmp_path: Path, n_shifts: int) -> None:
    """As the Archive Utility of macOS writes: no zip64, everything modulo 2**32."""
    path = tmp_path / "large.zip"
    entries: list[tuple[bytes, int, int, int]] = []
    with path.open("wb") as file:

        def add(name: bytes, data: bytes | None, size: int = 0) -> None:
            offset, crc = file.tell(), binascii.crc32(data or b"")
            size = len(data) if data is not None else size
            low = size & 0xFFFFFFFF
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 10, 0, 0, 0, 0, crc, low, low,
                                   len(name), 0) + name)  # fmt: skip
            if data is None:
                file.seek(size, 1)
            else:
                file.write(data)
            entries.append((name, crc, low, offset))

        add(b"early.py", PY)
        for number in range(n_shifts):
            add(b"%d.bin" % number, None, 4 * 1024**3 + 7_000_000)
            add(b"late-%d.py" % number, PY + b"%d\n" % number)
        start = file.tell()
        for name, crc, low, offset in entries:
            file.write(struct.pack("<4s6H3L5H2L", b"PK\1\2", 0x1315, 10, 0, 0, 0, 0, crc, low, low,
                                   len(name), 0, 0, 0, 0, 0o100644 << 16, offset & 0xFFFFFFFF)
                       + name)  # fmt: skip
        size = file.tell() - start
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(entries), len(entries), size,
                               start & 0xFFFFFFFF, 0))  # fmt: skip
    members = list(read_members(path, name="large.zip"))
    late = {f"late-{number}.py": PY + b"%d\n" % number for number in range(n_shifts)}
    assert good(members) == {"early.py": PY} | late


def test_more_entries_than_sixteen_bits_without_zip64(read: Read) -> None:
    members = [RawMember(b"%06d" % number, b"", 0, 0, 0) for number in range(65_540)]
    whole = bytearray(raw_zip(*members))
    whole[-14:-10] = struct.pack("<2H", 4, 4)
    assert len(good(read(bytes(whole)))) == 65_540


# E. Made on Windows and on macOS


def test_backslashes_of_dos_tools_are_separators(read: Read) -> None:
    names = [b"p\\", b"p\\src\\a.f90", b"p\\Makefile", b"p\\.git\\HEAD", b"p\\CVS\\Root"]
    for made_by in (0x0014, 0x0A14, 0x0B14, 0x0E14):
        archive = raw_zip(*(RawMember.of(name, PY, made_by=made_by) for name in names[1:]),
                          RawMember.of(names[0], b"", made_by=made_by))  # fmt: skip
        expected = {"p/src/a.f90", "p/Makefile"}
        if made_by == 0x0B14:  # MVS, where a backslash is a character
            expected = {name.decode() for name in names}
        assert set(good(read(archive))) == expected, hex(made_by)


def test_backslashes_beside_a_slash_or_from_unix_are_characters(read: Read) -> None:
    for archive in (
        raw_zip(RawMember.of(b"a\\b", PY, made_by=20), RawMember.of(b"c/d", PY, made_by=20)),
        raw_zip(RawMember.of(b"a\\b", PY, made_by=3 << 8)),
        raw_zip(RawMember.of(b"a\\b", PY, made_by=20), RawMember.of(b"c/", b"", made_by=20)),
    ):
        assert "a\\b" in good(read(archive))


def test_folders_by_their_attribute_alone(read: Read) -> None:
    def folder(name: bytes, made_by: int, attributes: int) -> RawMember:
        return RawMember.of(name, b"", made_by=made_by, attributes=attributes)

    archive = raw_zip(
        folder(b"dos", 20, 0x10),
        folder(b"ntfs", 0x0A14, 0x30),
        folder(b"unix", 3 << 8, 0o040755 << 16),
        folder(b"macos", 19 << 8, 0o040755 << 16 | 0x10),
        folder(b"unmarked", 20, 0),
        RawMember.of(b"unmarked/b/c.py", PY, made_by=20, attributes=0x20),
        RawMember.of(b"unmarked-", b"", made_by=20, attributes=0x20),  # an empty file
        RawMember.of(b"file", PY, made_by=20, attributes=0x10),  # it has content
        RawMember.of(b"dos/a.py", PY, made_by=20, attributes=0x20),
    )
    members = read(archive)
    expected = {"file": PY, "dos/a.py": PY, "unmarked/b/c.py": PY, "unmarked-": b""}
    assert good(members) == expected
    assert len(members) == 4


@pytest.mark.parametrize("kind", [0o04, 0o01, 0o14, 0o17, 0o05])
def test_what_has_content_is_a_file_whatever_its_mode_says(read: Read, kind: int) -> None:
    mode = kind << 12 | 0o644
    member = RawMember.of(b"a.py", PY, made_by=3 << 8, attributes=mode << 16)
    assert good(read(raw_zip(member))) == {"a.py": PY}


@pytest.mark.parametrize("host", [0, 3, 7, 10, 14, 19, 30])
def test_links_of_every_system(read: Read, host: int) -> None:
    def link(name: bytes, target: bytes) -> RawMember:
        mode = (stat.S_IFLNK | 0o777) << 16
        return RawMember.of(name, target, made_by=host << 8, attributes=mode)

    archive = raw_zip(link(b"in", b"a.py"), link(b"out", b"/etc/passwd"), RawMember.of(b"a.py", PY))
    members = read(archive)
    assert good(members) == {"a.py": PY}
    assert fates(members) == {"out": "refused"}


def test_links_as_windows_marks_them(read: Read) -> None:
    archive = raw_zip(RawMember.of(b"out", b"..\\..\\x", made_by=20, attributes=0x400),
                      RawMember.of(b"a.py", PY))  # fmt: skip
    assert good(read(archive)) == {"a.py": PY}


# F. Everything has a row, and every reason is true


@pytest.mark.parametrize("gap", [0, 512, 9_216, 2_000_000 // 512 * 512])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_a_second_tar_behind_the_first(read: Read, gap: int, compression: str) -> None:
    first, second = make_tar({"a.py": PY}), make_tar({"b.py": PY})
    members = read(COMPRESSIONS[compression](first + bytes(gap) + second))
    assert good(members) == {"a.py": PY, "b.py": PY}
    assert fates(members) == {}


def test_data_behind_a_lone_empty_block(read: Read) -> None:
    for lone in (bytes(512), bytes(512 * 3)):
        members = read(header(b"a.py") + lone + header(b"b.py") + lone + header(b"c.py") + END)
        assert set(good(members)) == {"a.py", "b.py", "c.py"}
        assert fates(members) == {}
    members = read(header(b"a.py") + END + b"something else" * 100 + bytes(5000))
    assert fates(members) == {"archive": "damaged"}
    assert reason_of(read, header(b"a.py") + END + b"!" * 600, "archive").startswith("other bytes")
    resumed = read(header(b"a.py") + END + b"!" * 512 + header(b"b.py") + END)
    assert set(good(resumed)) == {"a.py", "b.py"}
    assert fates(resumed) == {"archive": "damaged"}


def test_reasons_of_hard_links(read: Read) -> None:
    links = tar_of(
        tar_info("here", tarfile.LNKTYPE, "./a.py"),
        tar_info("again", tarfile.LNKTYPE, "here"),
        tar_info("lost", tarfile.LNKTYPE, "nowhere.py"),
        tar_info("hidden", tarfile.LNKTYPE, ".git/config"),
    )
    members = read(header(b"a.py") + header(b".git/config") + links)
    reasons = {one.path: str(one.reason) for one in members if one.status == "refused"}
    assert "which is listed" in reasons["here"]
    assert "which is listed" in reasons["again"]
    assert "does not come before it" in reasons["lost"]
    assert "does not come before it" in reasons["hidden"]


def test_kinds_of_entries_that_nobody_knows_are_files_and_labels_are_none(read: Read) -> None:
    def kind(name: bytes, letter: bytes) -> bytes:
        block = bytearray(header(name)[:512])
        block[156:157] = letter
        return checked(block) + PY + bytes(506)

    label = tar_info("LABEL", b"V").tobuf(tarfile.GNU_FORMAT)
    members = read(label + b"".join(kind(letter, letter) for letter in (b"Z", b"8", b"?")) + END)
    assert good(members) == {"Z": PY, "8": PY, "?": PY}
    assert len(members) == 3
    for letter in (b"D", b"N", b"A", b"E"):
        about = kind(b"a.py", letter)
        assert good(read(about + header(b"a.py") + END)) == {"a.py": PY}


def test_the_first_header_of_a_tar_is_damaged(read: Read) -> None:
    archive = bytearray(header(b"a.py") + header(b"b.py") + END)
    archive[150] ^= 1
    for packed in (bytes(archive), gzip.compress(archive)):
        members = read(packed, name="code.tar.gz")
        assert good(members) == {"b.py": PY}
        assert fates(members) == {"code.tar.gz": "damaged"}


def test_fields_of_a_zip_that_lie(read: Read) -> None:
    def path(text: bytes, of: bytes) -> bytes:
        return struct.pack("<HHBL", 0x7075, 5 + len(text), 1, binascii.crc32(of)) + text

    broken = struct.pack("<HH", 0x5455, 12_374) + b"abcdefgh"
    names = {
        b"caf\x82.py": path("né.py".encode(), b"caf\x82.py"),  # believed
        b"r\x82sum\x82.py": path(b"other.py", b"before.py"),  # left from before it was renamed
        b"c.py": broken,
    }
    archive = raw_zip(*(RawMember.of(name, PY, extra=extra) for name, extra in names.items()))
    assert good(read(archive)) == {"né.py": PY, "résumé.py": PY, "c.py": PY}
    whole = make_zip()
    end = whole.rindex(b"PK\5\6")
    for lying in (
        whole[: end + 8] + bytes(4) + whole[end + 12 :],  # no entries
        whole[: end + 8] + b"\x63\0\x63\0" + whole[end + 12 :],  # 99 entries
        whole[: end + 20] + b"\x10\0cut",  # a comment that is cut off
        whole[: end + 20] + b"\x01\0longer",
        whole + b"<html>error</html>" * 99,
    ):
        members = read(lying)
        assert good(members) == GOOD
        assert fates(members) == {}


def test_the_prefix_of_old_gnu_tars_holds_times(read: Read) -> None:
    old = header(b"a.py", magic=b"ustar  \0", prefix=b"14000000000\x0014000000000\0")
    posix = header(b"b.py", magic=b"ustar\x0000", prefix=b"folder")
    assert set(good(read(old + posix + END))) == {"a.py", "folder/b.py"}


# I. Folders of version control systems


def test_folders_of_other_version_control_systems(read: Read) -> None:
    files = {
        f"top/{path}": PY
        for path in ("CVS/Entries", ".bzr/x", "_darcs/y", ".jj/z", "a/CVS/Root", "CVS.py",
                     "my_darcs/a", "CVSROOT/modules", ".bzrignore")
    }  # fmt: skip
    for archive in (make_zip(files), make_tar(files)):
        assert set(good(read(archive))) == {
            "top/CVS.py", "top/my_darcs/a", "top/CVSROOT/modules", "top/.bzrignore",
        }  # fmt: skip


# What an archive may cost, in images too


def test_lines_are_bounded_in_proportion_to_the_archive(read: Read) -> None:
    files = {f"{number:04}": b"a\n" * 50_000 for number in range(400)}
    members = read(make_zip(files))
    lines = sum(data.count(b"\n") for data in good(members).values())
    assert 4_000_000 <= lines <= 4_100_000 * 2
    assert set(fates(members).values()) == {"refused"}
    assert "too many for its size" in str(members[-1].reason)
    tar = gzip.compress(make_tar(files))
    assert "refused" in fates(read(tar)).values()


def test_members_that_overlap_are_read_once(read: Read) -> None:
    body = RawMember.of(b"0", b"x = 1\n" * 10_000 + bytes(range(200)) * 20)
    shared = [RawMember(b"%d" % n, body.body, body.size, body.crc, local=False, offset=0)
              for n in range(1, 3000)]  # fmt: skip
    members = read(raw_zip(body, *shared))
    assert "its members overlap one another" in {one.reason for one in members}
    assert 1 <= len(good(members)) < 1000


def test_lzma_with_other_settings_than_the_usual(read: Read) -> None:
    filters = [{"id": lzma.FILTER_LZMA1, "lc": 2, "lp": 2, "pb": 1, "dict_size": 2**20}]
    packed = lzma.compress(make_tar(), lzma.FORMAT_ALONE, filters=filters)
    assert packed[0] != 0x5D
    assert good(read(packed)) == GOOD
