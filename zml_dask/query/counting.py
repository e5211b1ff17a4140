"""Counts by column, and content that comes more than once."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.errors import UsageError
from zml_dask.query.frames import to_pandas
from zml_dask.query.gather import find_file_columns, gather
from zml_dask.query.selection import Selection
from zml_dask.store.snapshot import Snapshot


def count_by(snapshot: Snapshot, selection: Selection, by: Sequence[str]) -> pd.DataFrame:
    """Count images, files and records by the values of columns.

    Parameters
    ----------
    snapshot : Snapshot
    selection : Selection
    by : sequence of str
        Columns of files or records. Of a column of lists (keywords), each item
        counts.

    Returns
    -------
    pandas.DataFrame
        Indexed by `by`, with columns ``images``, ``files``, ``records``; most images first.
    """
    if not by or len(set(by)) < len(by):
        raise UsageError(f"count by one column or several, each named once, not by {list(by)!r}")
    table = gather(snapshot, selection, by)
    begins, ends = selection.images_of(slice(None))
    table = table.append_column("@images", pa.array(ends - begins))
    table = table.append_column("@record", pa.array(selection.record_id))
    for name, column in zip(by, find_file_columns(by), strict=True):
        if pa.types.is_list(column.type):
            table = _exploded(table, name)
    counted = table.group_by(list(by)).aggregate(
        [("@images", "sum"), ("@images", "count"), ("@record", "count_distinct")]
    )
    names = {"@images_sum": "images", "@images_count": "files", "@record_count_distinct": "records"}
    counted = counted.rename_columns([names.get(n, n) for n in counted.column_names])
    order = [*((name, "descending") for name in names.values()), *((n, "ascending") for n in by)]
    frame: pd.DataFrame = counted.sort_by(order).to_pandas()
    return frame.set_index(list(by))[list(names.values())]


def _exploded(table: pa.Table, name: str) -> pa.Table:
    """Give each item of a list a row of its own."""
    lists = table[name].combine_chunks()
    rows = table.drop_columns([name]).take(pc.list_parent_indices(lists))
    return rows.append_column(name, pc.list_flatten(lists))


def find_duplicates(snapshot: Snapshot, selection: Selection) -> pd.DataFrame:
    """Find files of identical content in different records, by sha256.

    Returns
    -------
    pandas.DataFrame
        A row a content: ``sha256``, ``files``, ``records``, ``size`` in bytes, and
        ``file_id`` of the first; those that take most space first.
    """
    names = ["sha256", "record_id", "file_id", "size"]
    table = gather(snapshot, selection, names)
    table = table.filter(pc.field("sha256").is_valid())
    found = table.group_by("sha256").aggregate(
        [
            ("file_id", "count"),
            ("record_id", "count_distinct"),
            ("size", "max"),
            ("file_id", "min"),
        ]
    )
    found = found.rename_columns(
        {
            "file_id_count": "files",
            "record_id_count_distinct": "records",
            "size_max": "size",
            "file_id_min": "file_id",
        }
    )
    found = found.filter(pc.field("records") > 1)
    spare = pc.multiply(found["size"], pc.subtract(found["files"], 1))
    found = found.append_column("@spare", spare)
    found = found.sort_by([("@spare", "descending"), ("file_id", "ascending")])
    columns = ["sha256", "files", "records", "size", "file_id"]
    return to_pandas(found.select(columns))
