"""Derived tables: a function of each file's text, images or row, computed over a dataset once.

Row *n* of a derived table is of file *n*: a join needs no search, and a dataset that has grown
needs only the rows of its new files. The work is a job of the engine: workers compute ranges of
files and stage them, then the driver writes all as parts and replaces ``dataset.json``. An
interrupted run continues where it stopped, and the bytes do not depend on the executor.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zml_dask.engine.activity import note_done
from zml_dask.engine.job import Job, OpenExecutor, TaskReport, run_job
from zml_dask.engine.lock import DatasetLock, dataset_lock
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.errors import UsageError
from zml_dask.query.columns import IMAGE_COLUMNS, SCHEMAS
from zml_dask.query.dataset import Dataset
from zml_dask.query.file_images import FileRow, with_images
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import to_text
from zml_dask.store.info import (
    DERIVED_NAME,
    DatasetInfo,
    DerivedTable,
    Part,
    committed_info,
    replace_info,
)
from zml_dask.store.layout import COLUMN_TYPES, STAGING, TABLES, derived_table
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.tables import write_part

INPUTS: Final = ("text", "images", "row")
"""Names of parameters that a function may have."""

Int64 = NDArray[np.int64]

FILES_PER_TASK = 4_096
_ROWS_PER_TASK = 65_536
"""Files of a task that reads no images: with fewer, each row group would be read many times."""

_NOTE_SECONDS = 1.0
"""Between two reports of a task's progress."""

_ROWS_PER_PART = 2**20
_ROWS_AT_ONCE = 2**17

_OWN = frozenset({*TABLES, *SCHEMAS, *IMAGE_COLUMNS, "images", "selected"}).union(
    *(schema.names for schema in TABLES.values())
)
"""Names that have another meaning in conditions or SQL."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a derived table is computed file by file.

    `columns` are names, and types as keys of `layout.COLUMN_TYPES`; `inputs` the function's
    parameters, a subset of `INPUTS`; `fingerprint` is the hash of the function's code and
    constants, but not of the code that it calls; `base` a table that is computed first.
    """

    name: str
    function: Callable[..., Any]
    columns: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]
    fingerprint: str
    base: Whole | None = None

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], schema: Schema) -> Recipe:
        """Check a user's function and schema; `UsageError` if they are invalid."""
        _check_name(name)
        if name in _OWN:
            raise UsageError(f"{name!r} has another meaning in conditions; choose another name")
        columns = {column: _type_name(column, kind) for column, kind in _pairs(schema)}
        for column in columns:
            _check_name(column)
            if column in ("file_id", "record_id", "error"):
                raise UsageError(f"every derived table has a column {column!r} of its own")
        if not columns:
            raise UsageError("give at least one column, as in {'code': 'int32'}")
        try:
            inputs = tuple(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            inputs = ()
        if not inputs or not set(inputs) <= set(INPUTS):
            raise UsageError(
                f"the function has the parameters {', '.join(inputs) or '(none)'}; each must "
                "be text, images or row"
            )
        code = _canonical_text(function).encode("utf-8", "replace")
        fingerprint = hashlib.sha256(code).hexdigest()
        return cls(name, function, tuple(columns.items()), inputs, fingerprint)

    @property
    def reads_images(self) -> bool:
        """Whether the function is given text or images."""
        return not {"text", "images"}.isdisjoint(self.inputs)

    @property
    def title(self) -> str:
        """The function's module and name."""
        inner = inspect.unwrap(self.function)
        inner = inner.func if isinstance(inner, partial) else inner
        return f"{inner.__module__}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"

    def described(self, errors: int) -> DerivedTable:
        """Return the entry of ``dataset.json``."""
        return DerivedTable(
            self.columns, self.title, self.fingerprint, software(self.title), errors
        )


Schema: TypeAlias = Mapping[str, str | pa.DataType] | pa.Schema


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not DERIVED_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a table or a column; use small letters, digits and _"
        )


