"""Members of honest archives, of every kind that is read."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile

import pytest

from zml_dask.fetch import zip as zip_members
from zml_dask.fetch.member import Member

from .archives import COMPRESSIONS, GOOD, RawMember, make_tar, make_zip, raw_zip
from .conftest import Read, fates, good


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_zip_of_every_method(read: Read, method: int) -> None:
    members = read(make_zip(GOOD, method))
    assert good(members) == GOOD
    assert [one.path for one in members] == sorted(GOOD)
    assert all(one.size == len(GOOD[one.path]) for one in members)


def test_a_profiler_that_still_holds_a_frame_does_no_harm(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask's profiler may keep a call's frame, and with it a slice of the mapped archive."""
    held: list[object] = []
    unpack = zip_members.unpack_member

    def hold(body: memoryview, *rest: object) -> Member:
        held.append(body)
        return unpack(body, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(zip_members, "unpack_member", hold)
    assert good(read(make_zip(GOOD))) == GOOD
    assert len(held) == len(GOOD)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_under_every_compression(read: Read, compression: str, format: int) -> None:  # noqa: A002
    members = read(COMPRESSIONS[compression](make_tar(GOOD, format)))
    assert good(members) == GOOD
    assert [one.path for one in members] == list(GOOD)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_one_file_under_every_compression(read: Read, compression: str) -> None:
    data = b"subroutine s\nend\n"
    members = read(COMPRESSIONS[compression](data), name="s.f90" + compression)
    assert members == [Member("s.f90", len(data), data, "ok", None)]


def test_compressed_twice(read: Read) -> None:
    twice = COMPRESSIONS[".xz"](COMPRESSIONS[".gz"](make_tar()))
    assert good(read(twice)) == GOOD
    assert fates(read(twice, max_depth=1)) == {"archive": "unsupported"}


def test_several_frames_in_a_row(read: Read) -> None:
    for compression in (".gz", ".bz2", ".xz", ".zst"):
        squeeze = COMPRESSIONS[compression]
        raw = make_tar()
        assert good(read(squeeze(raw[:700]) + squeeze(raw[700:]))) == GOOD, compression


def test_a_bare_file_is_its_only_member(read: Read) -> None:
    assert read(b"x = 1\n", name="x.py") == [Member("x.py", 6, b"x = 1\n", "ok", None)]
    assert read(b"", name="nothing") == [Member("nothing", 0, b"", "ok", None)]


def test_size_at_the_limit_is_read_and_over_it_listed(read: Read) -> None:
    files = {"at": bytes(range(100)) * 1000, "over": b"x" * 100_001}
    over = "over the limit of 100,000 bytes"
    for archive in (make_zip(files), make_tar(files), gzip.compress(make_tar(files))):
        members = {one.path: one for one in read(archive)}
        assert members["at"].data == files["at"]
        assert members["over"] == Member("over", 100_001, None, "too_large", over)
    assert read(files["over"], name="over")[0].status == "too_large"
    assert read(gzip.compress(files["over"]), name="over.gz")[0].status == "too_large"


def test_names_are_not_asked_what_they_hold(read: Read) -> None:
    assert good(read(make_tar(), name="code.zip")) == GOOD
    assert good(read(make_zip(), name="code.tar.gz")) == GOOD


def test_insides_of_version_control_are_passed_over_and_nothing_else(read: Read) -> None:
    files = {
        f"top/{path}": b"x"
        for path in (".git/HEAD", "sub/.hg/store", ".svn/entries", ".gitignore", ".github/w.yml")
    } | {"x.github.io/index": b"x", ".git": b"gitdir: elsewhere"}
    for archive in (make_zip(files), make_tar(files)):
        assert set(good(read(archive))) == {
            "top/.gitignore",
            "top/.github/w.yml",
            "x.github.io/index",
            ".git",
        }


def test_folders_give_no_member(read: Read) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/", b"")
        archive.writestr("a/b", b"b")
    assert good(read(target.getvalue())) == {"a/b": b"b"}
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert read(target.getvalue()) == []


def test_git_archive_with_its_global_header(read: Read) -> None:
    target = io.BytesIO()
    headers = {"comment": "0123456789abcdef0123456789abcdef01234567"}
    with tarfile.open(fileobj=target, mode="w", pax_headers=headers) as tar:
        info = tarfile.TarInfo("name-1.0/a")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    assert target.getvalue()[156:157] == tarfile.XGLTYPE
    assert good(read(target.getvalue())) == {"name-1.0/a": b"a"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_tar(read: Read, format: int) -> None:  # noqa: A002
    files = {"d/" * 150 + "long": b"1", "ünï/цифра": b"2", "漢字" * 60: b"3"}
    assert good(read(make_tar(files, format))) == files


def test_names_that_are_no_utf8(read: Read) -> None:
    target = io.BytesIO()
    with tarfile.open(
        fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as tar:
        tar.addfile(tarfile.TarInfo("caf\xe9"))
    assert [one.path for one in read(target.getvalue())] == ["caf\xe9"]


def test_names_of_zip_in_every_encoding(read: Read) -> None:
    archive = raw_zip(
        RawMember.of(b"ascii", b"1"),
        RawMember.of("flagged-ü".encode(), b"2", flags=0x800),
        RawMember.of("unflagged-ü".encode(), b"3"),
        RawMember.of("dos-ü".encode("cp437"), b"4"),
        RawMember.of("lying-ü".encode("cp437"), b"5", flags=0x800),
    )
    assert good(read(archive)) == {
        "ascii": b"1",
        "flagged-ü": b"2",
        "unflagged-ü": b"3",
        "dos-ü": b"4",
        "lying-ü": b"5",
    }


def test_zip64_and_more_members_than_sixteen_bits_count(read: Read) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open("big", "w", force_zip64=True) as file:
            file.write(b"content")
        for number in range(65_600):
            archive.writestr(f"{number:06}", b"")
    members = read(target.getvalue())
    assert len(members) == 65_601
    assert good(members)["big"] == b"content"


def test_zip_after_something_else(read: Read) -> None:
    # A comment behind, and an offset that does not start at zero.
    target = io.BytesIO(make_zip())
    with zipfile.ZipFile(target, "a") as archive:
        archive.comment = b"PK\x05\x06 misleading" * 9
    assert good(read(target.getvalue())) == GOOD
    shifted = make_zip()[:4] + make_zip()
    assert good(read(shifted)) == GOOD


def test_office_documents_are_no_source(read: Read) -> None:
    document = make_zip({"[Content_Types].xml": b"<xml/>", "word/document.xml": b"<xml/>"})
    assert [one.path for one in read(document, name="paper.docx")] == ["paper.docx"]


def test_empty_archives(read: Read) -> None:
    assert read(make_zip({})) == []
    assert read(bytes(10_240))[0].status == "ok"  # zeros alone are no tar: a file of zeros
    assert read(gzip.compress(b""), name="e.gz") == [Member("e", 0, b"", "ok", None)]


def test_random_bytes_are_a_bare_file(read: Read) -> None:
    data = random.Random(1).randbytes(5000)
    assert good(read(data)) == {"archive": data}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x60\xea\x2b\0\x22", "ARJ"),
        (b"SIT!\0\1\0\0", "StuffIt"),
        (b"\x89LZO\0\r\n\x1a\n", "lzop"),
        (b"Salted__12345678", "encrypted"),
        (b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0", "SIF"),
        (b"\x7fELF\2\1\1\0AI\2", "AppImage"),
    ],
)
def test_known_and_not_read(read: Read, data: bytes, said: str) -> None:
    (member,) = read(data + bytes(100), name="code")
    assert (member.status, member.path) == ("unsupported", "code")
    assert said in str(member.reason)


@pytest.mark.parametrize(
    ("names", "codec"),
    [
        (["データ/実験結果.csv", "データ/解析.py", "表.txt"], "cp932"),
        (["数据/实验结果.csv", "数据/分析程序.py", "README"], "gbk"),
        (["Данные/результат.csv", "Данные/программа.py", "Данные/описание.txt"], "cp866"),
        (["Größe/Übersicht.txt", "é.py"], "cp437"),
        (["naïve/数据.py", "plain.py"], "utf-8"),
    ],
)
def test_names_of_a_zip_that_say_nothing_of_their_encoding(
    read: Read, names: list[str], codec: str
) -> None:
    archive = raw_zip(*(RawMember.of(name.encode(codec), b"x\n") for name in names))
    assert sorted(member.path for member in read(archive)) == sorted(names)
