"""Archives as GitHub makes them, the same bytes each time."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO

_FILE_MODE = 0o100644
_FOLDER_MODE = 0o040755


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a repository: its path in there, and its bytes or where they are."""

    path: str
    data: bytes | Path

    def read(self) -> bytes:
        """Return its bytes."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()


def write_zip(
    target: IO[bytes], top: str, sources: Sequence[Source], *, when: datetime, commit: str
) -> None:
    """Write a zip in GitHub's form: one top folder, folders as entries, the commit as comment."""
    stamp = max(when.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = commit.encode("ascii")
        for folder in _folders(top, sources):
            entry = zipfile.ZipInfo(folder, stamp)
            entry.external_attr = _FOLDER_MODE << 16
            archive.writestr(entry, b"")
        for source in sorted(sources, key=lambda one: one.path):
            entry = zipfile.ZipInfo(f"{top}/{source.path}", stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = _FILE_MODE << 16
            archive.writestr(entry, source.read())


def write_tar_gz(
    target: IO[bytes], top: str, sources: Sequence[Source], *, when: datetime, commit: str
) -> None:
    """Write a gzipped tar in GitHub's form: one top folder, the commit in the global header."""
    with (
        # Neither name nor time of the file may get into the gzip header.
        gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed,
        tarfile.open(
            fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": commit}
        ) as archive,
    ):
        for source in sorted(sources, key=lambda one: one.path):
            data = source.read()
            entry = tarfile.TarInfo(f"{top}/{source.path}")
            entry.size, entry.mode, entry.mtime = len(data), 0o644, int(when.timestamp())
            archive.addfile(entry, BytesIO(data))


def zip_bytes(
    top: str, sources: Sequence[Source], *, when: datetime, commit: str = "0" * 40
) -> bytes:
    """Return a small zip in GitHub's form."""
    target = BytesIO()
    write_zip(target, top, sources, when=when, commit=commit)
    return target.getvalue()


def _folders(top: str, sources: Iterable[Source]) -> list[str]:
    folders = {f"{top}/"}
    for source in sources:
        parts = source.path.split("/")[:-1]
        folders.update(f"{top}/{'/'.join(parts[: i + 1])}/" for i in range(len(parts)))
    return sorted(folders)
