"""Columns of files and records side by side, one row per selected file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.query.counting import find_countable
from zml_dask.query.rows import Int64
from zml_dask.query.selection import Selection
from zml_dask.query.sql import Column
from zml_dask.store.layout import derived_table
from zml_dask.store.snapshot import Snapshot

_ALL = slice(None)


def gather(
    snapshot: Snapshot, selection: Selection, names: Sequence[str], files: slice = _ALL
) -> pa.Table:
    """Read columns of the selected files, and of their records.

    Parameters
    ----------
    names : sequence of str
        Columns of either table; what both have is the files'.
    files : slice
        Some of the files only, by their positions in the selection.

    Returns
    -------
    pyarrow.Table
        One row per file, the columns named as they were asked for.
    """
    columns = [find_countable(name, snapshot.derived) for name in names]
    own = {column.name: None for column in columns if column.level == "files"}
    others = [column.name for column in columns if column.level == "records"]
    if others or any(_is_of_records(snapshot, column) for column in columns):
        own["record_id"] = None
    of_files = snapshot.take("files", selection.file_id[files], list(own))
    of_records = _records_of(snapshot, of_files["record_id"].to_numpy(), others) if others else {}
    arrays = [
        _of_record(snapshot, column, of_files["record_id"])
        if _is_of_records(snapshot, column)
        else _derived(snapshot, column, selection.file_id[files])
        if column.level == "derived"
        else (of_files if column.level == "files" else of_records)[column.name]
        for column in columns
    ]
    return pa.table(dict(zip(names, arrays, strict=True)))


def _derived(snapshot: Snapshot, column: Column, file_id: Int64) -> pa.ChunkedArray:
    """Read a column of a derived table, whose row n is of file n; null for later files."""
    name, _, field = column.name.partition(".")
    table = derived_table(name)
    known = int(np.searchsorted(file_id, snapshot.rows(table)))
    found = snapshot.take(table, file_id[:known], [field])[field]
    return pa.chunked_array([*found.chunks, pa.nulls(file_id.size - known, found.type)])


def _is_of_records(snapshot: Snapshot, column: Column) -> bool:
    """Whether a column is of a derived table that has one row per record."""
    name = column.name.partition(".")[0]
    return column.level == "derived" and snapshot.info.derived[name].of == "records"


def _of_record(snapshot: Snapshot, column: Column, record_id: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read a column of a derived table of records, for each of these; null for later ones."""
    name, _, field = column.name.partition(".")
    names = list(dict.fromkeys(["record_id", field]))
    found = snapshot.scan(derived_table(name), names).combine_chunks()
    places = pc.index_in(record_id, found["record_id"])
    return found[field].take(places)


def as_codes(values: pa.ChunkedArray) -> tuple[Int64, list[Any]]:
    """Write a column as codes; its chunks are never joined, only their codes.

    Returns
    -------
    codes : numpy.ndarray of int64, shape (n,)
        Places in `different`; -1 for what is missing.
    different : list
        The different values, in the order in which they come.

    Examples
    --------
    >>> codes, different = as_codes(pa.chunked_array([["a", "b"], ["c", None, "a"]]))
    >>> codes.tolist(), different
    ([0, 1, 2, -1, 0], ['a', 'b', 'c'])
    """
    encoded = values.dictionary_encode().unify_dictionaries()
    chunks = [chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks]
    different = encoded.chunk(0).dictionary.to_pylist() if chunks else []
    return np.concatenate([np.empty(0, np.int64), *chunks]), different


def _records_of(snapshot: Snapshot, record_id: Int64, names: list[str]) -> pa.Table:
    """Read columns of the records of these numbers, which may repeat."""
    if not names:
        return pa.table({})
    wanted, places = np.unique(record_id, return_inverse=True)
    records = records_table(snapshot, wanted, [*{"record_id": None, **dict.fromkeys(names)}])
    order = np.argsort(records["record_id"].to_numpy())
    return records.take(pa.array(order[places]))


def records_table(snapshot: Snapshot, record_id: Int64, names: Sequence[str]) -> pa.Table:
    """Read columns of the records of these different numbers, in the table's order."""
    if record_id.size == snapshot.rows("records"):
        return snapshot.scan("records", names)
    where = pc.field("record_id").isin(pa.array(record_id))
    return snapshot.scan("records", names, where)
