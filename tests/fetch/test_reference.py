"""Archives made by the tools that people use, read as other readers read them, entry by entry.

Each is made from one tree by a tool or by a writer of ours that does as a tool does, is
unpacked by a reference (bsdtar, 7z, or the tool itself), and read by us. Where we differ
on purpose, the case says why.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import tarfile
import zipapp
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import py7zr
import pytest
import zstandard

from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.unpack import read_members

from .archives import RawMember, raw_zip

TEXT = "".join(f"value_{n} = {n * n}  # of many\n" for n in range(700)).encode()
TREE = {
    "project/README.md": b"# A project\n",
    "project/Makefile": b"all:\n\techo\n",
    "project/empty.txt": b"",
    "project/src/main.f90": b"program main\nend program\n" * 90,
    "project/src/deep/er/than/most/values.py": TEXT,
    "project/src/with space & more.c": b"int main(void) { return 0; }\n",
    "project/data/noise.bin": random.Random(1).randbytes(40_000),
    "project/data/limit.txt": b"0123456789\n" * 9_090 + b"0123456789",
    "project/data/large.csv": b"0,1,2\n" * 30_000,
}
FOREIGN_NAMES = {"project/ünï/наука 漢字.py": b"x = 1\n"}
LONG_NAMES = {"project/" + "long-folder-name/" * 12 + "file.py": b"y = 2\n"}
ALL = TREE | FOREIGN_NAMES | LONG_NAMES
# LZMA's last bytes hold one more symbol in some of these, where nothing marks the end.
SERIES = {
    f"project/{k}.txt": "".join(f"v{n} = {n * k}\n" for n in range(k)).encode()
    for k in (28, 29, 75, 95)
}
# gcab keeps no folders.
BY_NAME = {path.rpartition("/")[2]: data for path, data in TREE.items() if data}
LIMIT = FetchLimits().max_file_bytes
Make = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Case:
    """An archive: how it is made, and how it is read by others."""

    name: str
    make: Make
    tree: dict[str, bytes]
    reference: str = "bsdtar"
    tools: tuple[str, ...] = ()
    # Paths of ours for paths of the reference: why they differ.
    within: str = ""
    # What the reference leaves undone, or we do.
    unread: tuple[str, ...] = ()
    single: str = ""


def sh(command: str, **names: str) -> Make:
    """Run in the folder that holds the tree; ``$OUT`` is the archive."""

    def make(folder: Path, out: Path) -> None:
        environment = {**os.environ, "OUT": str(out), "LC_ALL": "C.UTF-8", **names}
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder, env=environment, check=True, capture_output=True,
        )  # fmt: skip

    return make


def python_tar(mode: str, format: int) -> Make:  # noqa: A002
    def make(folder: Path, out: Path) -> None:
        with tarfile.open(out, mode, format=format) as archive:  # type: ignore[call-overload]
            archive.add(folder / "project", "project")

    return make


def python_zip(method: int) -> Make:
    def make(folder: Path, out: Path) -> None:
        with zipfile.ZipFile(out, "w", method) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))

    return make


def python_7z(folder: Path, out: Path) -> None:
    with py7zr.SevenZipFile(out, "w") as archive:
        archive.writeall(folder / "project", "project")


def with_zipapp(folder: Path, out: Path) -> None:
    zipapp.create_archive(folder, out, interpreter="/usr/bin/env python3", main="os:getcwd")


def _raw(folder: Path, **fields: object) -> list[RawMember]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        RawMember.of(str(path.relative_to(folder)).encode(), path.read_bytes(), **fields)
        for path in files
    ]


def like_windows(folder: Path, out: Path) -> None:
    """As .NET before 4.6.1 and PowerShell 5: backslashes, folders by a final one."""
    members = [
        RawMember.of(one.name.replace(b"/", b"\\"), b"").__class__(
            one.name.replace(b"/", b"\\"), one.body, one.size, one.crc, made_by=20, attributes=0x20
        )
        for one in _raw(folder)
    ]
    out.write_bytes(raw_zip(RawMember.of(b"project\\", b"", made_by=20), *members))


def like_macos(folder: Path, out: Path) -> None:
    """As the Archive Utility: host 19, modes, folders, forks beside the files."""
    attributes = 0o100644 << 16
    members = _raw(folder, made_by=0x1315, attributes=attributes)
    forks = [
        RawMember.of(b"__MACOSX/project/._README.md", b"\0\x05\x16\x07" + bytes(60),
                     made_by=0x1315, attributes=attributes),
    ]  # fmt: skip
    folder_entry = RawMember.of(b"project/", b"", made_by=0x1315, attributes=0o040755 << 16)
    out.write_bytes(raw_zip(folder_entry, *members, *forks))


def like_a_self_extractor(folder: Path, out: Path) -> None:
    out.write_bytes(b"MZ" + bytes(5000) + raw_zip(*_raw(folder)))


def two_tars(folder: Path, out: Path) -> None:
    """As ``cat a.tar.gz b.tar.gz``; bsdtar is asked to go on behind the first."""
    first, second = out.with_suffix(".1"), out.with_suffix(".2")
    sh("tar -czf $OUT project/src")(folder, first)
    sh("tar -czf $OUT --exclude=project/src project")(folder, second)
    out.write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    second.unlink()


def rpm(folder: Path, out: Path) -> None:
    """By rpmbuild; the payload is a cpio of absolute paths."""
    top = out.parent / "rpmbuild"
    top.mkdir()
    (top / "x.spec").write_text(
        "Name: x\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nBuildArch: noarch\n"
        "%description\nx\n%install\nmkdir -p %{buildroot}\n"
        f"cp -r {folder}/project %{{buildroot}}/project\n%files\n/project\n"
    )
    subprocess.run(
        ["rpmbuild", "-bb", "--define", f"_topdir {top}", "--define", "_build_id_links none",
         "--define", "debug_package %{nil}", "--define", "__os_install_post %{nil}",
         str(top / "x.spec")],
        check=True, capture_output=True,
    )  # fmt: skip
    (made,) = top.rglob("*.rpm")
    shutil.move(made, out)
    shutil.rmtree(top)


def deb(compression: str) -> Make:
    return sh(
        "mkdir -p root/DEBIAN; cp -r project root/project; "
        "printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\n"
        "Description: x\\n' > root/DEBIAN/control; "
        f"dpkg-deb -Z{compression} --root-owner-group -b root $OUT; rm -r root"
    )


def gem(folder: Path, out: Path) -> None:
    sh("tar -czf data.tar.gz project; echo 'name: x' | gzip > metadata.gz; "
       "tar -cf $OUT metadata.gz data.tar.gz; rm data.tar.gz metadata.gz")(folder, out)  # fmt: skip


def bundle(folder: Path, out: Path) -> None:
    sh("git init -q -b main; git add project; git -c user.name=n -c user.email=n@example.org "
       "commit -q -m one; git bundle create -q $OUT --all; rm -rf .git")(folder, out)  # fmt: skip


CASES = [
    # zip
    Case("infozip", sh("zip -qr $OUT project"), ALL, tools=("zip",)),
    Case("infozip-stored", sh("zip -q0r $OUT project"), ALL, tools=("zip",)),
    Case("infozip-bzip2", sh("zip -qr -Z bzip2 $OUT project"), ALL, tools=("zip",)),
    Case("infozip-piped", sh("zip -qr - project | cat > $OUT"), ALL, tools=("zip",)),
    Case("infozip-zip64", sh("zip -qr -fz $OUT project"), ALL, "7z", tools=("zip",)),
    Case("infozip-self-extracting", like_a_self_extractor, TREE, "7z"),
    Case("7z-zip", sh("7z a -tzip $OUT project"), ALL, tools=("7z",)),
    Case("7z-zip-deflate64", sh("7z a -tzip -mm=Deflate64 $OUT project"), ALL, "7z"),
    Case("7z-zip-lzma", sh("7z a -tzip -mm=LZMA $OUT project"), ALL, "7z"),
    Case("7z-zip-lzma-unmarked", sh("7z a -tzip -mm=LZMA:eos=off $OUT project"), SERIES, "7z"),
    Case("7z-zip-bzip2", sh("7z a -tzip -mm=BZip2 $OUT project"), ALL, "7z"),
    # A zip with PPMd is not read: method 98 is rarer still than the other old ones.
    Case("7z-zip-ppmd", sh("7z a -tzip -mm=PPMd $OUT project"), ALL, "7z",
         unread=("project/src/deep/er/than/most/values.py", "project/src/main.f90",
                 "project/data/limit.txt")),
    Case("bsdtar-zip", sh("bsdtar -cf $OUT --format=zip project"), ALL, tools=("bsdtar",)),
    Case("python-zip-stored", python_zip(zipfile.ZIP_STORED), ALL),
    Case("python-zip-deflate", python_zip(zipfile.ZIP_DEFLATED), ALL),
    Case("python-zip-bzip2", python_zip(zipfile.ZIP_BZIP2), ALL),
    Case("python-zip-lzma", python_zip(zipfile.ZIP_LZMA), ALL),
    Case("python-zipapp", with_zipapp, ALL, "7z"),
    Case("windows-zip", like_windows, TREE, "bsdtar"),
    Case("macos-zip", like_macos, TREE, "7z"),
    Case("git-archive-zip", sh("git init -q; git add -f project; git archive --format=zip -o $OUT "
         "$(git write-tree); rm -rf .git"), ALL, tools=("git",)),
    # tar
    *(Case(f"gnu-tar-{form}", sh(f"tar --format={form} -cf $OUT project"),
           TREE if form in {"v7", "ustar"} else ALL) for form in
      ("v7", "ustar", "gnu", "oldgnu", "posix")),
    *(Case(f"bsdtar-{form}", sh(f"bsdtar --format={form} -cf $OUT project"),
           TREE if form == "ustar" else ALL, tools=("bsdtar",)) for form in
      ("ustar", "pax", "gnutar")),
    Case("python-tar-ustar", python_tar("w", tarfile.USTAR_FORMAT), TREE),
    Case("python-tar-gnu", python_tar("w", tarfile.GNU_FORMAT), ALL),
    Case("python-tar-pax", python_tar("w", tarfile.PAX_FORMAT), ALL),
    Case("git-archive-tar", sh("git init -q; git add -f project; git archive -o $OUT "
         "--format=tar $(git write-tree); rm -rf .git"), ALL, tools=("git",)),
    Case("tar-gzip", sh("tar -czf $OUT project"), ALL),
    Case("tar-bzip2", sh("tar -cjf $OUT project"), ALL),
    Case("tar-xz", sh("tar -cJf $OUT project"), ALL),
    Case("tar-lzma", sh("tar --lzma -cf $OUT project"), ALL, tools=("xz",)),
    Case("tar-pigz", sh("tar -c project | pigz -p2 -b128 > $OUT"), ALL, tools=("pigz",)),
    Case("tar-pigz-independent", sh("tar -c project | pigz -ip2 > $OUT"), ALL, tools=("pigz",)),
    Case("tar-zstd", sh("tar -c project | zstd -q -19 > $OUT"), ALL, tools=("zstd",)),
    Case("tar-zstd-long", sh("tar -c project | zstd -q --long=27 > $OUT"), ALL, tools=("zstd",)),
    Case("tar-pzstd", sh("tar -c project | pzstd -q -p2 > $OUT"), ALL, tools=("pzstd",)),
    Case("tar-xz-blocks", sh("tar -c project | xz -T2 --block-size=64KiB > $OUT"), ALL),
    Case("tar-lzip", sh("tar -c project | lzip > $OUT"), ALL, tools=("lzip",)),
    Case("tar-lz4", sh("tar -c project | lz4 -q > $OUT"), ALL, tools=("lz4",)),
    Case("tar-compress", sh("tar -c project | compress -c > $OUT"), ALL, tools=("compress",)),
    Case("bsdtar-compress", sh("bsdtar -cZf $OUT project"), ALL, tools=("bsdtar",)),
    Case("tar-behind-zeros", sh("(head -c 1024 /dev/zero; tar -c project) > $OUT"), ALL,
         "bsdtar --options read_concatenated_archives"),
    Case("tar-twice", two_tars, ALL, "bsdtar --options read_concatenated_archives"),
    Case("tar-incremental", sh("tar -g $OUT.list -cf $OUT project; rm $OUT.list"), ALL),
    # 7z
    *(Case(f"7z-{method}", sh(f"7z a -m0={method} $OUT project"), ALL, "7z")
      for method in ("LZMA2", "LZMA", "PPMd", "BZip2", "Deflate", "Copy")),
    Case("7z-self-extracting", sh("7z a -sfx7zCon.sfx $OUT project"), ALL, "7z"),
    Case("7z-volumes", sh("7z a -v20k v.7z project; cat v.7z.* > $OUT; rm v.7z.*"), ALL, "7z"),
    Case("7z-not-solid", sh("7z a -ms=off $OUT project"), ALL, "7z"),
    Case("bsdtar-7z", sh("bsdtar --format=7zip -cf $OUT project"), ALL, "7z", tools=("bsdtar",)),
    Case("py7zr", python_7z, ALL, "7z"),
    # cpio and what is made of it
    *(Case(f"cpio-{form}", sh(f"find project -depth | cpio -o --quiet -H {form} > $OUT"), ALL,
           tools=("cpio",)) for form in ("newc", "odc", "crc", "bin")),
    Case("bsdtar-cpio", sh("bsdtar --format=cpio -cf $OUT project"), ALL, tools=("bsdtar",)),
    Case("cpio-gzip", sh("find project | cpio -o --quiet -H newc | gzip > $OUT"), ALL,
         tools=("cpio",)),
    Case("rpm", rpm, TREE | LONG_NAMES, tools=("rpmbuild",)),
    # ar and what is made of it; a package's files are in an archive within it
    Case("ar", sh("cd project; ar rc $OUT README.md Makefile"),
         {"README.md": TREE["project/README.md"], "Makefile": TREE["project/Makefile"]},
         tools=("ar",)),
    *(Case(f"deb-{how}", deb(how), ALL, "deb", ("dpkg-deb",), within="data.tar/./")
      for how in ("xz", "gzip", "none")),
    Case("gem", gem, ALL, "gem", within="data.tar.gz/"),
    # others
    Case("cab", sh("find project -type f ! -empty | xargs -d '\\n' gcab -c -n $OUT"),
         BY_NAME, "7z", ("gcab",)),
    Case("cab-mszip", sh("find project -type f ! -empty | xargs -d '\\n' gcab -c -z -n $OUT"),
         BY_NAME, "7z", ("gcab",)),
    Case("iso", sh("bsdtar --format=iso9660 -cf $OUT project"), ALL, tools=("bsdtar",)),
    Case("tar-uuencode", sh("bsdtar --uuencode -czf $OUT project"), ALL, tools=("bsdtar",)),
    Case("tar-base64", sh("bsdtar --b64encode -cf $OUT project"), ALL, tools=("bsdtar",)),
    Case("xar", sh("bsdtar --format=xar -cf $OUT project"), ALL, tools=("bsdtar",)),
    Case("git-bundle", bundle, ALL, "git", ("git",)),
    # single files
    *(Case(f"one-{command.split()[0]}-{end}", sh(f"{command} < project/src/main.f90 > $OUT"), {},
           f"{command.split()[0]} -dc", (command.split()[0],), single=f"main.f90.{end}")
      for command, end in (("gzip", "gz"), ("pigz", "gz"), ("bzip2", "bz2"), ("xz", "xz"),
                           ("xz --format=lzma", "lzma"), ("zstd -q", "zst"), ("lzip", "lz"),
                           ("lz4 -q", "lz4"), ("compress", "Z"))),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees")


def require(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_read_as_by_a_reference(case: Case, tmp_path: Path) -> None:
    require(*case.tools, "bsdtar", "7z")
    source, archive = tmp_path / "source", tmp_path / "archive"
    is_whole = any(path.startswith("project/") for path in case.tree)
    for path, data in (case.tree if is_whole else TREE).items():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    case.make(source, tmp_path / "made")
    made = next(path for path in tmp_path.iterdir() if path.name.startswith("made"))
    made.rename(archive)
    if case.single:
        out = subprocess.run([*case.reference.split(), archive], check=False, capture_output=True,
                             stdin=archive.open("rb"))  # fmt: skip
        (member,) = read_members(archive, name=case.single)
        assert (member.path, member.data) == ("main.f90", TREE["project/src/main.f90"])
        assert member.reason is None
        assert out.returncode or out.stdout == member.data
        return
    theirs = unpacked(case, archive, tmp_path / "unpacked")
    for path, data in case.tree.items():
        assert theirs[path] == data, f"{path}: the reference reads something else"
    ours = {}
    for member in read_members(archive, name="archive"):
        path = member.path
        if case.within:
            head, _, path = path.partition("/")
            if not head.startswith(case.within.partition("/")[0]) or not path:
                continue
        ours[path.removeprefix("./").lstrip("/")] = member
    assert ours.keys() == theirs.keys()
    for path, member in ours.items():
        if path in case.unread:
            assert member.status == "unsupported", member
        elif len(theirs[path]) > LIMIT:
            assert (member.status, member.size) == ("too_large", len(theirs[path]))
        else:
            assert (member.status, member.data) == ("ok", theirs[path]), member


def unpacked(case: Case, archive: Path, target: Path) -> dict[str, bytes]:
    """Every file that the reference makes of an archive."""
    target.mkdir()
    tool, _, options = case.reference.partition(" ")
    if tool == "7z":
        command = ["7z", "x", "-y", f"-o{target}", str(archive)]
    elif tool == "deb":
        command = ["dpkg-deb", "-x", str(archive), str(target)]
    elif tool == "gem":
        command = ["bash", "-c", f"tar -xOf {archive} data.tar.gz | tar -xz -C {target}"]
    elif tool == "git":
        command = ["git", "clone", "-q", str(archive), str(target)]
    else:
        command = ["bsdtar", "-xf", str(archive), "-C", str(target), *options.split()]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(target).parts
    }


def test_python_s_own_compressors(tmp_path: Path) -> None:
    """The same bytes by the standard library, and by zstandard."""
    for end, data in (
        ("gz", gzip.compress(TEXT)),
        ("bz2", bz2.compress(TEXT)),
        ("xz", lzma.compress(TEXT)),
        ("lzma", lzma.compress(TEXT, lzma.FORMAT_ALONE)),
        ("zst", zstandard.compress(TEXT)),
    ):
        (tmp_path / "one").write_bytes(data)
        (member,) = read_members(tmp_path / "one", name=f"values.py.{end.upper()}")
        assert (member.path, member.data) == ("values.py", TEXT)
