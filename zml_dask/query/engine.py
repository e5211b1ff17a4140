"""DuckDB over the tables of a snapshot, behind a fence.

DuckDB was chosen over a language of our own, polars and Arrow's expressions: its SQL is
known, and it answers over 65 million files in a few gigabytes. It reads local parts
itself; parts anywhere else through `_PartFiles`, which keeps the footers. Measured
over 13 million files, that is as fast as plain DuckDB; Arrow datasets in the place of
files take three times as long.

The fence: no files but the parts, no network, no extensions, no settings that a statement
could change, no names of Python; bounded memory and disk, and a time limit on
request. What a statement may contain is checked in `sql`.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Self, TypeVar

import duckdb
import psutil
import pyarrow as pa
from dask.system import CPU_COUNT
from fsspec import AbstractFileSystem

from zml_dask.errors import StorageError, UsageError
from zml_dask.query.rows import Rows
from zml_dask.query.sql import query_error
from zml_dask.store.info import Part
from zml_dask.store.snapshot import Snapshot

_REMOTE_THREADS = 32
"""Each waits for one range; DuckDB asks for no more at a time than it has threads."""

_MEMORY: Final = 3 * 2**29
_PROTOCOL = "zml"
_BATCH = 131_072

_T = TypeVar("_T")


class Database:
    """A fenced DuckDB connection with views of a snapshot's tables; close it, or use ``with``.

    `tables` (of `layout.TABLES`, or ``derived/<name>``) are called ``all_files``, ``all_records``
    and so on, without withdrawn records. `views` are names of views of these and their SELECTs, in
    the order in which they are made, `bits` sets of rows for ``get_bit(getvariable('name'), row)``
    and `values` small tables. Beyond `memory_limit` bytes (by default 1.5 GiB, or half of the
    machine's memory if that is less) DuckDB spills to `tempfile.gettempdir()`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        tables: tuple[str, ...] = ("files", "records"),
        views: Mapping[str, str] | None = None,
        *,
        bits: Mapping[str, Rows] | None = None,
        values: Mapping[str, pa.Array | pa.Table] | None = None,
        memory_limit: float | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._parts = _PartFiles(snapshot)
        memory: float = min(_MEMORY, psutil.virtual_memory().total // 2)
        if memory_limit is not None:
            memory = min(_positive("memory_limit", memory_limit, "bytes"), 2**60)
        local = snapshot.storage.is_local
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": CPU_COUNT if local else _REMOTE_THREADS,
                "memory_limit": f"{int(memory) // 1024} KiB",
                "temp_directory": _temporary_folder(),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            },
        )
        run = self._connection.execute
        if not local:
            self._connection.register_filesystem(self._parts)
        paths = []
        with self._errors():
            for name, items in (values or {}).items():
                table = items if isinstance(items, pa.Table) else pa.table({"value": items})
                self._copy(name, table)
            for name, rows in (bits or {}).items():
                run(f"SET VARIABLE {name} = ?::BLOB", [rows.bits.tobytes() or b"\0"])
                run(f"SET VARIABLE {name} = getvariable('{name}')::BIT")
            for name in tables:
                paths += self._add_table(name)
            run(f"SET allowed_paths = [{_listed(paths)}]")
            run("SET enable_external_access = false")
            for name, select in (views or {}).items():
                run(f"CREATE VIEW {name} AS {select}")
            run("SET lock_configuration = true")

    def _add_table(self, name: str) -> list[str]:
        """Create ``all_<name>`` from a table's parts; return the paths that DuckDB has to read.

        For a derived table it is ``all_derived_<name>``.
        """
        snapshot = self._snapshot
        view = f"all_{name.replace('/', '_')}"
        parts = snapshot.info.tables.get(name, ())
        if not parts or any(part.path in snapshot.held for part in parts):
            self._copy(view, snapshot.scan(name))
            return []
        if snapshot.storage.is_local:
            paths = [str(Path(snapshot.storage.url, part.path)) for part in parts]
        else:
            snapshot.read_footers(parts)
            paths = [f"{_PROTOCOL}://{part.path}" for part in parts]
        columns = ", ".join(f'"{column}"' for column in snapshot.info.table_schema(name).names)
        self._connection.execute(
            f"CREATE VIEW {view} AS SELECT {columns} FROM read_parquet([{_listed(paths)}]) "
            f"WHERE {snapshot.visible_sql(name)}"
        )
        return paths

    def _copy(self, name: str, table: pa.Table) -> None:
        self._connection.register("copied", table)
        self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM copied")
        self._connection.unregister("copied")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def relation(self, query: str, *, shown: str = "") -> duckdb.DuckDBPyRelation:
        """Return the result of a SELECT, not yet computed; it keeps the connection alive.

        `query` has been checked by `sql` if it is a user's; `shown` is what the user wrote, for
        messages.
        """
        with self._errors(shown):
            return self._answer(query)

    def _answer(self, query: str) -> duckdb.DuckDBPyRelation:
        """Return the result of a SELECT; its sums of whole numbers with 64 bits.

        DuckDB makes them 128 bits wide, which pandas reads as floats and others as text.
        """
        found = self._connection.sql(query)
        if duckdb.sqltypes.HUGEINT not in found.types:
            return found
        columns = [
            f'#{place}{"::BIGINT" if kind == duckdb.sqltypes.HUGEINT else ""} AS "{name}"'
            for place, (name, kind) in enumerate(
                zip((c.replace('"', '""') for c in found.columns), found.types, strict=True), 1
            )
        ]
        return found.project(", ".join(columns))

    def execute(self, statement: str) -> None:
        """Run a statement of our own, for example one that creates a table."""
        with self._errors():
            self._connection.execute(statement)

    def table(self, query: str, *, shown: str = "", timeout: float | None = None) -> pa.Table:
        """Compute a SELECT; `UsageError` if it exceeds `timeout` seconds or its memory."""
        with self._errors(shown), self._limited(timeout, shown), self._in_thread() as compute:
            return compute(lambda: self._answer(query).to_arrow_table())

    def batches(
        self, query: str, *, shown: str = "", timeout: float | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the result of a SELECT in bounded memory; at least one batch, even if empty."""
        with self._errors(shown), self._limited(timeout, shown), self._in_thread() as compute:
            reader = compute(lambda: self._answer(query).to_arrow_reader(_BATCH))
            n = 0
            while (batch := compute(lambda: next(reader, None))) is not None:
                n += 1
                yield batch
            if not n:
                yield from reader.schema.empty_table().to_batches() or [
                    pa.RecordBatch.from_pylist([], reader.schema)
                ]

    @contextmanager
    def _in_thread(self) -> Iterator[Callable[[Callable[[], _T]], _T]]:
        """Yield what lets DuckDB compute in a thread: in the main one it ignores Ctrl-C."""
        with ThreadPoolExecutor(1) as thread:

            def compute(call: Callable[[], _T]) -> _T:
                future = thread.submit(call)
                # Short waits, since a signal just before one does not end it.
                while not wait([future], timeout=0.5).done:
                    pass
                return future.result()

            try:
                yield compute
            except (KeyboardInterrupt, SystemExit):  # raised by another handler
                # In a thread too, in case Ctrl-C is pressed twice.
                threading.Thread(target=self._interrupt, args=[thread.submit(bool)]).start()
                raise

    def _interrupt(self, ended: Future[Any]) -> None:
        while not ended.done():  # one call does not interrupt what has yet to begin
            self._connection.interrupt()
            wait([ended], timeout=0.1)

    @contextmanager
    def _limited(self, timeout: float | None, shown: str) -> Iterator[None]:
        if timeout is None:
            yield
            return
        seconds = _positive("timeout", timeout, "seconds")
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        except duckdb.InterruptException as error:
            if not timer.finished.is_set():
                raise
            raise query_error(shown, TimeoutError(f"it takes longer than {timeout:g} s")) from error
        finally:
            timer.cancel()

    @contextmanager
    def _errors(self, shown: str = "") -> Iterator[None]:
        """Turn errors into one line about the question, or about a part of a table."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:  # Arrow passes on DuckDB's
            with self._snapshot.reading("a table"):
                raise self._parts.failure or self._user_error(shown, error) from error

    def _user_error(self, shown: str, error: Exception) -> Exception:
        line = str(error).strip().split("\n")[0]
        if isinstance(error, duckdb.InterruptException):
            return error
        if isinstance(error, duckdb.OutOfMemoryException):
            return query_error(shown, MemoryError("it needs more memory than it may have"))
        if isinstance(error, duckdb.IOException | duckdb.HTTPException | OSError) or (
            isinstance(error, duckdb.InvalidInputException) and "parquet" in line.lower()
        ):
            return StorageError(f"the tables cannot be read ({line}); run zml-dask verify")
        return query_error(shown, error, self._snapshot.derived)


def _temporary_folder() -> str:
    """Return a folder to spill to, which need not exist; none if nothing can be written."""
    try:
        return str(Path(tempfile.gettempdir(), f"zml-{uuid.uuid4().hex}"))
    except FileNotFoundError:  # a container without a writable folder
        return ""


def _positive(name: str, value: float, unit: str) -> float:
    if not value > 0:
        raise UsageError(f"{name} is a number of {unit} above 0, not {value!r}")
    return value


def _listed(paths: list[str]) -> str:
    return ", ".join("'" + path.replace("'", "''") + "'" for path in paths)


class _PartFiles(AbstractFileSystem):
    """The parts of a snapshot's tables as files for DuckDB: ranges from any storage."""

    protocol = _PROTOCOL
    cachable = False

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot
        self._known = {p.path: p for parts in snapshot.info.tables.values() for p in parts}
        self.failure: Exception | None = None

    def _part(self, path: str) -> Part:
        return self._known[path.removeprefix(f"{_PROTOCOL}://")]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._part(path).size, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return path.removeprefix(f"{_PROTOCOL}://") in self._known

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path] if self.exists(path) else []

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # parts never change

    def open(self, path: str, mode: str = "rb", **_: Any) -> IO[bytes]:
        return self._snapshot.open_part(self._part(path), self._note)  # type: ignore[return-value]

    def _note(self, error: Exception) -> None:
        # DuckDB keeps only its text.
        self.failure = self.failure or error


def relation_of(table: pa.Table) -> duckdb.DuckDBPyRelation:
    """Return a table as a relation that can read nothing else."""
    connection = duckdb.connect(":memory:", config={"enable_external_access": False})
    return connection.from_arrow(table)
