"""2018's loaders: the same results on a pickle, on a dataset, and by 2018's own rules."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml_dask.errors import UsageError
from zml_dask.legacy import load_all, load_by_extension, load_by_regexp, recursive_find
from zml_dask.legacy.legacy_record import LegacyRecord
from zml_dask.query.dataset import open_dataset
from zml_dask.safe_pickle import ForbiddenPickleError
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw

from .conftest import SOURCES, export_dataset, package_sources
from .reference import must_be_equal, segments_2018


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_dataset(dataset, folder, ["pickle"])
    return folder


@pytest.fixture(params=["pickle", "dataset"])
def pkl(request: pytest.FixtureRequest, dataset: Path, exported: Path) -> Callable[[int], str]:
    """Path of a record's pickle: one that is there, and one that only a dataset stands for."""
    root = exported if request.param == "pickle" else dataset / "legacy"
    return lambda record_id: f"{root}/{record_id}/images_{record_id}.pkl"


def expected(sources: dict[str, bytes], matches: Callable[[str], bool], cutoff: int = 30) -> Any:
    """What 2018's loader gives, from its description."""
    images = [
        segment
        for path in sorted(sources)
        if matches(path) and b"\0" not in sources[path]
        for segment in segments_2018(sources[path])
        if len(segment) > cutoff
    ]
    return [
        np.pad(image.astype(float), ((0, 80 - len(image)), (0, 0)), constant_values=32)
        for image in images
    ]


def test_all_images_of_a_record(pkl: Callable[[int], str]) -> None:
    images = load_all(pkl(7))
    assert images.shape == (7, 80, 80)
    np.testing.assert_array_equal(images, expected(SOURCES, lambda path: True))


def test_padded_images_are_floats_and_whole_ones_integers(pkl: Callable[[int], str]) -> None:
    assert load_all(pkl(7)).dtype == np.float64
    assert load_all(pkl(7), length_cutoff=79).dtype == np.int64
    assert load_all(pkl(7), script_name="full.c").dtype == np.int64


@pytest.mark.parametrize("cutoff", [0, 30, 31, 40, 79, 80])
def test_the_cutoff(pkl: Callable[[int], str], cutoff: int) -> None:
    images = load_all(pkl(7), length_cutoff=cutoff)
    assert len(images) == len(expected(SOURCES, lambda path: True, cutoff))
    assert images.shape[1:] == (80, 80)


def test_without_padding(pkl: Callable[[int], str]) -> None:
    ragged = load_all(pkl(7), pad_images=False)
    assert ragged.dtype == object
    assert sorted({image.shape for image in ragged}) == [(31, 80), (40, 80), (80, 80)]
    even = load_all(pkl(7), pad_images=False, length_cutoff=79)
    assert even.shape[1:] == (80, 80)


def test_padding_to_another_length(pkl: Callable[[int], str]) -> None:
    assert load_all(pkl(7), script_name="old.f", padding_length=100).shape == (1, 100, 100)


def matches(regexp: str, path: str) -> bool:
    return bool(re.search(regexp, path) or re.search(regexp, path.rpartition("/")[2]))


def test_by_expression(pkl: Callable[[int], str]) -> None:
    sources = package_sources("click")
    for regexp in ("[.]py$", "core", "^click-1a2b3c4/", "^core[.]py$", "nothing"):
        wanted = expected(sources, partial(matches, regexp))
        images = load_all(pkl(30), regexp=regexp)
        assert len(images) == len(wanted)
        if all(must_be_equal(data) for path, data in sources.items()):
            np.testing.assert_array_equal(images, wanted or np.empty((0, 80, 80)))


def test_by_extension(pkl: Callable[[int], str]) -> None:
    groups = load_by_extension(pkl(7), length_cutoff=0)
    assert {name: len(images) for name, images in groups.items()} == {
        "Makefile": 1, "c": 2, "csv": 1, "f": 1, "gitignore": 1, "md": 2, "py": 3,
    }  # fmt: skip
    assert set(load_by_extension(pkl(7))) == {"c", "f", "md", "py"}


