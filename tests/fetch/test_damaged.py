"""Archives that are damaged, cut short or locked: what can be read of them is."""

from __future__ import annotations

import io
import lzma
import os
import random
import zipfile
from dataclasses import replace

import pytest
import zstandard

from .archives import (
    COMPRESSIONS,
    GOOD,
    RawMember,
    make_tar,
    make_zip,
    raw_zip,
    tar_header,
)
from .conftest import Read, fates, good, reason_of

# Members that cannot be read


def test_encrypted_members(read: Read) -> None:
    archive = raw_zip(RawMember.of(b"secret", b"x" * 50, flags=1), RawMember.of(b"open", b"y"))
    assert fates(read(archive)) == {"secret": "encrypted"}
    assert good(read(archive)) == {"open": b"y"}


def test_a_damaged_archive_within_an_archive_has_its_size(read: Read) -> None:
    inner = make_tar(GOOD)[:700]
    found = read(make_zip({"a.tar": inner}))
    assert {(member.size, member.status) for member in found if member.path == "a.tar"} == {
        (len(inner), "binary"), (len(inner), "damaged"),
    }  # fmt: skip


@pytest.mark.parametrize("method", [1, 5, 10, 19, 97, 98, 99, 65535])
def test_unknown_compression(read: Read, method: int) -> None:
    archive = raw_zip(RawMember.of(b"odd", b"x", method=method), RawMember.of(b"good", b"y"))
    assert fates(read(archive)) == {"odd": "unsupported"}
    assert str(method) in reason_of(read, archive, "odd")


def test_a_bad_checksum_damages_one_member(read: Read) -> None:
    archive = raw_zip(RawMember.of(b"bad", b"xyz", crc=1), RawMember.of(b"good", b"y"))
    assert fates(read(archive)) == {"bad": "damaged"}
    assert good(read(archive)) == {"good": b"y"}


def test_a_body_that_does_not_inflate(read: Read) -> None:
    archive = raw_zip(RawMember(b"bad", b"\xff" * 20, 100, 0), RawMember.of(b"good", b"y"))
    assert fates(read(archive)) == {"bad": "damaged"}


@pytest.mark.parametrize("method", [8, 12, 14, 93, 95])
@pytest.mark.parametrize("length", [0, 3, 8])
def test_a_body_too_short_for_its_method(read: Read, method: int, length: int) -> None:
    # Found by fuzzing: LZMA's own header may be cut off as well.
    archive = raw_zip(RawMember(b"bad", b"\x05" * length, 9, 0, method=method))
    assert fates(read(archive)) == {"bad": "damaged"}


def test_a_body_far_larger_than_its_content(read: Read) -> None:
    padding = b"\x00\x00\x00\xff\xff" * 40_000  # empty deflate blocks
    archive = raw_zip(RawMember(b"slow", padding, 1, 0))
    assert fates(read(archive)) == {"slow": "refused"}


@pytest.mark.parametrize("offset", [10_000_000, 0xFFFFFFF0, 3])
def test_offsets_that_lead_nowhere(read: Read, offset: int) -> None:
    lost = RawMember.of(b"lost", b"x", offset=offset)
    archive = raw_zip(RawMember.of(b"good", b"y"), lost)
    assert good(read(archive)) == {"good": b"y", "lost": b"x"}  # by its own header
    archive = raw_zip(RawMember.of(b"good", b"y"), replace(lost, local=False))
    assert fates(read(archive)) == {"lost": "damaged"}
    assert good(read(archive)) == {"good": b"y"}


def test_lengths_that_lead_out_of_the_file(read: Read) -> None:
    archive = raw_zip(RawMember.of(b"long", b"x" * 60_000, packed=60_000))
    assert fates(read(archive)) == {"long": "damaged"}


# Files that break off


