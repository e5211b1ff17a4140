"""One squashfs image of many files, as the legacy (2018) dataset was published, with its md5.

``mksquashfs`` reads the files as a tar stream, so that only one record's files are on disk at a
time, even where all of them are half a terabyte.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from zml_dask.errors import ZmlError

Compression = Literal["gzip", "zstd", "xz", "lz4"]

_PROGRAM = "mksquashfs"
# Pickles of pixels are mostly zeros. Over half a gigabyte of them the default levels
# (gzip 9, zstd 15) take twenty times as long and save a sixth.
_LEVELS: dict[Compression, tuple[str, ...]] = {
    "gzip": ("-Xcompression-level", "4"),
    "zstd": ("-Xcompression-level", "3"),
    "xz": (),
    "lz4": (),
}
_INSTALL = (
    "install squashfs-tools 4.5 or later (Debian, Ubuntu, Fedora: the package squashfs-tools; "
    "conda-forge: squashfs-tools; macOS: brew install squashfs)"
)


def write_squashfs(
    files: Iterable[tuple[str, Path]], target: Path, *, compression: Compression = "gzip"
) -> str:
    """Pack files into a squashfs image, and return its md5 in hex.

    The same files in the same order give the same bytes, since owners, modes and times are not
    kept. The image appears under its name once it is complete, and replaces an existing one. Beside
    it, ``<name>.md5`` is a file that ``md5sum -c`` reads.

    `files` are pairs of a path within the image and the location of a file, which may be removed as
    soon as the next pair is requested. gzip, used in 2018, can be read by everything that reads
    squashfs. `ZmlError` if ``mksquashfs`` is not installed, or fails.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise ZmlError(f"{_PROGRAM} is not installed; {_INSTALL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        _run(program, files, partial, compression)
        # md5 is what the legacy dataset was published with, and Zenodo gives for every file.
        with partial.open("rb") as stream:
            new_md5 = functools.partial(hashlib.md5, usedforsecurity=False)
            digest = hashlib.file_digest(stream, new_md5).hexdigest()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    target.with_name(f"{target.name}.md5").write_text(f"{digest}  {target.name}\n", "utf-8")
    return digest


def _run(
    program: str, files: Iterable[tuple[str, Path]], target: Path, compression: Compression
) -> None:
    """Feed the files to ``mksquashfs``."""
    command = [program, "-", str(target), "-tar", "-comp", compression, *_LEVELS[compression]]
    command += ["-noappend", "-no-progress", "-quiet", "-no-xattrs", "-all-root"]
    command += ["-mkfs-time", "0", "-all-time", "0", "-root-mode", "755"]
    # With this variable set, it refuses its options for times.
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        stopped_reading = False
        try:
            with process.stdin as pipe:
                _write_tar(files, pipe)
        except BrokenPipeError:
            stopped_reading = True  # its output says why
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode or stopped_reading:
            log.seek(0)
            words = " ".join(log.read().decode("utf-8", "replace").split())[:300]
            raise ZmlError(
                f"{_PROGRAM} failed on {target.name} (status {process.returncode}): "
                f"{words or 'no message'}; if it has no option -tar, {_INSTALL}"
            )


def _write_tar(files: Iterable[tuple[str, Path]], pipe: IO[bytes]) -> None:
    """Write the files as a tar stream, each folder before what is in it."""
    folders: set[PurePosixPath] = {PurePosixPath(".")}
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files:
            for folder in reversed(PurePosixPath(name).parents):
                if folder not in folders:
                    folders.add(folder)
                    entry = tarfile.TarInfo(str(folder))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as source:
                tar.addfile(entry, source)