def _pairs(schema: Schema) -> list[tuple[str, Any]]:
    if isinstance(schema, pa.Schema):
        return [(field.name, field.type) for field in schema]
    return list(schema.items())


def _type_name(column: str, kind: str | pa.DataType) -> str:
    for name, (arrow, _) in COLUMN_TYPES.items():
        if kind in (name, arrow):
            return name
    raise UsageError(
        f"column {column!r} cannot be of type {kind}; choose from {', '.join(COLUMN_TYPES)}"
    )


def _canonical_text(value: object) -> str:
    """Represent code and constants as a text that is the same in every process."""
    if isinstance(value, partial):
        given = _canonical_text((*value.args, *sorted(value.keywords.items())))
        return f"partial({_canonical_text(value.func)}, {given})"
    if isinstance(value, CodeType):
        constants = ", ".join(map(_canonical_text, value.co_consts))
        return f"code({value.co_code.hex()}, {value.co_names}, {constants})"
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(_canonical_text, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_canonical_text, value))})"
    code = getattr(value, "__code__", None)
    if code is None:
        is_plain = isinstance(value, (str, bytes, int, float, complex, type(None)))
        # The text of any other object may contain an address, which differs between processes.
        return repr(value) if is_plain or value is ... else type(value).__qualname__
    cells = tuple(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
    defaults = getattr(value, "__defaults__", None)
    return f"{_canonical_text(code)}, {_canonical_text(defaults)}, {_canonical_text(cells)}"


def software(title: str) -> dict[str, str]:
    """Return the versions of the software that a function with this title runs with."""
    package = title.partition(".")[0]
    found = {"zml-dask": version("zml-dask"), "python": platform.python_version()}
    with suppress(PackageNotFoundError):  # a script or a notebook
        found.setdefault(package.replace("_", "-"), version(package))
    return found


@dataclass(frozen=True)
class Whole:
    """A derived table whose rows are computed together, on the driver.

    `base` is a table that is computed first, from which this one is computed. `compute` returns
    the columns, and reports its progress to its second argument. `of` is what the rows stand for,
    see `DerivedTable`, and `version` what the values depend on besides the base, to be changed
    with the code.
    """

    name: str
    base: Recipe | Whole | None
    columns: tuple[tuple[str, str], ...]
    compute: Callable[[Snapshot, BuildProgress], Sequence[pa.Array]]
    of: str
    version: str

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the values depend on, except the files."""
        base = self.base.fingerprint if self.base else ""
        return hashlib.sha256(f"{self.version} {base}".encode()).hexdigest()


def derive_table(
    dataset: str | Storage,
    open_executor: OpenExecutor,
    *,
    table: Recipe | Whole,
    again: bool = False,
    progress: BuildProgress | None = None,
) -> Dataset:
    """Compute the missing rows of a derived table, on an executor that is opened if needed."""
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    committed_info(storage)
    if table.base:
        derive_table(storage, open_executor, table=table.base, again=again, progress=progress)
    with dataset_lock(storage, on_wait=progress.say) as lock:
        snapshot = Snapshot.open(storage)
        if isinstance(table, Recipe):
            job = DeriveFiles.planned(snapshot, table, again=again)
            if job.first < snapshot.info.counts.files or table.name not in snapshot.info.derived:
                with open_executor() as executor:
                    run_job(job, executor, lock=lock, progress=progress)
        elif again or not _is_current(snapshot, table):
            columns = table.compute(snapshot, progress)
            title = f"{table.compute.__module__}.{table.compute.__name__}"
            described = DerivedTable(
                table.columns, title, table.fingerprint, software(title), of=table.of
            )
            put_columns(snapshot, table.name, described, columns, lock)
    return Dataset(Snapshot.open(storage))


def in_blocks(
    snapshot: Snapshot, table: str, columns: list[str]
) -> Iterator[tuple[Int64, pa.Table]]:
    """Yield the row numbers and columns of a table in blocks of bounded size."""
    total = snapshot.rows(table)
    for at in range(0, total, _ROWS_AT_ONCE):
        rows = np.arange(at, min(at + _ROWS_AT_ONCE, total))
        yield rows, snapshot.take(table, rows, columns)


def _is_current(snapshot: Snapshot, table: Whole) -> bool:
    known = snapshot.info.derived.get(table.name)
    if known is None or known.fingerprint != table.fingerprint:
        return False
    rows = snapshot.rows(derived_table(table.name))
    return rows == getattr(snapshot.info.counts, table.of, rows)


@dataclass(frozen=True, slots=True)
class StagedRows:
    """Result of a task: how often the function was called for a range of files, and failed.

    `example` is the first failure's message.
    """

    start: int
    stop: int
    errors: int = 0
    called: int = 0
    example: str = ""


@dataclass(frozen=True)
class DeriveFiles(Job[tuple[int, int], None, StagedRows, DatasetInfo]):
    """Computes the rows of a derived table from the file `first` on."""

    name: ClassVar[str] = "files"

    snapshot: Snapshot
    recipe: Recipe
    first: int

    @classmethod
    def planned(cls, snapshot: Snapshot, recipe: Recipe, *, again: bool) -> DeriveFiles:
        """Find the first file without a row of this function."""
        known = snapshot.info.derived.get(recipe.name)
        same = (
            known is not None
            and not again
            and known.fingerprint == recipe.fingerprint
            and known.columns == recipe.columns
        )
        first = snapshot.rows(derived_table(recipe.name)) if same else 0
        return cls(snapshot, recipe, first)

    @property
    def folder(self) -> str:
        """Folder in which rows are staged, different for each function."""
        key = f"{self.recipe.fingerprint} {self.recipe.columns} {self.first}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return f"{STAGING}/derived/{self.recipe.name}/{digest}"

    def path(self, start: int, stop: int) -> str:
        """Path at which the rows of a range of files are staged."""
        return f"{self.folder}/{start:012d}-{stop:012d}.parquet"

    def ranges(self) -> list[tuple[int, int]]:
        """Divide the files into ranges, always at the same numbers."""
        total = self.snapshot.info.counts.files
        size = FILES_PER_TASK if self.recipe.reads_images else _ROWS_PER_TASK
        edges = range(self.first - self.first % size, total, size)
        return [(max(at, self.first), min(at + size, total)) for at in edges]

    def plan(self, workers: int) -> list[tuple[int, int]]:
        """Return the ranges that no interrupted run has staged."""
        there = set(self.snapshot.storage.list(self.folder))
        return [one for one in self.ranges() if self.path(*one) not in there]

    def shared(self) -> tuple[Storage, ...]:
        """Return the dataset's storage, in which workers stage rows for the driver."""
        return (self.snapshot.storage,)

    def size(self, task: tuple[int, int]) -> int:
        """Count files."""
        return task[1] - task[0]

    def report(self, result: StagedRows) -> TaskReport:
        """Count files, and those for which the function failed."""
        return TaskReport(done=result.stop - result.start, failed=result.errors)

    def run(self, task: tuple[int, int], context: None) -> StagedRows:
        """Compute the rows of some files and stage them."""
        start, stop = task
        rows, errors, called = compute(self.snapshot, self.recipe, start, stop)
        columns = _as_table(self.recipe, rows, errors)
        failed = columns["error"].drop_null()
        target = io.BytesIO()
        pq.write_table(columns, target, compression="zstd")
        self.snapshot.storage.write(self.path(start, stop), target.getvalue(), durable=False)
        example = failed[0].as_py() if len(failed) else ""
        return StagedRows(start, stop, len(failed), called, example)

    def finish(self, results: Iterator[StagedRows]) -> DatasetInfo:
        """Write the staged rows as parts, and enter these in ``dataset.json``."""
        called = 0
        example = ""
        for result in results:
            called += result.called - result.errors
            example = example or result.example
        storage, recipe = self.snapshot.storage, self.recipe
        if example and not called:
            storage.remove(storage.list(self.folder))
            raise UsageError(f"{recipe.title} failed for every file: {example}")
        errors = 0

        def staged() -> Iterator[pa.Table]:
            nonlocal errors
            file_id = self.snapshot.info.table_schema("files").field("file_id").type
            record_id = self.snapshot.scan("files", ["record_id"], with_withdrawn=True)
            for start, stop in self.ranges():
                data = pa.BufferReader(storage.read(self.path(start, stop)))
                columns = pq.read_table(data)
                errors += len(columns) - columns["error"].null_count
                yield pa.table(
                    [
                        pa.array(np.arange(start, stop), file_id),
                        record_id["record_id"].slice(start, stop - start),
                        *columns.columns,
                    ],
                    schema=schema,
                )

        schema = recipe.described(0).schema
        table = derived_table(recipe.name)
        info = committed_info(storage)
        kept = info.tables.get(table, ()) if self.first else ()
        number = info.next_part.get(table, 0)
        parts = list(write_table(storage, table, number, staged(), schema))
        if self.first:
            errors += info.derived[recipe.name].errors
        info = put_table(storage, info, recipe.name, recipe.described(errors), (*kept, *parts))
        staging = f"{STAGING}/derived/{recipe.name}"
        storage.remove(storage.list(staging))
        storage.prune(staging)
        return info


def write_table(
    storage: Storage, table: str, number: int, rows: Iterable[pa.Table], schema: pa.Schema
) -> Iterator[Part]:
    """Write rows as parts, whose bytes do not depend on how the rows are divided into tables."""
    waiting: list[pa.Table] = []
    count = 0
    for several in rows:
        waiting.append(several)
        count += len(several)
        while count >= _ROWS_PER_PART:
            gathered = pa.concat_tables(waiting)
            yield write_part(
                storage, table, number, [gathered.slice(0, _ROWS_PER_PART)], schema=schema
            )
            waiting = [gathered.slice(_ROWS_PER_PART)]
            count -= _ROWS_PER_PART
            number += 1
    if count or not number:
        rest = waiting or [schema.empty_table()]
        yield write_part(storage, table, number, rest, schema=schema)


def put_columns(
    snapshot: Snapshot,
    name: str,
    described: DerivedTable,
    columns: Sequence[pa.Array],
    lock: DatasetLock,
) -> None:
    """Write a table that was computed as a whole, and enter it in ``dataset.json``.

    `columns` have one value per file or record, whose numbers are added. The lock is held.
    """
    schema, table = described.schema, derived_table(name)
    keys = schema.names[: len(schema) - len(columns) - 1]

    def rows() -> Iterator[pa.Table]:
        for at in range(0, len(columns[0]), _ROWS_AT_ONCE):
            several = [column.slice(at, _ROWS_AT_ONCE) for column in columns]
            count = len(several[0])
            own = snapshot.take(described.of, np.arange(at, at + count), keys) if keys else []
            arrays = [*own, *several, pa.nulls(count, pa.string())]
            yield pa.table(arrays, schema=schema)

    info = snapshot.info
    number = info.next_part.get(table, 0)
    parts = tuple(write_table(snapshot.storage, table, number, rows(), schema))
    lock.check()
    put_table(snapshot.storage, info, name, described, parts)


def put_table(
    storage: Storage, info: DatasetInfo, name: str, described: DerivedTable, parts: tuple[Part, ...]
) -> DatasetInfo:
    """Enter the parts of a derived table in ``dataset.json``.

    The parts that they replace are kept until the next call, for readers that have the dataset
    open; older ones are removed.
    """
    table = derived_table(name)
    last = max((int(part.path.rsplit("-", 2)[1]) for part in parts), default=-1)
    changed = replace(
        info,
        tables={**info.tables, table: parts},
        next_part={**info.next_part, table: last + 1},
        derived={**info.derived, name: described},
    )
    keep = {part.path for part in (*parts, *info.tables.get(table, ()))}
    changed = replace_info(storage, info, changed)
    storage.remove([path for path in storage.list(f"{table}.parquet") if path not in keep])
    return changed


@dataclass(frozen=True, slots=True)
class _Span:
    """The images from one number to another."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def piece(self, start: int, limit: int, chunk: int) -> Int64:
        first = self.first + start
        stop = first + limit
        return np.arange(first, min(stop - stop % chunk, self.stop))


def compute(
    snapshot: Snapshot, recipe: Recipe, start: int, stop: int
) -> tuple[list[Mapping[str, Any]], list[str | None], int]:
    """Call a recipe's function for the files from `start` to `stop`.

    Returns the values of each file (empty where there are none), why the function failed for each
    (None where it did not), and the number of files for which it was called.
    """
    names = ["file_id", "record_id", "status", "n_lines", "first_image", "n_images"]
    if "row" in recipe.inputs:
        names = [field.name for field in snapshot.info.table_schema("files")]
    table = snapshot.take("files", np.arange(start, stop), names)
    first = table["first_image"].to_numpy().astype(np.int64)
    begins = first - first[0]
    ends = begins + table["n_images"].to_numpy()
    if not recipe.reads_images:
        begins, ends = np.zeros_like(begins), np.zeros_like(ends)
    span = _Span(int(first[0]), int(first[0] + ends[-1]))
    values: list[Mapping[str, Any]] = []
    errors: list[str | None] = []
    called = 0
    items = zip(table.to_pylist(), begins.tolist(), ends.tolist(), strict=True)
    noted = time.monotonic()
    for row, _, images in with_images(snapshot.images, span, items):
        if time.monotonic() - noted >= _NOTE_SECONDS:
            noted = time.monotonic()
            note_done(start, len(values))
        has_text = row["status"] in ("ok", "empty")
        if row["record_id"] in snapshot.withdrawn or (recipe.reads_images and not has_text):
            values.append({})
            errors.append(None)
            continue
        given: dict[str, Any] = {}
        if "images" in recipe.inputs:
            given["images"] = images
        if "text" in recipe.inputs:
            height = images.shape[1]
            lines = image_lines(int(row["n_lines"]), np.arange(len(images)), height)
            given["text"] = to_text(images, lines)
        if "row" in recipe.inputs:
            given["row"] = FileRow(**row)
        result, error = _called(recipe, given)
        values.append(result)
        errors.append(error)
        called += 1
    return values, errors, called


def _called(recipe: Recipe, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """Call the function; return its values, and what went wrong."""
    try:
        result = recipe.function(**given)
    except Exception as error:  # noqa: BLE001 - of the user's function; it goes into the row
        return {}, f"{type(error).__name__}: {error}"[:500]
    if result is None:
        return {}, None
    if not isinstance(result, Mapping):
        if len(recipe.columns) == 1:
            return {recipe.columns[0][0]: result}, None
        return {}, f"it returned {type(result).__name__}, not a mapping of the columns"
    unknown = set(result) - dict(recipe.columns).keys()
    if unknown:
        return {}, f"it returned {min(map(str, unknown))!r}, which is no column"
    return result, None


def _as_table(recipe: Recipe, rows: list[Mapping[str, Any]], errors: list[str | None]) -> pa.Table:
    """Return the values as a table with the errors; values of a wrong type are errors too."""
    schema = pa.schema([pa.field(name, COLUMN_TYPES[k][0]) for name, k in recipe.columns])
    unfit = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        table = pa.Table.from_pylist(rows, schema)
    except unfit:
        for number, row in enumerate(rows):
            try:
                pa.Table.from_pylist([row], schema)
            except unfit as error:
                rows[number] = {}
                errors[number] = f"{type(error).__name__}: {error}"[:500]
        table = pa.Table.from_pylist(rows, schema)
    return table.append_column("error", pa.array(errors, pa.string()))
