"""One commit of a dataset: the one reader of committed tables and images.

A `Snapshot` stays as it was opened when a later commit follows, and leaves out withdrawn
records in one place.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import get_ident
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zml_dask.errors import StorageError, UsageError
from zml_dask.store.image_reader import ImageReader
from zml_dask.store.info import DatasetInfo, Part, committed_info, ensure_same
from zml_dask.store.layout import RECORDS_SCHEMA, SUMMARY_SCHEMA
from zml_dask.store.storage import Storage
from zml_dask.store.summary import LeftOut, add_up, recorded_limit

_REPLACED = ("failures", "withdrawn")
"""Tables that a commit rewrites, and whose earlier parts it removes; others only grow."""

_PARTS_AT_ONCE = 8
_FOOTER = 65_536
"""Bytes of a part's end that are read for its footer; a longer one takes a second request."""

_BATCH_ROWS = 65_536
_MAX_GROUP_ROWS = 2**20
"""A few bytes can claim any number of rows, and memory must hold a group."""

_PARQUET = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)
"""A flipped bit is an error: each page has a checksum, which costs 3 % of the time to read it."""

RECORD_FACTS = tuple(name for name in RECORDS_SCHEMA.names if name != "metadata")

OnError = Callable[[Exception], None]
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Snapshot:
    """The tables and images of a dataset as of one commit; small, and can be pickled.

    Attributes
    ----------
    info : DatasetInfo
        What ``dataset.json`` said.
    held : mapping of str to bytes
        Parts of tables that a later commit removes, by path.

    Examples
    --------
    >>> snapshot = Snapshot.open(ds.url)
    >>> snapshot.scan("records", ["record_id", "license"]).to_pylist()[:2]
    [{'record_id': 10, 'license': 'mit'}, {'record_id': 20, 'license': 'apache-2.0'}]
    """

    storage: Storage
    info: DatasetInfo
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        dataset: str | os.PathLike[str] | Storage,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Read ``dataset.json``, and the parts of tables that the next commit would remove.

        `storage_options` are for fsspec. `UsageError` if nothing is committed there, or the URL's
        protocol is not known.
        """
        if not isinstance(dataset, Storage):
            dataset = Storage.open(os.fspath(dataset), **dict(storage_options or {}))
        storage = dataset

        def read(part: Part) -> bytes | None:
            try:
                return storage.read_range(part.path, 0, part.size)
            except StorageError:
                return None

        info = committed_info(storage)
        while True:
            parts = [part for table in _REPLACED for part in info.tables.get(table, ())]
            found = zip(parts, _map(read, parts), strict=True)
            held = {part.path: data for part, data in found if data is not None}
            if len(held) == len(parts):
                return cls(storage, info, held)
            # A commit has intervened, or the part is lost; then reading it fails.
            now = committed_info(storage)
            if now == info:
                return cls(storage, info, held)
            info = now

    def __reduce__(self) -> tuple[Any, ...]:
        # Cached values are read again where they are needed.
        return type(self), (self.storage, self.info, self.held)

    @property
    def token(self) -> str:
        """Hash of where the dataset lies, how it is reached, and its state.

        How it is reached counts, since one URL may lead to different places (another
        endpoint, another account); it is hashed, since it may contain a secret.
        """
        from dask.base import tokenize  # here, for the time it takes to import

        token: str = tokenize(self.storage, self.info.to_bytes())
        return token

    @cached_property
    def images(self) -> ImageReader:
        """Reads the committed images."""
        return ImageReader(self.storage, self.info)

    @cached_property
    def withdrawn(self) -> frozenset[int]:
        """Numbers of the records that must not be shown."""
        if not self.rows("withdrawn"):
            return frozenset()
        return frozenset(self.scan("withdrawn", ["record_id"])["record_id"].to_pylist())

    @cached_property
    def derived(self) -> dict[str, pa.Schema]:
        """Columns of the derived tables of files and records, by the tables' names."""
        tables = sorted(self.info.derived.items())
        return {name: table.schema for name, table in tables if table.of != "nothing"}

    def left_out(self) -> LeftOut:
        """Count the files that were left out for their size; reads the summary alone."""
        is_large = (pc.field("dimension") == "status") & (pc.field("value") == "too_large")
        rows = self.summary.filter(is_large)
        files, size = (pc.sum(rows[name]).as_py() or 0 for name in ("files", "bytes"))
        return LeftOut(files, size, recorded_limit(self.info.options))

    def records_without_images(self) -> int:
        """Count the records that hold no text: data, documents, programs."""
        return len(self.scan("records", ["record_id"], pc.field("n_images") == 0))

    @cached_property
    def summary(self) -> pa.Table:
        """Counts of everything that is shown, by dimension; see `store.summary`."""
        return add_up([self.scan("summary").cast(SUMMARY_SCHEMA)])

    def done(self) -> NDArray[np.int64]:
        """Ids of the records that no commit takes up again: committed, or withdrawn."""
        tables = ("records", "withdrawn")
        found = [self.scan(table, ["record_id"], with_withdrawn=True) for table in tables]
        ids: NDArray[np.int64] = pa.concat_tables(found)["record_id"].to_numpy()
        return ids

    def rows(self, table: str) -> int:
        """Rows a table has, those of withdrawn records included."""
        return sum(part.rows for part in self.info.tables.get(table, ()))

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        *,
        with_withdrawn: bool = False,
    ) -> pa.Table:
        """Read some columns (default: all) of the rows that match, in order.

        Row groups whose statistics exclude a match are not read. `table` is a key of
        `layout.TABLES`, or ``derived/<name>``. Columns have its types, but text is
        ``large_string``. `with_withdrawn`, for checks of what is stored, reads also the rows of
        withdrawn records. `StorageError` if a part is missing, or not a Parquet file.
        """
        parts = self.info.tables.get(table, ())
        names = self.info.table_schema(table).names if columns is None else list(columns)
        where = where if with_withdrawn else self._visible(table, where)

        def read(part: Part) -> pa.Table:
            with self.reading(part.path):
                fragment = _PARQUET.make_fragment(self._arrow_file(part))
                schema = self.info.table_schema(table)
                return fragment.to_table(schema=schema, columns=names, filter=where)

        with self.reading(f"the {table} table"):
            self.read_footers(parts)
            return _gather(self._wide(table, names), _map(read, parts))

    def take(self, table: str, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Read some columns of rows by their numbers; row groups without any are not read.

        `rows`, int64, ascend. In the files table a file's row is its ``file_id``. Rows of
        withdrawn records are read too: take numbers from `scan`. Types are those of `scan`.
        """
        parts = self.info.tables.get(table, ())
        edges = np.cumsum([0, *(part.rows for part in parts)])
        tasks = []
        for part, first, stop in zip(parts, edges, edges[1:], strict=False):
            low, high = np.searchsorted(rows, [first, stop])
            if low < high:
                tasks.append((part, rows[low:high] - first))

        def read(task: tuple[Part, NDArray[np.int64]]) -> pa.Table:
            source = self._arrow_file(task[0])
            return pa.concat_tables(_take(source, task[1], self._wide(table, columns)))

        with self.reading(f"the {table} table"):
            self.read_footers(part for part, _ in tasks)
            return _gather(self._wide(table, columns), _map(read, tasks))

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield some columns of all rows in order, and the path of each batch's part.

        In bounded memory, even if somebody made the dataset to fill it; with the rows
        of withdrawn records. `StorageError` if a part has other rows than ``dataset.json`` says, or
        more in a row group than fit.
        """
        for part in self.info.tables.get(table, ()):
            file = pq.ParquetFile(self._arrow_file(part), page_checksum_verification=True)
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            if file.metadata.num_rows != part.rows or max(groups, default=0) > _MAX_GROUP_ROWS:
                raise StorageError(
                    f"{part.path} has {file.metadata.num_rows} rows in {len(groups)} groups, "
                    f"where dataset.json says {part.rows}: it is damaged"
                )
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                yield part.path, batch.select(list(columns))

    def record_id(self, name: str) -> int:
        """Return the id of a record named by its id, its DOI, or the address of its page."""
        doi = re.search(r"10\.\d{4,9}/\S+", name)
        if doi and len(found := self.scan("records", ["record_id"], pc.field("doi") == doi[0])):
            return int(found["record_id"][0].as_py())
        form = r"(.*zenodo\.)(\d{1,18})" if doi else r"(.*/|zenodo\.)?(\d{1,18})"
        if number := re.fullmatch(form, name.strip(), re.IGNORECASE):
            return int(number[2])
        if doi:
            raise UsageError(f"{self.storage.url} holds no record with the DOI {doi[0]}")
        raise UsageError(f"{name!r} is neither a record's number nor its DOI")

    def record(self, record: int | str, columns: Sequence[str] = RECORD_FACTS) -> dict[str, Any]:
        """Return some columns of a record; `UsageError` with the reason if it is not shown.

        By default all but its metadata, of which Parquet has to read a whole row group.
        """
        record_id = self.record_id(record) if isinstance(record, str) else record
        missing = f"{self.storage.url} holds no record {record_id}"
        if abs(record_id) >= 2**63:
            raise UsageError(missing)
        its_own = pc.field("record_id") == int(record_id)
        if record_id in self.withdrawn:
            reason = self.scan("withdrawn", ["reason"], its_own)["reason"][0]
            raise UsageError(f"record {record_id} was withdrawn: {reason}")
        found = self.scan("records", columns, its_own).to_pylist()
        if found:
            row: dict[str, Any] = found[0]
            return row
        for failure in self.scan("failures", where=its_own).to_pylist():
            raise UsageError(
                f"record {record_id} is not in the dataset: {failure['kind']}: {failure['message']}"
            )
        raise UsageError(f"{missing}; 'zml-dask query' finds what it holds")

    def visible_sql(self, table: str) -> str:
        """Return the SQL condition for the rows of a table that are shown, as in `scan`."""
        if not self._hides(table):
            return "true"
        return f"record_id NOT IN ({', '.join(map(str, sorted(self.withdrawn)))})"

    def _hides(self, table: str) -> bool:
        has_records = "record_id" in self.info.table_schema(table).names
        return table != "withdrawn" and has_records and bool(self.withdrawn)

    def _visible(self, table: str, where: pc.Expression | None) -> pc.Expression | None:
        """Exclude the rows of withdrawn records: the one place where that is done."""
        if not self._hides(table):
            return where
        hidden = pa.array(sorted(self.withdrawn), pa.int64())
        shown = ~pc.field("record_id").isin(hidden)
        return shown if where is None else where & shown

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Name in errors what cannot be read; report if another dataset is there by now."""
        try:
            yield
        except (pa.ArrowException, OSError, EOFError, StorageError) as error:
            ensure_same(self.storage, self.info)
            if isinstance(error, StorageError):
                raise
            raise _unreadable(what, error) from error

    def _wide(self, table: str, columns: Sequence[str]) -> pa.Schema:
        """Columns of a table with 64-bit offsets where they hold text.

        Those of `pyarrow.string` end at 2 GiB, which 33 million SHA-256 fill: taking rows of
        such a column, or combining its chunks, overflows.
        """
        wide = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.list_(pa.large_string())}
        fields = map(self.info.table_schema(table).field, columns)
        return pa.schema([one.with_type(wide.get(one.type, one.type)) for one in fields])

    def open_part(self, part: Part, on_error: OnError | None = None) -> io.RawIOBase | io.BytesIO:
        """Open a part as a seekable file; its footer is read only once.

        `on_error` takes errors of reading, for a reader that keeps their text only.
        """
        if part.path in self.held:
            return io.BytesIO(self.held[part.path])
        return _PartFile(self, part, on_error)

    def _arrow_file(self, part: Part) -> IO[bytes] | io.RawIOBase | pa.NativeFile:
        """Open a part for Arrow: in memory, or as a file."""
        if part.path in self.held:
            copy = pa.allocate_buffer(len(self.held[part.path]))
            memoryview(copy).cast("B")[:] = self.held[part.path]
            return pa.BufferReader(copy)
        storage = self.storage
        return storage.open_reader(part.path) if storage.is_local else self.open_part(part)

    def read_part(self, part: Part, start: int, stop: int) -> bytes:
        """Read bytes `start` to `stop` of a part; `StorageError` if it ends before."""
        tail = self._footers.get(part.path, b"")
        first = part.size - len(tail)
        if start >= first:
            return tail[start - first : stop - first]
        data = self.storage.read_range(part.path, start, stop)
        if len(data) != stop - start:
            raise _unreadable(part.path, EOFError(f"it ends before byte {stop:,}"))
        return data

    def read_footers(self, parts: Iterable[Part]) -> None:
        """Read the footers of some parts, all at once, and keep them.

        Otherwise each part that is opened needs two requests for its footer, and two more when it
        is opened again. On this machine that costs nothing.
        """
        if self.storage.is_local:
            return
        missing = [
            part for part in parts if part.path not in self._footers and part.path not in self.held
        ]
        tails = self.storage.read_ranges(
            [(part.path, max(0, part.size - _FOOTER), part.size) for part in missing]
        )
        self._footers.update(zip((part.path for part in missing), tails, strict=True))
        longer = []
        for part, tail in zip(missing, tails, strict=True):
            size = int.from_bytes(tail[-8:-4], "little") + 8
            if len(tail) < size <= part.size:
                longer.append((part.path, part.size - size, part.size - len(tail)))
        for (path, _, _), head in zip(longer, self.storage.read_ranges(longer), strict=True):
            self._footers[path] = head + self._footers[path]

    @cached_property
    def _footers(self) -> dict[str, bytes]:
        """Last bytes of parts, by path."""
        return {}


class _PartFile(io.RawIOBase):
    """A part as a seekable file that reads exactly what is requested.

    fsspec's own files read five megabytes ahead, more than a column of a part has. Threads
    may read at once, each at a place of its own.
    """

    def __init__(self, snapshot: Snapshot, part: Part, on_error: OnError | None) -> None:
        self._snapshot = snapshot
        self._part = part
        self._on_error = on_error
        self._places: dict[int, int] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._part.size}[whence]
        self._places[get_ident()] = base + offset
        return base + offset

    def tell(self) -> int:
        return self._places.get(get_ident(), 0)

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        start = self.tell()
        stop = min(start + len(target), self._part.size)
        if stop <= start:
            return 0
        try:
            data = self._snapshot.read_part(self._part, start, stop)
        except Exception as error:
            if self._on_error is not None:
                self._on_error(error)
            raise
        target[: len(data)] = data
        self._places[get_ident()] = start + len(data)
        return len(data)


def among(record_ids: Sequence[int] | NDArray[np.int64]) -> pc.Expression:
    """Match these records, for `Snapshot.scan`.

    Arrow leaves out row groups by the least and the greatest number, but not by ``isin``.
    """
    field, known = pc.field("record_id"), pa.array(record_ids, pa.int64())
    if not len(known):
        return pc.scalar(False)
    edges = pc.min_max(known)
    return (field >= edges["min"]) & (field <= edges["max"]) & field.isin(known)


def _map(function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
    """Map in order, some at once: parts are in one place and the next one anywhere."""
    if len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ThreadPoolExecutor(min(len(tasks), _PARTS_AT_ONCE)) as pool:
        yield from pool.map(function, tasks)


def _gather(schema: pa.Schema, found: Iterator[pa.Table]) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *(t.cast(schema) for t in found)])


def _unreadable(what: str, error: Exception) -> StorageError:
    return StorageError(f"{what} cannot be read ({error}); run zml-dask verify on the dataset")


def _take(
    source: IO[bytes] | io.RawIOBase | pa.NativeFile, rows: NDArray[np.int64], schema: pa.Schema
) -> list[pa.Table]:
    """Take rows of one part, row group by row group."""
    file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
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
