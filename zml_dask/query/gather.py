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
from zml_dask.store.layout import DERIVED, derived_table
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
    homes = [_home(find_countable(name, snapshot.derived)) for name in names]
    fields: dict[str, list[str]] = {"files": []}
    for table, field in dict.fromkeys(homes):
        fields.setdefault(table, []).append(field)
    by_record = [table for table in fields if _is_of_records(snapshot, table)]
    if by_record and "record_id" not in fields["files"]:
        fields["files"].append("record_id")
    file_id = selection.file_id[files]
    found = {"files": snapshot.take("files", file_id, fields.pop("files"))}
    for table, columns in fields.items():
        if table in by_record:
            found[table] = _of_records(snapshot, table, found["files"]["record_id"], columns)
        else:  # row n is of file n; null for later files
            known = file_id[: np.searchsorted(file_id, snapshot.rows(table))]
            rows = snapshot.take(table, known, columns)
            missing = [pa.nulls(file_id.size - known.size, kind) for kind in rows.schema.types]
            found[table] = pa.concat_tables([rows, pa.table(missing, schema=rows.schema)])
    return pa.table(
        {name: found[table][field] for name, (table, field) in zip(names, homes, strict=True)}
    )


def _home(column: Column) -> tuple[str, str]:
    """Say in which table a column is stored, and its name there."""
    if column.level != "derived":
        return column.level, column.name
    name, _, field = column.name.partition(".")
    return derived_table(name), field


def _is_of_records(snapshot: Snapshot, table: str) -> bool:
    name = table.removeprefix(f"{DERIVED}/")
    return table == "records" or (name != table and snapshot.info.derived[name].of == "records")


def _of_records(
    snapshot: Snapshot, table: str, record_id: pa.ChunkedArray, columns: list[str]
) -> pa.Table:
    """Read columns of the records of these numbers, which may repeat; null for later ones."""
    wanted = np.unique(record_id.to_numpy())
    everything = wanted.size == snapshot.rows("records")
    where = None if everything else pc.field("record_id").isin(pa.array(wanted))
    rows = snapshot.scan(table, [*dict.fromkeys(["record_id", *columns])], where)
    places = pc.index_in(record_id, rows["record_id"].combine_chunks())
    return rows.take(places.combine_chunks())


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
