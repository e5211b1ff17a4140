"""Columns that are read on first use do all that pandas' own do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from zml_dask.query.dataframes import TEXT, LazyTexts

VALUES = [None if i % 10 == 3 else f"t{i % 40}" for i in range(100)]


class Source:
    """Counts what is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, rows: np.ndarray) -> pa.ChunkedArray:
        self.read.append(rows.size)
        assert (np.diff(rows) > 0).all()
        return pa.chunked_array([pa.array([VALUES[row] for row in rows], pa.string())])


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def frame(source: Source) -> pd.DataFrame:
    frame = pd.DataFrame({"x": np.arange(100)})
    frame.insert(1, "t", LazyTexts(source, np.arange(100)))
    return frame


PLAIN = pd.DataFrame({"x": np.arange(100), "t": pd.array(VALUES, dtype=TEXT)})

OPERATIONS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "mask": lambda f: f[f.x > 50],
    "slice": lambda f: f.iloc[10:30:3],
    "sort": lambda f: f.sort_values("x", ascending=False),
    "sort by text": lambda f: f.sort_values(["t", "x"]),
    "upper": lambda f: f.t.str.upper(),
    "compare": lambda f: f[f.t == "t5"],
    "contains": lambda f: f[f.t.str.contains("^t1", na=False)],
    "missing": lambda f: f[f.t.isna()],
    "fill": lambda f: f.t.fillna("none"),
    "counts": lambda f: f.t.value_counts(),
    "group": lambda f: f.groupby("t").x.sum(),
    "merge": lambda f: f.merge(pd.DataFrame({"x": [1, 2, 200], "y": 1}), how="right"),
    "concat": lambda f: pd.concat([f, f[f.x < 5]]),
    "unique": lambda f: f.drop_duplicates("t"),
    "index": lambda f: f.set_index("t").loc[["t5"]],
    "reset": lambda f: f[f.x > 3].reset_index(),
    "reindex": lambda f: f.reindex([3, 200, 5]),
    "shift": lambda f: f.t.shift(1),
    "add": lambda f: f.t + "!",
    "category": lambda f: f.t.astype("category").cat.codes,
    "numpy": lambda f: pd.Series(f.t.to_numpy()),
    "assign": lambda f: f.assign(t=f.t.where(f.x > 50, "small")),
    "explode": lambda f: f.t.str.split("1").explode(),
    "query": lambda f: f.query("t == 't7'"),
    "rows": lambda f: pd.DataFrame(f.itertuples(index=False)),
    "pickle": lambda f: pickle.loads(pickle.dumps(f)),
    "deepcopy": copy.deepcopy,
    "sample": lambda f: f.sample(20, random_state=1),
    "set": lambda f: f.copy().assign(y=1).mask(f.x == 4, "changed"),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("loaded", [False, True])
def test_operations_give_what_they_give_on_plain_columns(
    frame: pd.DataFrame, name: str, loaded: bool
) -> None:
    if loaded:
        frame.t.to_numpy()
    result, expected = OPERATIONS[name](frame), OPERATIONS[name](PLAIN)
    assert type(result) is type(expected)
    assert result.equals(expected), f"{result}\n{expected}"


def test_choosing_rows_reads_nothing(frame: pd.DataFrame, source: Source) -> None:
    few = frame[frame.x > 50].sort_values("x", ascending=False).iloc[:5]
    assert len(few) == 5
    assert few.x.tolist() == [99, 98, 97, 96, 95]
    assert frame.dtypes.t == PLAIN.dtypes.t
    assert frame.groupby("x").x.sum().sum() == PLAIN.x.sum()
    assert source.read == []
    assert few.t.tolist() == ["t19", "t18", "t17", "t16", "t15"]
    assert source.read == [5]
    assert repr(frame) == repr(PLAIN)
    assert source.read == [5, 10]


def test_a_value_is_read_alone_and_a_loop_reads_all(frame: pd.DataFrame, source: Source) -> None:
    assert [frame.t.iloc[i] for i in (4, -1)] == ["t4", "t19"]
    assert source.read == [1, 1]
    assert pd.isna(frame.t.iloc[3])
    assert frame.t[7] == "t7"
    values = [frame["t"].iloc[i] for i in range(100)]
    assert values[5] == "t5"
    assert len(source.read) < 30


def test_values_can_be_set(frame: pd.DataFrame) -> None:
    frame.loc[3, "t"] = "changed"
    assert frame.t.tolist()[:5] == ["t0", "t1", "t2", "changed", "t4"]
