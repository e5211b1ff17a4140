"""Reading the members of zip archives on one core, checksums verified: libraries side by side."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from comparison import compare
from corpus import archives
from isal import isal_zlib
from zlib_ng import zlib_ng

from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.unpack import read_members

_LOCAL_HEADER = 30


def raw_members(path: Path) -> list[tuple[bytes, int]]:
    """Return each deflated member's bytes and its size when inflated."""
    data = path.read_bytes()
    found = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_DEFLATED or member.file_size > 100_000:
                continue
            at = member.header_offset
            name = int.from_bytes(data[at + 26 : at + 28], "little")
            extra = int.from_bytes(data[at + 28 : at + 30], "little")
            start = at + _LOCAL_HEADER + name + extra
            found.append((data[start : start + member.compress_size], member.file_size))
    return found


def with_zipfile(paths: list[Path]) -> None:
    """The standard library's way, overhead included."""
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size <= 100_000:
                    archive.read(member)


def with_ours(paths: list[Path]) -> None:
    """The package's reader: sorted, bounded, checked."""
    for path in paths:
        for _ in read_members(path, name=path.name, limits=FetchLimits()):
            pass


def main() -> None:
    paths = archives()
    raw = [member for path in paths for member in raw_members(path)]
    megabytes = sum(size for _, size in raw) / 1e6
    compare(
        "Inflating the corpus",
        megabytes,
        "MB",
        {
            "zipfile, whole archives": lambda: with_zipfile(paths),
            "zml_dask's reader, whole archives": lambda: with_ours(paths),
            "zlib alone": lambda: [zlib.decompress(d, -15, n) for d, n in raw],
            "zlib-ng alone": lambda: [zlib_ng.decompress(d, -15, n) for d, n in raw],
            "isal alone": lambda: [isal_zlib.decompress(d, -15, n) for d, n in raw],
        },
    )


if __name__ == "__main__":
    main()
