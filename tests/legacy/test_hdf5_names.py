"""Names of HDF5 datasets: 2018's where HDF5 can hold them, told apart where it cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.legacy.hdf5 import alternative_name, split_name, split_path

awkward = st.text(st.sampled_from("./%\0a_0125EF"), min_size=1, max_size=30)


def full_name(path: str, number: int) -> str:
    folders, stem = split_path(path)
    return "/".join([*folders, f"{stem}__{number}"])


@given(st.one_of(awkward, st.text(min_size=1)), st.integers(0, 1300))
def test_a_name_leads_back_to_path_and_number(path: str, number: int) -> None:
    assert split_name(full_name(path, number)) == (path, number)
    assert split_name(alternative_name(full_name(path, number))) == (path, number)


@given(awkward)
def test_hdf5_reads_the_parts_as_they_are_written(path: str) -> None:
    parts = full_name(path, 0).split("/")
    assert "\0" not in path or all("\0" not in part for part in parts)
    assert not {"", ".", "\0"} & set(parts)


@given(st.lists(awkward, unique=True, max_size=20))
def test_two_paths_never_share_a_name(paths: list[str]) -> None:
    assert len({full_name(path, 0) for path in paths}) == len(paths)


@pytest.mark.parametrize(
    "path", ["owner-repo-1/src/a.py", "100%.txt", "a%20b", "..", "x__0", "._", "a/../b", "é/ü"]
)
def test_ordinary_names_are_those_of_2018(path: str) -> None:
    assert full_name(path, 3) == f"{path}__3"


def test_other_names_are_no_segments() -> None:
    assert [split_name(name) for name in ("a", "a__", "a__x", "a__-1", "a__" + "9" * 5000)] == (
        [None] * 5
    )