def test_by_name(pkl: Callable[[int], str]) -> None:
    groups = load_by_regexp(pkl(7), regexp="src/", length_cutoff=0)
    assert sorted(groups) == ["a.py", "emoji.md", "full.c", "long.csv", "old.f"]
    np.testing.assert_array_equal(
        groups["old.f"][0, :31], segments_2018(SOURCES["top/src/old.f"])[0]
    )
    assert load_by_regexp(pkl(7), regexp="^old[.]f$")["old.f"].shape == (1, 80, 80)


def test_a_whole_dataset_is_all_of_its_records(dataset: Path, exported: Path) -> None:
    images = load_all(dataset, length_cutoff=0)
    committed = (7, 9, 30, 20, 40)  # in two commits: the dataset's own order
    one_by_one = [
        load_all(exported / f"{number}/images_{number}.pkl", length_cutoff=0)
        for number in committed
    ]
    np.testing.assert_array_equal(images, np.concatenate(one_by_one))


def test_a_view_of_a_dataset(dataset: Path) -> None:
    whole = open_dataset(dataset)
    np.testing.assert_array_equal(load_all(whole), load_all(dataset))
    record = whole.select(record_id=30)
    np.testing.assert_array_equal(
        load_all(record, regexp="py$"),
        load_all(dataset / "legacy" / "30" / "images_30.pkl", regexp="py$"),
    )
    python = load_by_extension(whole.select(record_id=7, language="Python"), length_cutoff=0)
    assert {name: images.shape for name, images in python.items()} == {"py": (3, 80, 80)}


def test_finding_pickles(dataset: Path, exported: Path) -> None:
    there = [Path(path).name for path in recursive_find(exported, "images_*.pkl")]
    assert there == [f"images_{number}.pkl" for number in (20, 30, 40, 7, 9)]
    stood_for = list(recursive_find(dataset, "images_*.pkl"))
    assert [Path(path).name for path in stood_for] == [
        f"images_{number}.pkl" for number in (7, 9, 20, 30, 40)
    ]
    assert not Path(stood_for[0]).exists()
    assert list(recursive_find(dataset, "*.h5")) == []
    assert len(list(recursive_find(exported))) == 10


def test_what_is_not_there_is_said(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UsageError, match="neither a pickle nor a dataset"):
        load_all(tmp_path / "images_1.pkl")
    with pytest.raises(UsageError, match="holds no record 1"):
        load_all(dataset / "legacy" / "1" / "images_1.pkl")
    with pytest.raises(UsageError, match="no folder"):
        list(recursive_find(tmp_path / "nothing", "*"))


def test_a_withdrawn_record_is_not_loaded(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "ds")
    path = tmp_path / "ds" / "legacy" / "7" / "images_7.pkl"
    assert len(load_all(path))
    withdraw(Storage.open(tmp_path / "ds"), [7], "asked for by its author")
    for load in (load_all, load_by_extension, load_by_regexp):
        with pytest.raises(UsageError, match="record 7 was withdrawn: asked for by its author"):
            load(path)
    assert str(path) not in list(recursive_find(tmp_path / "ds", "images_*.pkl"))


def test_a_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "images_1.pkl").write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
    with pytest.raises(ForbiddenPickleError):
        load_all(tmp_path / "images_1.pkl")


def test_pickles_of_the_time(tmp_path: Path, old_pickles: dict[str, bytes]) -> None:
    for name in ("py27_images_p2.pkl", "py36_images_p3.pkl"):
        (tmp_path / name).write_bytes(old_pickles[name])
        assert load_by_extension(tmp_path / name)["py"].shape == (1, 80, 80)
        assert load_by_regexp(tmp_path / name, regexp="R.adme")["Réadme"].dtype == np.float64


def test_a_record_keeps_nothing_of_the_other(make_record: Callable[..., LegacyRecord]) -> None:
    # A canvas is used again: what was yielded before must be copied by who keeps it.
    files = [(file.path, [part.sum() for part in file.segments()]) for file in make_record().files]
    again = {path: [part.sum() for part in segments_2018(SOURCES[path])] for path, _ in files}
    assert dict(files)["top/src/a.py"] == again["top/src/a.py"]
