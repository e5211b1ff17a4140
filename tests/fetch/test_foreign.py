"""Archives that another process reads: what it gives, and what it may cost."""

from __future__ import annotations

import binascii
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from zml_dask.errors import RecordError
from zml_dask.fetch import foreign
from zml_dask.fetch.member import FetchLimits, Meter
from zml_dask.fetch.zip_methods import explode, inflate64

from .archives import RawMember, make_tar, make_zip, raw_zip
from .conftest import Read, fates, good
from .test_reference import require

FILES = {"p/a.py": b"x = 1\n", "p/sub/b.c": b"int b;\n" * 300, "p/empty": b""}


def rar4(files: dict[str, bytes], *, solid: bool = False) -> bytes:
    """A RAR archive of version 4, its files stored."""

    def block(kind: int, flags: int, body: bytes, data: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + data

    out = b"Rar!\x1a\x07\x00" + block(0x73, 8 * solid, bytes(6))
    for name, data in files.items():
        raw = name.encode()
        fields = struct.pack("<LLBLLBBHL", len(data), len(data), 3, zlib.crc32(data), 0x5A000000,
                             20, 0x30, len(raw), 0o100644)  # fmt: skip
        out += block(0x74, 0x8000 | 16 * solid, fields + raw, data)
    return out + block(0x7B, 0x4000, b"")


def vint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def rar5(files: dict[str, bytes], extras: dict[str, bytes] | None = None) -> bytes:
    """A RAR archive of version 5, its files stored; `extras` are records of their headers."""

    def block(body: bytes, data: bytes = b"") -> bytes:
        sized = vint(len(body)) + body
        return struct.pack("<L", zlib.crc32(sized)) + sized + data

    out = b"Rar!\x1a\x07\x01\x00" + block(vint(1) + vint(0) + vint(0))
    for name, data in files.items():
        raw, extra = name.encode(), (extras or {}).get(name, b"")
        body = (
            vint(2)
            + vint(3)
            + vint(len(extra))
            + vint(len(data))
            + vint(4)
            + vint(len(data))
            + vint(0o100644)
        )
        body += struct.pack("<L", zlib.crc32(data)) + vint(0) + vint(1) + vint(len(raw)) + raw
        out += block(body + extra, data)
    return out + block(vint(5) + vint(0) + vint(0))


def rar5_volumes(name: str, data: bytes) -> tuple[bytes, bytes]:
    """The two volumes of a RAR archive of version 5 that holds one stored file."""

    def block(body: bytes, content: bytes = b"") -> bytes:
        sized = vint(len(body)) + body
        return struct.pack("<L", zlib.crc32(sized)) + sized + content

    volumes = []
    half = len(data) // 2
    for number, part in enumerate((data[:half], data[half:])):
        main = vint(1) + vint(0) + (vint(3) + vint(1) if number else vint(1))
        crc = zlib.crc32(data if number else part)
        file = vint(2) + vint(2 | (8 if number else 16)) + vint(len(part)) + vint(4)
        file += vint(len(data)) + vint(0o100644) + struct.pack("<L", crc) + vint(0) + vint(1)
        file += vint(len(name)) + name.encode()
        end = vint(5) + vint(0) + vint(0 if number else 1)
        volumes.append(b"Rar!\x1a\x07\x01\x00" + block(main) + block(file, part) + block(end))
    return volumes[0], volumes[1]


def cab(files: dict[str, bytes]) -> bytes:
    """A cabinet, its files stored in one folder, named as Windows does."""
    data = b"".join(files.values())
    blocks = b"".join(
        struct.pack("<LHH", 0, len(piece), len(piece)) + piece
        for piece in (data[at : at + 32_768] for at in range(0, len(data), 32_768))
    )
    entries, offset = b"", 0
    for name, content in files.items():
        entries += struct.pack("<LLHHHH", len(content), offset, 0, 0x5A00, 0, 0x20)
        entries += name.replace("/", "\\").encode() + b"\0"
        offset += len(content)
    at_files, at_data = 36 + 8, 36 + 8 + len(entries)
    total = at_data + len(blocks)
    head = struct.pack("<4sLLLLLBBHHHHH", b"MSCF", 0, total, 0, at_files, 0, 3, 1, 1, len(files), 0,
                       0, 0)  # fmt: skip
    folder = struct.pack("<LHH", at_data, -(-len(data) // 32_768), 0)
    return head + folder + entries + blocks


def cpio(files: dict[str, bytes], n_links: int = 1) -> bytes:
    out = b""
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        raw = name.encode() + b"\0"
        numbers = (1, 0o100644, 0, 0, n_links, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        entry = b"070701" + b"".join(b"%08x" % number for number in numbers) + raw
        out += entry + bytes(-len(entry) % 4) + data + bytes(-len(data) % 4)
    return out


def ar(files: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in files.items():
        out += f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


WRITERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "rar4": rar4, "rar5": rar5, "cab": cab, "cpio": cpio,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_members_and_their_limits(read: Read, kind: str) -> None:
    files = {name: data for name, data in FILES.items() if data} | {
        "p/.git/HEAD": b"ref\n",
        "p/at": b"0" * 100_000,
        "p/over": b"1" * 100_001,
        "../out.py": b"y\n",
    }
    members = read(WRITERS[kind](files))
    expected = {name: data for name, data in files.items() if "git" not in name}
    assert fates(members) == {"p/over": "too_large"}
    assert good(members) == {name: data for name, data in expected.items() if name != "p/over"}
    notes = {one.path: one.reason for one in members}
    assert notes["../out.py"] == "its path leads out of the archive"


@pytest.mark.parametrize("kind", WRITERS)
def test_an_archive_that_breaks_off_or_is_changed(read: Read, kind: str) -> None:
    files = {f"{number:02}.py": b"%d\n" % number * 500 for number in range(30)}
    whole = WRITERS[kind](files)
    members = read(whole[: len(whole) // 2])
    assert good(members).items() <= files.items()
    assert "damaged" in fates(members).values()
    changed = bytearray(whole)
    for position in range(8, len(whole), 997):
        changed[position] ^= 0x55
    for member in read(bytes(changed)):
        assert (member.data is not None) == (member.status == "ok")
        assert member.status == "ok" or member.reason


def test_hard_links_of_cpio_are_not_empty_files(read: Read) -> None:
    members = read(cpio({"a.py": b"", "b.py": b"", "c.py": b"x = 1\n"}, n_links=3))
    assert good(members) == {"c.py": b"x = 1\n"}
    assert fates(members) == {"a.py": "refused", "b.py": "refused"}
    assert "a hard link" in str(members[0].reason)
    assert good(read(cpio({"a.py": b"", "c.py": b"x = 1\n"}))) == {"a.py": b"", "c.py": b"x = 1\n"}


def test_what_libarchive_does_not_say_of_rar(read: Read) -> None:
    """That a file is encrypted, or a copy of another; that a solid archive is not read."""
    locked = vint(50) + vint(1) + bytes(49)
    copy = vint(5) + vint(5) + vint(0) + vint(4) + b"a.py"
    copy = vint(len(copy)) + copy
    files = {"a.py": b"x = 1\n", "b.py": b"\x8a\x11\x9c" * 20, "c.py": b"", "d.py": b"y\n"}
    members = read(rar5(files, {"b.py": locked, "c.py": copy}))
    assert good(members) == {"a.py": b"x = 1\n", "d.py": b"y\n"}
    assert fates(members) == {"b.py": "encrypted", "c.py": "refused"}
    assert "'a.py', which is listed" in str(members[2].reason)
    assert good(read(rar5(files, {"d.py": b"\xff" * 20})))["a.py"] == b"x = 1\n"
    members = read(rar4(files, solid=True))
    assert fates(members)["archive"] == "unsupported"


@pytest.mark.parametrize("kind", WRITERS)
def test_an_archive_behind_a_program(read: Read, kind: str) -> None:
    data = read(
        b"MZ" + os.urandom(90_000) + b"Rar!\x1a\x077z\xbc\xaf\x27\x1c" + WRITERS[kind](FILES)
    )
    if kind.startswith("rar"):
        assert good(data) == FILES
    else:
        assert set(good(data)) == {"archive"}


def test_an_archive_within_and_one_around(read: Read) -> None:
    inner = make_zip({"in.py": b"z\n"})
    large = make_tar({f"{number}.py": os.urandom(3000).hex().encode() for number in range(40)})
    members = read(cpio({"a.zip": inner, "b.tar": large, "c.jar": inner}))
    assert {"a.zip/in.py", "b.tar/0.py", "b.tar/39.py", "c.jar"} <= set(good(members))
    assert fates(members) == {"a.zip": "binary", "b.tar": "too_large"}
    for outer in (make_zip, make_tar, rar5):
        members = read(outer({"x.cpio": cpio(FILES), "y.rar": rar4({"r.py": b"r\n"})}))
        assert good(members) == {f"x.cpio/{name}": data for name, data in FILES.items()} | {
            "y.rar/r.py": b"r\n"
        }


def test_static_libraries_are_archives_of_objects(read: Read) -> None:
    assert good(read(ar({"one.o": b"\x7fELF", "two.f90": b"end\n"}))) == {
        "one.o": b"\x7fELF", "two.f90": b"end\n",
    }  # fmt: skip


def test_locked_archives_say_so(read: Read, tmp_path: Path) -> None:
    require("7z")
    (tmp_path / "a.py").write_bytes(b"x = 1\n" * 99)
    for options in (["-psecret"], ["-psecret", "-mhe=on"]):
        target = tmp_path / "a.7z"
        target.unlink(missing_ok=True)
        subprocess.run(["7z", "a", *options, target, tmp_path / "a.py"], check=True,
                       capture_output=True)  # fmt: skip
        members = read_from(read, target)
        assert set(fates(members).values()) == {"encrypted"}, options
        assert good(members) == {}


def test_what_cannot_be_unpacked_costs_no_other_member_of_a_7z(read: Read, tmp_path: Path) -> None:
    require("7z")
    archive = tmp_path / "all.7z"

    def add(method: str, *names: str) -> None:
        for name in names:
            (tmp_path / name).write_bytes(b"x = 1\n" * 99 + name.encode())
        command = ["7z", "a", f"-m0={method}", archive, *names]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        for name in names:
            (tmp_path / name).unlink()

    add("copy", "a.py")
    add("deflate64", "b.py", "c.py")  # solid: packed together
    add("ppmd", "d.py", "e.py")
    whole = archive.read_bytes()
    archive.unlink()
    members = read(whole)
    assert set(good(members)) == {"a.py", "d.py", "e.py"}
    assert fates(members) == {"b.py": "unsupported", "c.py": "unsupported"}
    assert {one.reason for one in members if one.data is None} == {"Unknown codec Deflate64"}
    # Damage costs what is packed together, and nothing else.
    add("copy", "a.py")
    add("bzip2", "b.py")
    add("ppmd", "d.py", "e.py")
    broken = bytearray(archive.read_bytes())
    archive.unlink()
    (at,) = (m.start() + 10 for m in re.finditer(rb"BZh91AY", broken))
    broken[at : at + 8] = bytes(8)
    members = read(bytes(broken))
    assert set(good(members)) == {"a.py", "d.py", "e.py"}
    assert fates(members) == {"b.py": "damaged"}


def test_a_wrong_checksum_of_7z_is_damage(read: Read, tmp_path: Path) -> None:
    require("7z")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes(name.encode() * 50)
    archive = tmp_path / "all.7z"
    command = ["7z", "a", "-m0=copy", "-ms=off", archive, "a.py", "b.py"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    whole = archive.read_bytes()
    for path in (archive, tmp_path / "a.py", tmp_path / "b.py"):
        path.unlink()
    assert len(good(read(whole))) == 2
    members = read(whole.replace(b"a.pya.py", b"a.pya.px", 1))
    assert set(good(members)) == {"b.py"}
    assert fates(members) == {"a.py": "damaged"}
    assert "CRC" in str(members[0].reason)


@pytest.mark.parametrize("n_data", [2**62, 2**63, 2**69 - 1])
def test_lengths_of_rar_5_beyond_any_file(read: Read, n_data: int) -> None:
    vint = bytes(n_data >> 7 * n & 0x7F | 0x80 * (n < 9) for n in range(10))
    header = bytes([2 + len(vint), 1, 2]) + vint
    archive = b"Rar!\x1a\x07\x01\0" + struct.pack("<L", zlib.crc32(header)) + header
    assert fates(read(archive)) == {"archive": "damaged"}


@pytest.mark.parametrize(("packed", "least", "most"), [(1000, 300, 400), (10**9, 3600, 3600)])
def test_a_small_archive_has_little_time(
    tmp_path: Path, packed: int, least: int, most: int
) -> None:
    """Some damaged archives make libarchive loop for ever, as a xar whose links are a ring."""
    (tmp_path / "a").write_bytes(b"xar!")
    with (tmp_path / "a").open("rb") as file:
        reader = foreign.ForeignReader(file, Meter(FetchLimits(), packed, "a"))
        reader.close()
    assert least <= json.loads(reader._process.args[-1])["seconds"] <= most


def read_from(read: Read, path: Path) -> list:  # type: ignore[type-arg]
    data = path.read_bytes()
    path.unlink()
    (path.parent / "a.py").unlink(missing_ok=True)
    members = read(data)
    (path.parent / "archive").unlink()
    (path.parent / "a.py").write_bytes(b"x = 1\n" * 99)
    return members


# The process


def test_what_is_to_be_installed_is_named(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBARCHIVE", "/nowhere/libarchive.so")
    for archive in (rar5(FILES), cpio(FILES)):
        (member,) = read(archive)
        assert (member.path, member.status) == ("archive", "unsupported")
        assert "pip install 'zml-dask[archives]'" in str(member.reason)
    (member,) = read(b"\x1f\x9d\x90" + bytes(50), name="a.Z")
    assert (member.path, member.status) == ("a.Z", "unsupported")
    assert "zml-dask[archives]" in str(member.reason)


PROGRAMS = {
    "crashes": "import os; os.kill(os.getpid(), 11)",
    "runs out of memory": "import os; os.kill(os.getpid(), 9)",
    "says nothing": "pass",
    "babbles": "print('x' * 10_000)",
    "claims too much": "import os; os.write(1, b'D\\xff\\xff\\xff\\xff')",
    "no json": "import os; os.write(1, b'E\\1\\0\\0\\0x')",
    "no object": "import os; os.write(1, b'E\\2\\0\\0\\0[]')",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_whatever_the_process_does_is_a_row(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    program = tmp_path.parent / f"{tmp_path.name}.py"
    program.write_text(PROGRAMS[how])
    monkeypatch.setattr(foreign, "_PROGRAM", program)
    (member,) = read(cpio(FILES))
    assert (member.path, member.status) == ("archive", "damaged")
    assert "\n" not in str(member.reason)


def test_its_output_is_bounded(read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path.parent / f"{tmp_path.name}.py"
    program.write_text(
        "import os, struct\n"
        'body = b\'{"path": "a", "type": "file"}\'\n'
        "os.write(1, b'E' + struct.pack('<L', len(body)) + body)\n"
        "while True: os.write(1, b'D' + struct.pack('<L', 65536) + bytes(65536))\n"
    )
    monkeypatch.setattr(foreign, "_PROGRAM", program)
    (member,) = read(cpio(FILES), max_unpacked_bytes=10_000_000)
    assert member.status == "refused"


def test_its_time_is_bounded(read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path.parent / f"{tmp_path.name}.py"
    program.write_text("import signal; signal.pause()")
    monkeypatch.setattr(foreign, "_PROGRAM", program)
    monkeypatch.setattr(foreign, "_POLL_SECONDS", 0.01)
    with pytest.raises(RecordError, check=lambda error: error.kind == "archive_time"):
        read(cpio(FILES), max_seconds=0.5)


def test_its_memory_is_bounded(tmp_path: Path) -> None:
    """The program itself takes no more than it was allowed: malloc fails, nothing else."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import foreign_child\n"
        "foreign_child.limit(200_000_000, 60)\n"
        "try: bytearray(400_000_000)\n"
        "except MemoryError: print('refused')\n"
    )
    folder = str(Path(foreign.__file__).parent)
    ran = subprocess.run([sys.executable, "-P", "-c", script, folder], capture_output=True,
                         text=True, check=True)  # fmt: skip
    assert ran.stdout == "refused\n"


def test_nothing_is_left_running(read: Read) -> None:
    read(rar5(FILES))
    read(rar5({f"{number}": b"x" for number in range(3000)}), max_members=10)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        assert "foreign_child" not in subprocess.run(
            ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True
        ).stdout  # fmt: skip


# Git bundles


@pytest.mark.parametrize("branch", ["main", "trunk"])
def test_bundles_are_read_by_git(read: Read, tmp_path: Path, branch: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.py").write_text("x = 1\n")

    def git(*words: str) -> None:
        name = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        subprocess.run(["git", *name, *words], cwd=work, check=True, capture_output=True)

    git("init", "-q", "-b", branch)
    git("add", "a.py")
    git("commit", "-q", "-m", "one")
    git("bundle", "create", "whole", branch)
    (work / "a.py").write_text("x = 2\n")
    git("commit", "-q", "-a", "-m", "two")
    git("bundle", "create", "partial", f"{branch}~1..{branch}")
    whole, partial = ((work / name).read_bytes() for name in ("whole", "partial"))
    shutil.rmtree(work)
    assert good(read(whole)) == {"a.py": b"x = 1\n"}
    for broken in (partial, whole[: len(whole) // 2], whole[:40]):
        assert fates(read(broken)) == {"archive": "damaged"}


# Compressions of zip that no library at hand undoes


def imploded(data: bytes, *, large: bool) -> tuple[bytes, int]:
    """As PKZIP 1 packed: literals as they are, matches by two trees of flat codes."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> n & 1 for n in range(count))

    def code(symbol: int) -> None:  # a flat tree's codes, inverted, the highest bit first
        bits.extend(1 - (symbol >> n & 1) for n in reversed(range(6)))

    low = 7 if large else 6
    for _tree in range(2):
        put(3, 8)
        for _ in range(4):
            put(0xF5, 8)
    position = 0
    while position < len(data):
        window = data[max(0, position - (8000 if large else 4000)) : position]
        length = 0
        while length < 320 and position + length < len(data):
            found = window.rfind(data[position : position + length + 1])
            if found < 0:
                break
            length, at = length + 1, found
        if length < 3:
            put(1, 1)
            put(data[position], 8)
            position += 1
            continue
        distance = len(window) - at - 1
        put(0, 1)
        put(distance & (1 << low) - 1, low)
        code(distance >> low)
        code(min(length - 2, 63))
        if length - 2 >= 63:
            put(length - 2 - 63, 8)
        position += length
    bits += [0] * (-len(bits) % 8)
    body = bytes(sum(bits[n + k] << k for k in range(8)) for n in range(0, len(bits), 8))
    return body, 2 if large else 0


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"a", b"program hello\nend\n", b"abcabcabc" * 400, bytes(range(256)) * 20, b"\0" * 3000],
    ids=["one", "text", "repeated", "bytes", "zeros"],
)
def test_imploded_members(read: Read, data: bytes, large: bool, tmp_path: Path) -> None:
    body, flags = imploded(data, large=large)
    member = RawMember(b"old.f", body, len(data), binascii.crc32(data), method=6, flags=flags)
    archive = raw_zip(member)
    assert good(read(archive)) == {"old.f": data}
    for command in (["7z", "x", "-so"], ["unzip", "-p"]):
        require(command[0])
        (tmp_path / "archive").write_bytes(archive)
        theirs = subprocess.run([*command, tmp_path / "archive"], capture_output=True, check=False)
        assert theirs.stdout in {data, b""} or theirs.returncode, command
        assert command[0] == "unzip" or theirs.stdout == data


@pytest.mark.parametrize("unpack", [inflate64, lambda body, size: explode(body, size, 2)])
def test_what_is_no_such_stream_is_an_error_and_ends(
    unpack: Callable[[bytes, int], bytes],
) -> None:
    for seed in range(300):
        body = bytes((seed * 7919 + n * n * 31) % 256 for n in range(200))
        try:
            assert len(unpack(body, 5000)) <= 5001
        except (EOFError, ValueError):
            continue
