"""Hostile and damaged HDF5 files read nothing of this machine, and say what is wrong."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from zml_dask.legacy.hdf5 import read_images_hdf5
from zml_dask.legacy.sources import LegacyFileError

Fill = Callable[[h5py.File], None]


def read(path: Path) -> dict[str, list[tuple[int, ...]]]:
    with path.open("rb") as stream:
        return {
            name: [segment.shape for segment in segments]
            for name, segments in read_images_hdf5(stream, name="x.h5")
        }


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Fill], Path]:
    def fill_file(fill: Fill) -> Path:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            fill(file)
        return tmp_path / "x.h5"

    return fill_file


def test_segments_come_in_the_order_of_their_numbers(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        for number in range(12):
            file[f"a/b.py__{number}"] = np.full((number + 1, 80), 97)

    assert read(make(fill)) == {"a/b.py": [(number + 1, 80) for number in range(12)]}


def test_empty_segments_and_other_names(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        file["a__0"] = np.empty((0, 0), np.int64)
        file["note"] = "of somebody"

    assert read(make(fill)) == {"a": [(0, 0)]}


def test_a_dataset_without_values_gives_none_of_this_machine(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        file["a__0"] = h5py.Empty("i8")

    with make(fill).open("rb") as stream:
        assert [float(part.sum()) for _, parts in read_images_hdf5(stream) for part in parts] == [0]


def test_links_out_of_the_file_are_not_followed(
    make: Callable[[Fill], Path], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a__0"] = np.full((1, 80), 97)

    def fill(file: h5py.File) -> None:
        file["a__0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "a__0")
        file["b__0"] = h5py.SoftLink("/c__0")
        file["c__0"] = np.full((1, 80), 97)

    assert read(make(fill)) == {"c": [(1, 80)]}


def test_values_in_other_files_are_not_read(make: Callable[[Fill], Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(640))

    def external(file: h5py.File) -> None:
        file.create_dataset("a__0", (1, 80), "i8", external=[(str(secret), 0, 640)])

    with pytest.raises(LegacyFileError, match=r"x\.h5: values of 'a' are in another file"):
        read(make(external))

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((1, 80), "i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a__0", (1, 80))
        file.create_virtual_dataset("a__0", layout)

    with pytest.raises(LegacyFileError, match="are in another file"):
        read(make(virtual))


def test_circles_end_and_diamonds_are_read_once(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        group = file
        for _ in range(30):
            child = group.create_group("0")
            group["1"] = child
            group = child
        group["up"] = file["0"]
        group["a__0"] = np.full((1, 80), 97)

    assert list(read(make(fill)).values()) == [[(1, 80)]]


def test_an_announced_size_is_not_believed(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("a__0", (10**9, 80), "i8", chunks=(80, 80))

    with pytest.raises(LegacyFileError, match="more rows than a file of 2018 can have"):
        read(make(fill))


def test_other_types_are_refused(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        file["a__0"] = ["text"]

    with pytest.raises(LegacyFileError, match="not an array of numbers"):
        read(make(fill))


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"<html>"])
def test_damaged_files_say_so(data: bytes) -> None:
    with pytest.raises(LegacyFileError, match=r"^x\.h5 cannot be read as HDF5: ."):
        list(read_images_hdf5(io.BytesIO(data), name="x.h5"))


def test_a_file_cut_short_says_so(make: Callable[[Fill], Path]) -> None:
    def fill(file: h5py.File) -> None:
        for number in range(20):
            file[f"a__{number}"] = np.full((80, 80), 97)

    data = make(fill).read_bytes()
    with pytest.raises(LegacyFileError):
        list(read_images_hdf5(io.BytesIO(data[: len(data) // 2])))
