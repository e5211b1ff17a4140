"""Archives harmed at random: never a crash, never a wrong word, never a surprise in memory."""

from __future__ import annotations

import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zml_dask.fetch.member import FetchLimits, Member, is_version_control
from zml_dask.fetch.streams import Kind, recognise
from zml_dask.fetch.unpack import is_sound, kind_of, read_members
from zml_dask.text_safety import escape_path

from .archives import COMPRESSIONS, GOOD, make_tar, make_zip

LIMITS = FetchLimits(max_members=1000, max_unpacked_bytes=4_000_000)
ARCHIVES = [
    *(make_zip(GOOD, method) for method in (0, 8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)),
    *(squeeze(make_tar(GOOD)) for squeeze in COMPRESSIONS.values()),
    make_tar({"d/" * 150 + name: data for name, data in GOOD.items()}),
]
MOST_MEMORY = 64_000_000


def read(data: bytes) -> list[Member]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive"
        path.write_bytes(data)
        members = list(read_members(path, name="archive", limits=LIMITS))
        assert is_sound(path, kind_of(path, limits=LIMITS)) in {True, False}
        assert [one.name for one in Path(folder).iterdir()] == ["archive"]
    for one in members:
        one.path.encode("utf-8")
        assert (one.data is not None) == (one.status == "ok")
        assert one.status == "ok" or one.reason
        assert one.data is None or len(one.data) <= LIMITS.max_file_bytes
    return members


@given(st.data())
@settings(max_examples=300)
def test_flipped_bytes(data: st.DataObject) -> None:
    archive = bytearray(data.draw(st.sampled_from(ARCHIVES)))
    for _ in range(data.draw(st.integers(1, 8))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    try:
        read(bytes(archive))
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@given(st.data())
@settings(max_examples=200)
def test_cut_anywhere(data: st.DataObject) -> None:
    archive = data.draw(st.sampled_from(ARCHIVES[:-1]))
    members = read(archive[: data.draw(st.integers(0, len(archive) - 1))])
    # What is read is right, or the file is so short that it is no archive at all.
    for one in members:
        assert one.data is None or one.path == "archive" or GOOD[one.path] == one.data


@given(st.data())
@settings(max_examples=200)
def test_spliced(data: st.DataObject) -> None:
    first, second = (data.draw(st.sampled_from(ARCHIVES)) for _ in range(2))
    cut = data.draw(st.integers(0, len(first)))
    read(first[:cut] + second[data.draw(st.integers(0, len(second))) :])


@given(st.binary(max_size=2000), st.sampled_from([archive[:16] for archive in ARCHIVES]))
@settings(max_examples=200)
def test_anything_behind_a_good_beginning(junk: bytes, head: bytes) -> None:
    read(head + junk)


@given(st.binary(max_size=600))
def test_any_bytes_are_something(head: bytes) -> None:
    assert recognise(head) in get_args(Kind)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
            lambda name: not name.endswith("/") and "\0" not in name
        ),
        st.binary(max_size=300),
        min_size=1,
        max_size=8,
    )
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_whatever_goes_in_comes_out(make: object, files: dict[str, bytes]) -> None:
    members = read(make(files))
    kept = {name: data for name, data in files.items() if not is_version_control(name)}
    assert {one.path: one.data for one in members} == {
        escape_path(name)[0]: data for name, data in kept.items()
    }
