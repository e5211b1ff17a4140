"""Splits: nothing straddles, the same every time, and stable as the dataset grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_builders import LICENCE, stage_record

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage

FRACTIONS = {"train": 0.6, "validation": 0.1, "test": 0.3}


def grow(storage: Storage, scratch: Path, record_ids: range) -> Dataset:
    """Add records: two versions a concept, a licence that all share, and copies of others."""
    for record_id in record_ids:
        files = [
            ("LICENSE", LICENCE),
            ("shared.py", f"helper = {record_id % 7}\n"),
            ("windows.py", f"shared = {record_id // 3}\r\n" if record_id % 2 else None),
            ("unix.py", f"shared = {record_id // 3}\n"),
            *((f"own{i}.py", f"own = {record_id}, {i}\n" * 100) for i in range(3)),
        ]
        stage_record(storage, scratch, record_id, files, {"concept_id": 1000 + record_id // 2})
    commit(storage)
    return zml.open_dataset(storage.url)


ROUNDS = {"newer": [range(60), range(60, 100)], "older": [range(40, 100), range(40)]}
"""What is committed first and then: records of higher numbers, or of lower ones."""


@pytest.fixture(scope="module", params=ROUNDS)
def grown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Dataset, Dataset]:
    """A dataset, and the same one after 40 more records."""
    base = tmp_path_factory.mktemp("split")
    storage = Storage.open(base / "ds")
    before, after = (grow(storage, base, records) for records in ROUNDS[request.param])
    return before, after


def test_neither_concepts_nor_contents_straddle(grown: tuple[Dataset, Dataset]) -> None:
    ds = grown[1]
    split = ds.split(FRACTIONS)
    assert list(split) == list(FRACTIONS)
    for column in ("records.concept_id", "sha256", "text_sha256"):
        seen = [set(part.read(column)[column].dropna()) for part in split.values()]
        assert sum(map(len, seen)) == len(set.union(*seen)), column
    pixels = [{i.tobytes() for i in part.images.compute()} for part in split.values()]
    assert sum(map(len, pixels)) == len(set.union(*pixels))


def test_every_file_is_in_one_part_or_left_out_as_a_copy(grown: tuple[Dataset, Dataset]) -> None:
    ds = grown[1]
    split = ds.split(FRACTIONS)
    parts = [*split.values(), split.left_out]
    ids = np.concatenate([part.files.file_id for part in parts])
    assert sorted(ids.tolist()) == ds.files.file_id.tolist()
    # What is left out is a copy of something that is kept, by its bytes or its text.
    kept = set.union(*(set(p.files.sha256) | set(p.files.text_sha256) for p in split.values()))
    left = split.left_out.files
    assert (left.sha256.isin(kept) | left.text_sha256.isin(kept)).all()
    assert not left.name.str.startswith("own").any()


def test_a_part_keeps_what_it_has_when_the_dataset_grows(grown: tuple[Dataset, Dataset]) -> None:
    before, after = (ds.split(FRACTIONS) for ds in grown)
    for name in FRACTIONS:
        assert set(before[name].files.file_id) <= set(after[name].files.file_id)


def test_the_order_of_the_parts_does_not_matter(grown: tuple[Dataset, Dataset]) -> None:
    one = grown[0].split({"a": 0.5, "b": 0.5})
    other = grown[0].split({"b": 0.5, "a": 0.5})
    assert one["a"].files.equals(other["a"].files)
    assert not one["a"].files.equals(grown[0].split({"a": 0.5, "b": 0.5}, seed=1)["a"].files)


@pytest.mark.parametrize("by", ["record", "file", "records.title", "name"])
def test_other_units(grown: tuple[Dataset, Dataset], by: str) -> None:
    split = grown[0].split({"a": 0.5, "b": 0.5}, by=by)
    assert len(split["a"])
    assert len(split["b"])
    column = {"record": "record_id", "file": "sha256"}.get(by, by)
    values = [set(part.read(column)[column]) for part in split.values()]
    assert not values[0] & values[1]


def test_shares_that_are_none(grown: tuple[Dataset, Dataset]) -> None:
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(UsageError, match="add up to 1"):
            grown[0].split(shares)
    with pytest.raises(UsageError, match="lists"):
        grown[0].split({"a": 1}, by="keywords")