def test_a_zip_that_breaks_off_is_read_as_far_as_it_goes(read: Read) -> None:
    files = {f"{number:02}": bytes([number]) * 500 for number in range(50)}
    whole = make_zip(files, zipfile.ZIP_STORED)
    members = read(whole[: len(whole) // 2])
    assert 15 < len(good(members)) < 30
    assert good(members).items() <= files.items()
    assert fates(members)["archive"] == "damaged"


def test_a_streamed_zip_that_breaks_off(read: Read) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)
            return len(bytes(data))

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in GOOD.items():
            archive.writestr(name, data)
    cut = pipe.data[: pipe.data.index(b"PK\x01\x02")]
    assert good(read(cut)) == GOOD
    assert fates(read(cut)) == {"archive": "damaged"}


def test_a_directory_that_breaks_off_names_what_it_can(read: Read) -> None:
    whole = bytearray(make_zip())
    last = whole.rindex(b"PK\x01\x02")
    whole[last : last + 4] = b"XXXX"
    members = read(bytes(whole))
    assert good(members) == GOOD  # the last one by its own header
    assert fates(members) == {"archive": "damaged"}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tar_that_breaks_off_is_read_as_far_as_it_goes(read: Read, compression: str) -> None:
    generator = random.Random(1)
    files = {f"{number:02}": generator.randbytes(4000) for number in range(500)}
    whole = COMPRESSIONS[compression](make_tar(files))
    members = read(whole[: len(whole) // 2])
    assert len(good(members)) > 20
    assert good(members).items() <= files.items()
    assert "damaged" in fates(members).values()


def test_a_tar_with_a_broken_header_goes_on_after_it(read: Read) -> None:
    whole = bytearray(make_tar())
    position = whole.index(b"owner-name-1a2b3c4/src/a.py")
    whole[position + 148] ^= 0xFF
    members = read(bytes(whole))
    assert set(GOOD) - set(good(members)) == {"owner-name-1a2b3c4/src/a.py"}
    assert fates(members) == {"archive": "damaged"}


def test_a_tar_of_broken_headers_gives_one_row_and_ends(read: Read) -> None:
    broken = bytearray(tar_header("a", 0))
    broken[124:136] = b"\xff" * 12  # a size below zero, under a good checksum
    broken[148:156] = b" " * 8
    broken[148:156] = b"%06o\0 " % sum(broken)
    assert fates(read(bytes(broken) * 5000)) == {"archive": "damaged"}
    members = read(bytes(broken) * 5000 + make_tar(), max_members=100)
    assert fates(members) == {"archive": "refused"}
    assert [one.status for one in members] == ["damaged", "refused"]


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz"])
def test_a_wrong_checksum_around_a_tar_is_noted(read: Read, compression: str) -> None:
    whole = bytearray(COMPRESSIONS[compression](make_tar()))
    flipped = {".gz": -6, ".bz2": -6, ".xz": -10}[compression]
    whole[flipped] ^= 1
    assert fates(read(bytes(whole))) == {"archive": "damaged"}


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst", ".lzma"])
@pytest.mark.parametrize("cut", [3, 9, None])
def test_one_compressed_file_that_breaks_off_is_read_to_there(
    read: Read, compression: str, cut: int | None
) -> None:
    text = b"".join(b"line %d: %s\n" % (n, os.urandom(9).hex().encode()) for n in range(2000))
    alone = lzma.compress(text, lzma.FORMAT_ALONE)
    whole = alone if compression == ".lzma" else COMPRESSIONS[compression](text)
    members = read(whole[: -(cut or len(whole) // 2)], name="t.f90" + compression)
    if members[0].status == "damaged":  # a block of these, over 100,000 bytes, is read whole or not
        assert compression in {".bz2", ".zst"}
        assert fates(members) == {"t.f90": "damaged"}
        return
    (data,) = good(members).values()
    assert text.startswith(data)
    assert len(data) > (0.9 if cut else 0.3) * len(text)
    assert fates(members) == {"t.f90" + compression: "damaged"}
    assert members[0].path == "t.f90"
    assert str(members[0].reason).startswith(f"what follows its first {len(data):,} bytes does not")


@pytest.mark.parametrize(("compression", "length"), [(".gz", 8), (".gz", 3), (".xz", 12)])
def test_a_tar_without_the_checksum_around_it_was_read_to_its_end(
    read: Read, compression: str, length: int
) -> None:
    members = read(COMPRESSIONS[compression](make_tar())[:-length])
    assert good(members) == GOOD
    assert fates(members) == {"archive": "damaged"}
    assert "all of its members were read; what follows" in str(members[-1].reason)
    assert "(it breaks off)" in str(members[-1].reason)


# Damage within a compression


def _compressed_tar(compression: str) -> tuple[bytes, dict[str, bytes]]:
    """Thirty files of two kilobytes, all within what a decompressor gives at once."""
    draw = random.Random(7)
    files = {f"p/{i:02d}.txt": draw.randbytes(1000).hex().encode() for i in range(30)}
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    if compression != ".zst":
        compress = COMPRESSIONS[compression]
    return compress(make_tar(files)), files


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_wrong_checksum_at_the_end_costs_no_file(read: Read, compression: str) -> None:
    archive, files = _compressed_tar(compression)
    at = -2 if compression == ".zst" else -6
    members = read(archive[:at] + bytes([archive[at] ^ 0xFF]) + archive[at + 1 :])
    assert good(members) == files
    assert "damaged" in fates(members).values()


@pytest.mark.parametrize("compression", [".gz", ".xz"])
def test_what_comes_before_the_damage_is_read(read: Read, compression: str) -> None:
    archive, files = _compressed_tar(compression)
    at = len(archive) * 2 // 3
    members = read(archive[:at] + bytes(64) + archive[at + 64 :])
    found = {path: data for path, data in good(members).items() if files[path] == data}
    assert len(found) >= 15
    assert "damaged" in fates(members).values()


def test_an_empty_end_record_within_the_comment_hides_nothing(read: Read) -> None:
    archive = io.BytesIO(make_zip())
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = b"PK\5\6" + bytes(18) + b"!"
    assert good(read(archive.getvalue())) == GOOD
