"""Columns of derived tables come along by name wherever a view goes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dataset_builders import stage_record, write_dataset

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.query import labelled
from zml_dask.query.dataset import Dataset
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage

CODE, GENERATED, RULE = "lines_of_code.code", "is_generated.value", "is_generated.rule"
COLUMNS = (CODE, GENERATED, RULE)


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("by-name")
    storage = write_dataset(Storage.open(folder / "ds"), folder)
    body = "".join(f"value_{n} = compute(first_{n}, second_{n})\n" for n in range(100))
    copies = [(f"copy{n}.py", body + f"# {n}\n") for n in range(3)]
    locked = [("poetry.lock", "# a list of what is installed here\n" * 9)]
    stage_record(storage, folder, 51, [*copies, *locked], {})
    commit(storage)
    found = zml.open_dataset(folder / "ds")
    for name in ("lines_of_code", "is_generated", "near_duplicates"):
        found = zml.derive(found, name)
    return found


def test_weights_of_a_cluster_add_up_to_one(ds: Dataset) -> None:
    view = ds.select("path.starts_with('copy') or path = 'poetry.lock'")
    images, weights = next(iter(view.batches(99, weights="cluster")))
    files = view.files
    assert len(images) == len(weights) == files.n_images.sum()
    of_copies = np.repeat(files.path.str.startswith("copy"), files.n_images)
    assert weights.dtype == np.float32
    assert weights[of_copies] == pytest.approx(1 / 3)
    assert weights[~of_copies] == pytest.approx(1)
    # Of a selection only its own files count.
    two = ds.select("path in ('copy0.py', 'copy2.py')")
    (_, codes, weights) = next(iter(two.batches(99, labels="path", weights="cluster")))
    assert sorted(set(codes)) == [0, 1]
    assert weights == pytest.approx(1 / 2)
    # A file that is too short to be compared counts as itself.
    short = ds.select("near_duplicates.cluster is null and status = 'ok'")
    assert {float(w) for _, more in short.batches(weights="cluster") for w in more} <= {1.0}
    _, of_column = next(iter(two.batches(99, weights=CODE)))
    assert set(of_column) == {100.0}
    with pytest.raises(UsageError, match="holds no numbers"):
        two.batches(weights="path")
    with pytest.raises(UsageError, match="missing for some files"):
        ds.batches(weights=CODE)


def test_weights_need_the_clusters_of_the_latest_files(ds: Dataset, tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    plain = zml.open_dataset(storage.url)
    with pytest.raises(UsageError, match="zml-dask derive DATASET near_duplicates"):
        plain.batches(weights="cluster")
    found = zml.derive(plain, "near_duplicates")
    assert len(found.batches(weights="cluster"))
    stage_record(storage, tmp_path, 60, [("a.py", "x = 1\n")], {})
    commit(storage)
    later = zml.open_dataset(storage.url)
    for ask in (
        lambda: later.batches(weights="cluster"),
        lambda: later.split({"a": 0.5, "b": 0.5}, by="cluster"),
    ):
        with pytest.raises(UsageError, match="not those of its latest files"):
            ask()


def test_labels_of_a_derived_table(ds: Dataset) -> None:
    view = ds.select("record_id = 51 and status = 'ok'")
    batches = view.batches(99, labels=RULE)
    _, codes = next(iter(batches))
    rules = view.read(RULE)[RULE].tolist()
    assert batches.classes == ("lock file",)
    locked = [0 if rule == "lock file" else -1 for rule in rules]
    assert codes.tolist() == np.repeat(locked, view.files.n_images).tolist()
    torch = pytest.importorskip("torch")
    images, codes, weights = next(iter(view.to_torch(99, labels=RULE, weights="cluster")))
    assert len(images) == len(codes) == len(weights)
    assert weights.dtype == torch.float32


@pytest.mark.parametrize("small", [0, 10**6])
def test_coordinates(ds: Dataset, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "SMALL", small)
    found = ds.to_xarray(COLUMNS)
    expected = ds.read("file_id", *COLUMNS).set_index("file_id").loc[found.file_id.values]
    code = found[CODE]
    assert code.dtype == np.float64  # some files have no text
    assert np.array_equal(code.values, expected[CODE].astype(float), equal_nan=True)
    assert (found[RULE].values == "lock file").sum() == (expected[RULE] == "lock file").sum() > 0
    assert found[GENERATED].values.tolist() == expected[GENERATED].tolist()
    with pytest.raises(UsageError, match="one value per image"):
        ds.to_xarray(["keywords"])


def or_none(value: Any) -> Any:
    return None if pd.isna(value) else value


def test_exports(ds: Dataset, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    view = ds.select("record_id in (20, 51)")
    expected = view.read("file_id", *COLUMNS).set_index("file_id")
    where = ("--where", "record_id in (20, 51)", "--columns", ",".join((*COLUMNS, "path")))
    target = str(tmp_path / "out")
    status, _, said = run("export", ds.url, target, "--format", "parquet,webdataset", *where)
    assert status == 0, said
    (part,) = Path(target).glob("*.parquet")
    table = pq.read_table(part)
    assert table.column_names[-3:] == [*COLUMNS]
    assert str(table.schema.field(CODE).type) == "int32"
    for row in table.to_pylist():
        for name in COLUMNS:
            assert row[name] == or_none(expected.loc[row["file_id"], name])
    (shard,) = Path(target).glob("*.tar")
    with tarfile.open(shard) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".json"):
                said_of_it = json.load(io.TextIOWrapper(tar.extractfile(member)))  # type: ignore[arg-type]
                for name in COLUMNS:
                    assert said_of_it[name] == or_none(expected.loc[said_of_it["file_id"], name])
    status, _, said = run(
        "export", ds.url, str(tmp_path / "none"), "--format", "parquet", "--columns", "loc.code"
    )
    assert status == 2
    assert "no table 'loc'" in said


def test_the_library_datasets(ds: Dataset) -> None:
    pytest.importorskip("datasets")
    found = ds.select("record_id = 51").to_huggingface([CODE, RULE])
    assert sorted(found["path"]) == ["copy0.py", "copy1.py", "copy2.py", "poetry.lock"]
    of_path = dict(zip(found["path"], found[CODE], strict=True))
    assert of_path["copy1.py"] == 100
    assert "lock file" in found[RULE]
