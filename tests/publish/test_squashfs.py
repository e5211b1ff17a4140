"""A squashfs image from a stream of files: whole, reproducible, checkable, or a clear word."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySquashfsImage import SquashFsImage

from zml_dask.errors import ZmlError
from zml_dask.publish.squashfs import write_squashfs

needs_mksquashfs = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="needs squashfs-tools"
)


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, Path]]:
    made = []
    for number, name in enumerate(["7/images_7.pkl", "7/metadata_7.pkl", "12/images_12.pkl"]):
        path = tmp_path / f"file{number}"
        path.write_bytes(os.urandom(1000) + bytes(300_000))
        made.append((name, path))
    return made


@needs_mksquashfs
def test_the_files_are_in_it(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    image = tmp_path / "out" / "a.sqsh"
    write_squashfs(files, image)
    with SquashFsImage.from_file(str(image)) as opened:
        found = {file.path.lstrip("/"): file.read_bytes() for file in opened if file.is_file}
    assert found == {name: path.read_bytes() for name, path in files}


@needs_mksquashfs
def test_its_md5_is_beside_it(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    image = tmp_path / "out" / "a.sqsh"
    assert write_squashfs(files, image) == hashlib.md5(image.read_bytes()).hexdigest()
    checked = subprocess.run(
        ["md5sum", "-c", "a.sqsh.md5"], cwd=tmp_path / "out", capture_output=True, check=True
    )
    assert checked.stdout == b"a.sqsh: OK\n"


@needs_mksquashfs
def test_the_same_files_give_the_same_bytes(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_squashfs(files, tmp_path / "a.sqsh")
    for _, path in files:
        os.utime(path, (1, 1))
        path.chmod(0o600)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")
    assert write_squashfs(files, tmp_path / "b.sqsh") == first


@needs_mksquashfs
def test_a_file_may_go_when_the_next_is_asked_for(
    files: list[tuple[str, Path]], tmp_path: Path
) -> None:
    def one_at_a_time() -> Iterator[tuple[str, Path]]:
        for name, path in files:
            yield name, path
            path.unlink()

    whole = write_squashfs(files, tmp_path / "a.sqsh")
    assert write_squashfs(one_at_a_time(), tmp_path / "b.sqsh") == whole


@needs_mksquashfs
def test_a_source_that_fails_leaves_no_image(tmp_path: Path) -> None:
    def breaks() -> Iterator[tuple[str, Path]]:
        yield "a", tmp_path / "nothing"

    target = tmp_path / "out" / "a.sqsh"
    with pytest.raises(FileNotFoundError):
        write_squashfs(breaks(), target)
    assert list(target.parent.iterdir()) == []


def program(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "mksquashfs").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "mksquashfs").chmod(0o755)


def test_without_mksquashfs_it_says_what_to_install(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZmlError, match=r"not installed; install squashfs-tools 4\.5"):
        write_squashfs(files, tmp_path / "a.sqsh")


def test_its_own_words_are_handed_on(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "echo '-tar: invalid option' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(ZmlError, match=r"status 1.*-tar: invalid option"):
        write_squashfs(files, tmp_path / "a.sqsh")
    assert not (tmp_path / "a.sqsh").exists()
