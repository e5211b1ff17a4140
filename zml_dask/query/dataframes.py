"""Rows of the tables as pandas DataFrames that read text on first use.

Hashes, paths and metadata are nearly all of the tables' bytes, and most questions
are about other columns. pandas has no lazy columns, but its arrays of text are
Arrow arrays behind one attribute: here that attribute is read on first use, and
choosing rows before then chooses rows to read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from packaging.version import Version

from zml_dask.query.selection import BY_LANGUAGE, files_table, open_selected
from zml_dask.store.image_reader import Int64
from zml_dask.store.layout import FILES_SCHEMA, TABLES
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

Read = Callable[[Int64], pa.ChunkedArray]
"""Reads the values of some rows, whose numbers ascend."""


_MAX_SINGLES = 16
"""Values that are read one at a time, each with a row group of the table, before all are."""


_pandas_version = Version(pd.__version__)

TEXT: Any = (
    pd.StringDtype("pyarrow", na_value=np.nan)
    if _pandas_version >= Version("2.3")
    else pd.StringDtype("pyarrow_numpy")
)
"""The type of columns of text; what is missing is NaN in every version of pandas."""

# The stubs lack most of the interface of pandas' arrays.
_ArrowTexts: Any = TEXT.construct_array_type()


class LazyTexts(_ArrowTexts):
    """An array of text that knows its rows and reads them on first use.

    Everything but choosing rows is what pandas does with the text that was read,
    and gives pandas' own arrays.
    """

    def __new__(cls, read: Any, rows: Int64 | None = None, **_options: Any) -> Any:
        """Create one; of results what pandas creates: before version 3 it calls the class."""
        return _plain(read) if rows is None else super().__new__(cls)

    def __init__(self, read: Read, rows: Int64) -> None:
        self._read = read
        self._rows = rows
        self._dtype = TEXT
        self._singles = 0
        self._cache: dict[str, Any] = {}  # pandas' own

    @cached_property
    def _pa_array(self) -> pa.ChunkedArray:
        numbers, places = np.unique(self._rows, return_inverse=True)
        values = self._read(numbers).cast(pa.large_string())
        in_order = numbers.size == self._rows.size and (places[:-1] <= places[1:]).all()
        return values if in_order else values.take(pa.array(places))

    @property
    def loaded(self) -> bool:
        """Whether the text was read."""
        return "_pa_array" in self.__dict__

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of the row numbers, until the text is read."""
        return int(self._pa_array.nbytes if self.loaded else self._rows.nbytes)

    @classmethod
    def _from_sequence(cls, scalars: Any, **options: Any) -> Any:
        return _ArrowTexts._from_sequence(scalars, **options)  # noqa: SLF001 - pandas' interface

    def _from_pyarrow_array(self, values: Any) -> Any:
        # pandas constructs results of operations with it: as plain arrays.
        return _plain(values)

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain, (self._pa_array,)

    def __getitem__(self, item: Any) -> Any:
        item = pd.api.indexers.check_array_indexer(self, item)
        if self.loaded or not isinstance(item, (slice, np.ndarray, int, np.integer)):
            return super().__getitem__(item)
        if isinstance(item, (int, np.integer)):
            self._singles += 1
            if self._singles > _MAX_SINGLES:  # somebody loops
                return super().__getitem__(item)
            return LazyTexts(self._read, self._rows[np.array([item])]).to_numpy(object)[0]
        return LazyTexts(self._read, self._rows[item])

    def take(
        self, indices: Any, allow_fill: bool = False, fill_value: Any = None, **options: Any
    ) -> Any:
        """Choose rows by position; without reading them, unless some are to be filled."""
        chosen = np.asarray(indices)
        if self.loaded or (allow_fill and (chosen < 0).any()):
            return super().take(indices, allow_fill, fill_value, **options)
        return LazyTexts(self._read, self._rows[chosen])

    def copy(self) -> LazyTexts:
        """Copy; what was not read stays so."""
        again = LazyTexts(self._read, self._rows)
        if self.loaded:
            again._pa_array = self._pa_array
        return again

    def view(self, dtype: Any = None) -> Any:
        """Return the same values."""
        if dtype is not None:
            return super().view(dtype)
        again = self.copy()
        again._readonly = self._readonly  # noqa: SLF001 - one of ours
        return again


def _plain(values: pa.Array | pa.ChunkedArray) -> Any:
    # Since pandas 3 one class has several types; before, each type has its own.
    options = {"dtype": TEXT} if _pandas_version >= Version("3") else {}
    return _ArrowTexts(values, **options)


def lazy_frame(
    snapshot: Snapshot, table: str, frame: pd.DataFrame, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Add the text of rows of a table, by number, to their other columns: read on first use."""

    def read(name: str, numbers: NDArray[np.int64]) -> pa.ChunkedArray:
        return snapshot.take(table, numbers, [name])[name]

    for position, column in enumerate(TABLES[table]):
        if column.name not in frame:
            texts: Any = LazyTexts(partial(read, column.name), rows)
            frame.insert(position, column.name, texts)
    return frame


def files_frame(view: Dataset) -> pd.DataFrame:
    """Return a DataFrame of a view's files."""
    snapshot, names = view.snapshot, _eager_columns("files")
    if view.is_all:
        rows = np.arange(view.info.counts.files, dtype=np.int64)
        # One by one, as a table of all takes as much memory again as the DataFrame; but from a
        # server together, which are a third of the requests.
        groups = [[name] for name in names] if snapshot.storage.is_local else [names]
        columns: dict[Any, pd.Series[Any]] = {}
        for group in groups:
            columns |= to_pandas(snapshot.scan("files", group)).items()
        return lazy_frame(snapshot, "files", pd.DataFrame(columns, copy=False), rows)
    rows = view.selection.file_id
    asked = {c.name for one in view.conditions for c in one.columns if c.level == "files"}
    if view.base is None and files_table(snapshot, {*names, *asked}) == BY_LANGUAGE:
        # There the rows are together, and in the other table scattered.
        with open_selected(view, set(names)) as database:
            eager = database.table(f"SELECT {', '.join(names)} FROM selected ORDER BY file_id")
        eager = eager.cast(pa.schema([FILES_SCHEMA.field(name) for name in names]))
    else:
        eager = snapshot.take("files", rows, names)
    return lazy_frame(snapshot, "files", to_pandas(eager), rows)


def files_of_record(snapshot: Snapshot, record_id: int) -> pd.DataFrame:
    """Return a DataFrame of the files of a record."""
    eager = snapshot.scan("files", _eager_columns("files"), pc.field("record_id") == record_id)
    return lazy_frame(snapshot, "files", to_pandas(eager), eager["file_id"].to_numpy())


def records_frame(view: Dataset) -> pd.DataFrame:
    """Return a DataFrame of the records of a view's files."""
    rows = view.record_rows
    eager = view.snapshot.take("records", rows, _eager_columns("records"))
    return lazy_frame(view.snapshot, "records", to_pandas(eager), rows)


def _eager_columns(table: str) -> list[str]:
    """Names of the columns that are not text."""
    return [column.name for column in TABLES[table] if not pa.types.is_string(column.type)]


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert to a DataFrame; integers that may be null stay integers."""
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    optional = pa.schema([column for column in table.schema if column.nullable])
    frame: pd.DataFrame = table.select(optional.names).to_pandas(types_mapper=nullable.get)
    for position, column in enumerate(table.schema):
        if not column.nullable:
            frame.insert(position, column.name, table.column(column.name).to_pandas())
    return frame
