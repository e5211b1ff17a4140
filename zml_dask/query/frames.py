"""Rows of the tables as pandas DataFrames, their text read when it is looked at."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.query.lazy_texts import LazyTexts
from zml_dask.store.layout import TABLES
from zml_dask.store.snapshot import Snapshot


def lazy_frame(
    snapshot: Snapshot, table: str, eager: pa.Table, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Make a DataFrame of rows of a table whose text is read when it is looked at.

    Parameters
    ----------
    snapshot : Snapshot
    table : str
    eager : pyarrow.Table
        The columns that are not text, of those rows.
    rows : numpy.ndarray of int64, shape (n,)
        Numbers of the rows.
    """

    def read(name: str, numbers: NDArray[np.int64]) -> pa.ChunkedArray:
        return snapshot.take(table, numbers, [name])[name]

    frame = to_pandas(eager)
    for position, column in enumerate(TABLES[table]):
        if column.name not in frame:
            texts: Any = LazyTexts(partial(read, column.name), rows)
            frame.insert(position, column.name, texts)
    return frame


def eager_columns(table: str) -> list[str]:
    """Names of the columns that are not text."""
    return [column.name for column in TABLES[table] if not pa.types.is_string(column.type)]


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Turn into a DataFrame; whole numbers that may be missing stay whole numbers."""
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    optional = pa.schema([column for column in table.schema if column.nullable])
    frame: pd.DataFrame = table.select(optional.names).to_pandas(types_mapper=nullable.get)
    for position, column in enumerate(table.schema):
        if not column.nullable:
            frame.insert(position, column.name, table.column(column.name).to_pandas())
    return frame
