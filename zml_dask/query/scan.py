"""Reading the tables: only the columns and row groups that are needed, of all parts at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zml_dask.query.lazy_texts import LazyTexts
from zml_dask.store.info import DatasetInfo, Part
from zml_dask.store.layout import TABLES
from zml_dask.store.operations import StorageError
from zml_dask.store.storage import Storage

_PARTS_AT_ONCE = 8

_Result = TypeVar("_Result")


class _RangeFile(io.RawIOBase):
    """A part as a seekable file that reads what it is asked for, and not a byte ahead.

    fsspec's own files read five megabytes ahead, more than a column of a part has.
    """

    def __init__(self, storage: Storage, part: Part) -> None:
        self._storage = storage
        self._part = part
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        stop = min(self._at + len(target), self._part.size)
        if stop <= self._at:
            return 0
        data = self._storage.read_range(self._part.path, self._at, stop)
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class TableReader:
    """The committed tables of a dataset; small, and can be pickled.

    Attributes
    ----------
    storage : Storage
    info : DatasetInfo
    held : mapping of str to bytes
        Parts that are in memory, by path.
    """

    storage: Storage
    info: DatasetInfo
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def rows(self, table: str) -> int:
        """Rows a table has."""
        return sum(part.rows for part in self.info.tables.get(table, ()))

    def scan(
        self, table: str, columns: Sequence[str], where: pc.Expression | None = None
    ) -> pa.Table:
        """Read some columns of the rows that match, in order.

        Row groups whose statistics say that nothing matches are not read.

        Parameters
        ----------
        table : str
        columns : sequence of str
        where : pyarrow.compute.Expression, optional

        Returns
        -------
        pyarrow.Table
            Of the table's own types, but text as ``large_string``.
        """

        def read(part: Part) -> pa.Table:
            fragment = pads.ParquetFileFormat().make_fragment(self._open(part))
            found: pa.Table = fragment.to_table(
                schema=TABLES[table], columns=list(columns), filter=where
            )
            return found

        return self._gather(table, columns, map_parts(read, self.info.tables.get(table, ())))

    def take(self, table: str, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Read some columns of rows by their numbers; row groups without any are not read.

        Parameters
        ----------
        table : str
        rows : numpy.ndarray of int64, shape (n,)
            Ascending.
        columns : sequence of str

        Returns
        -------
        pyarrow.Table
            Of the table's own types, but text as ``large_string``.
        """
        parts = self.info.tables.get(table, ())
        edges = np.cumsum([0, *(part.rows for part in parts)])
        tasks = []
        for part, first, stop in zip(parts, edges, edges[1:], strict=False):
            low, high = np.searchsorted(rows, [first, stop])
            if low < high:
                tasks.append((part, rows[low:high] - first))

        def read(task: tuple[Part, NDArray[np.int64]]) -> pa.Table:
            source = self._open(task[0])
            return pa.concat_tables(_take(source, task[1], _wide(table, columns)))

        return self._gather(table, columns, map_parts(read, tasks))

    def _open(self, part: Part) -> io.RawIOBase | io.BytesIO:
        if part.path in self.held:
            return io.BytesIO(self.held[part.path])
        return _RangeFile(self.storage, part)

    @staticmethod
    def _gather(table: str, columns: Sequence[str], found: Iterator[pa.Table]) -> pa.Table:
        schema = _wide(table, columns)
        try:
            return pa.concat_tables([schema.empty_table(), *(t.cast(schema) for t in found)])
        except (pa.ArrowException, EOFError) as error:
            raise StorageError(
                f"the {table} table cannot be read ({error}); run zml-dask verify on the dataset"
            ) from error


_Task = TypeVar("_Task")


def map_parts(function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
    """Map in order, some at once: parts are in one place and the next one anywhere."""
    if len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ThreadPoolExecutor(min(len(tasks), _PARTS_AT_ONCE)) as pool:
        yield from pool.map(function, tasks)


def _wide(table: str, columns: Sequence[str]) -> pa.Schema:
    """Columns of a table with 64-bit offsets where they hold text.

    Those of `pyarrow.string` end at 2 GiB, which 33 million SHA-256 fill: taking rows of
    such a column, or combining its chunks, overflows.
    """
    wide = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.list_(pa.large_string())}
    fields = (TABLES[table].field(name) for name in columns)
    return pa.schema([column.with_type(wide.get(column.type, column.type)) for column in fields])


def _take(
    source: io.RawIOBase | io.BytesIO, rows: NDArray[np.int64], schema: pa.Schema
) -> list[pa.Table]:
    """Take rows of one part, row group by row group."""
    file = pq.ParquetFile(source, pre_buffer=True)
    taken = []
    first = 0
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        low, high = np.searchsorted(rows, [first, first + count])
        if low < high:
            group = file.read_row_group(number, columns=schema.names).select(schema.names)
            group = group.cast(schema)
            wanted = rows[low:high] - first
            taken.append(group if wanted.size == count else group.take(pa.array(wanted)))
        first += count
    return taken


def lazy_frame(
    tables: TableReader, table: str, eager: pa.Table, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Make a DataFrame of rows of a table whose text is read when it is looked at.

    Parameters
    ----------
    tables : TableReader
    table : str
    eager : pyarrow.Table
        The columns that are not text, of those rows.
    rows : numpy.ndarray of int64, shape (n,)
        Numbers of the rows.
    """

    def read(name: str, numbers: NDArray[np.int64]) -> pa.ChunkedArray:
        return tables.take(table, numbers, [name])[name]

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
