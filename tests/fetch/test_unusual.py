"""Archives as unusual tools, servers and people make them: encoded, sparse, nested, misnamed."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from zml_dask.fetch.fetched import FetchedArchive, FetchedRecord
from zml_dask.fetch.unpack import is_text

from .archives import GOOD, RawMember, make_tar, make_zip, raw_zip, tar_info
from .conftest import Read, fates, good, reason_of

PY = b"x = 1\n"
SCRIPT = b"#!/bin/sh\n# unpacks itself\nexit 0\n"


def uuencoded(data: bytes) -> bytes:
    lines = (binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45))
    return b"begin 644 code.tar.gz\n" + b"".join(lines) + b"`\nend\n"


@pytest.mark.parametrize("prefix", [b"", SCRIPT, SCRIPT.replace(b"\n", b"\r\n")])
@pytest.mark.parametrize("how", ["uuencode", "base64", "uuencode -m", "makeself --base64"])
def test_archives_in_letters(read: Read, how: str, prefix: bytes) -> None:
    packed = gzip.compress(make_tar())
    data = {
        "uuencode": uuencoded(packed),
        "base64": base64.encodebytes(packed),
        "uuencode -m": b"begin-base64 644 code\n" + base64.encodebytes(packed) + b"====\n",
        "makeself --base64": base64.encodebytes(make_tar()),
    }[how]
    data += b"EOF\nexit 0\n" if prefix else b""
    assert good(read(prefix + data)) == GOOD
    assert good(read(prefix + data.replace(b"\n", b"\r\n"))) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(range(256)) * 9),
        uuencoded(b"\x89PNG\r\n" + bytes(500)),
        b"x = 1\n" * 900 + base64.encodebytes(gzip.compress(make_tar())),
        b"begin 644 nothing\nend\n",
    ],
    ids=["certificate", "picture", "a little of much", "empty"],
)
def test_texts_with_letters_that_are_no_archive(read: Read, text: bytes) -> None:
    members = read(text)
    assert good(members) == {"archive": text}
    assert is_text(members[0])


@pytest.mark.parametrize("prefix", [b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", b": \nexit 0\n"])
def test_what_precedes_an_archive_may_be_any_text(read: Read, prefix: bytes) -> None:
    assert good(read(prefix + gzip.compress(make_tar()))) == GOOD


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(read: Read, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    for name, size in (("small.txt", 60_000), ("large.txt", 200_000)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
            for at in range(0, 60_000, 8192):
                file.seek(at)
                file.write(b"text\n")
    pax = [] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    subprocess.run(["tar", "-S", *pax, "-cf", "../a.tar", "."], cwd=folder, check=True)
    content = (folder / "small.txt").read_bytes()
    shutil.rmtree(folder)
    (tmp_path / "a.tar").rename(tmp_path / "archive")
    members = read((tmp_path / "archive").read_bytes())
    assert good(members) == {"./small.txt": content}
    assert [(one.size, one.status) for one in members if one.path == "./large.txt"] == [
        (200_000, "too_large")
    ]


def test_a_hard_link_may_bring_its_content(read: Read) -> None:
    link = tar_info("b.py", tarfile.LNKTYPE, "a.py")
    link.size = len(PY)
    block = link.tobuf(tarfile.USTAR_FORMAT)
    archive = make_tar({"a.py": PY})
    assert good(read(block + PY.ljust(512, b"\0") + archive)) == {"a.py": PY, "b.py": PY}
    assert good(read(block + archive)) == {"a.py": PY}


def test_archives_within_that_are_larger_than_what_is_around_them(read: Read) -> None:
    files = {f"f{number}.py": b"x = 1\n" * 200 for number in range(30)}
    within = make_zip(files, zipfile.ZIP_STORED)
    found = {f"a.zip/{path}": data for path, data in files.items()}
    assert good(read(make_zip({"a.zip": within}))) == found
    assert good(read(gzip.compress(make_tar({"a.zip": within})))) == found
    assert good(read(gzip.compress(within))) == files


def test_a_zip_file_behind_another_hides_it_not(read: Read) -> None:
    both = make_zip({"a.py": PY}) + make_zip({"b.py": PY, "c.py": PY})
    assert good(read(both)) == {"a.py": PY, "b.py": PY, "c.py": PY}
    assert "another zip file comes before it" in reason_of(read, both, "archive")


@pytest.mark.parametrize(
    ("names", "codec"),
    [
        (["说明", "程序"], "gbk"),
        (["説明書", "ソース"], "cp932"),
        (["설명서"], "cp949"),
        (["Übung", "données"], "cp1252"),
    ],
)
def test_names_in_other_encodings(read: Read, names: list[str], codec: str) -> None:
    paths = [f"p/{name}.py" for name in names]
    members = read(raw_zip(*(RawMember.of(path.encode(codec), PY) for path in paths)))
    assert sorted(good(members)) == sorted(paths)
    paths = ["-".join(names), *paths]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding=codec) as tar:
        for path in paths:
            tar.addfile(tar_info(path, tarfile.REGTYPE))
    assert sorted(good(read(target.getvalue()))) == sorted(paths)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_names_in_other_encodings_within_foreign_archives(read: Read, tmp_path: Path) -> None:
    names = ["説明書.py", "ソース.py", "日本語.py"]
    folder = tmp_path / "made"
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name.encode("cp932"))).write_bytes(PY)
    packed = subprocess.run(
        "find . -type f | cpio -o --quiet -H newc", shell=True, cwd=folder, capture_output=True
    ).stdout
    shutil.rmtree(folder)
    assert set(good(read(packed))) == set(names)


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")
def test_an_image_of_a_disc_within_an_archive(read: Read, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "a.py").write_bytes(PY)
    subprocess.run(["bsdtar", "--format=iso9660", "-cf", "d.iso", "a.py"], cwd=folder, check=True)
    disc = (folder / "d.iso").read_bytes()
    shutil.rmtree(folder)
    assert good(read(make_zip({"d.iso": disc}))) == {"d.iso/a.py": PY}
    members = read(make_zip({"d.iso": bytes(200_000)}))
    assert fates(members) == {"d.iso": "too_large"}


@pytest.mark.parametrize("n_padding", [0, 200_000])
@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("code.zip", b"\x8b\x05\x80abc\x00\x01\x02\x03", "its name says that it is an archive"),
        ("disc.dmg", b"\x78\x01\x63\x00\x00koly\xff", "its name says that it is an archive"),
        ("code.tar.gz", b"<!DOCTYPE html>\n<title>Log in</title>\n", "a web page"),
        ("code.zip", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("code.zip", b'{"message": "Bad credentials"}\n', "a text stands in its place: '{"),
        ("code.tar.gz", b"404: Not Found\n", "a text stands in its place: '404: Not"),
        ("code.zip", bytes(600), "its name says that it is an archive"),
    ],
)
def test_what_is_no_archive_but_named_as_one(
    read: Read, name: str, data: bytes, said: str, n_padding: int
) -> None:
    members = read(data + b"~" * n_padding, name=name)
    assert fates(members) == {name: "damaged"}
    assert said in str(members[0].reason)
    assert fates(read(data, name="code.dat")) == {}


def test_an_archive_of_no_bytes_is_damaged(read: Read) -> None:
    (member,) = read(b"", name="code.zip")
    assert (member.status, member.reason) == ("damaged", "it is empty")
    assert fates(read(bytes(10_240), name="code.tar")) == {}


def test_a_record_of_encrypted_archives_alone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for name in ("code.tar.gz.gpg", "code.zip"):
        path.write_bytes(make_zip({name: b"\x85" + bytes(range(256)), "logo.png": b"\x89PNG\0"}))
        record = FetchedRecord("zenodo", (FetchedArchive("a.zip", path, 9, None, "zip"),))
        assert str(record.lost()).startswith(f"('{name}: its name says")
        path.write_bytes(make_zip({name: b"\x85" + bytes(range(256)), "a.py": PY}))
        assert record.lost() is None


def test_a_window_too_large_for_the_memory_is_named(read: Read, tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs zstd")
    packed = subprocess.run(
        ["zstd", "--long=31", "-q"], input=make_tar(), capture_output=True, check=True
    ).stdout
    assert "too much memory" in reason_of(read, packed, "archive")
