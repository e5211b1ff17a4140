"""Counts of everything that a dataset shows: the table ``summary``, to be read at once.

One row per value of a *dimension*: ``language``, ``language_group``, ``extension``
and ``status`` of files; ``license`` (as published), ``licenses`` (each SPDX
identifier) and ``year`` of records; ``total`` for everything. A record without any
file counts among the records. Records never share files, so counts of disjoint sets
of records add up: every commit appends a part with those of its records, every
withdrawal one with those of its records below zero, and a reader adds all parts up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.store.layout import SUMMARY_SCHEMA
from zml_dask.text_safety import number_of

MAX_FILE_BYTES = 100_000
"""Largest file that a dataset holds unless its options say otherwise; the limit of 2018."""

FILE_COLUMNS = (
    "record_id",
    "language",
    "language_group",
    "extension",
    "status",
    "size",
    "n_images",
)
"""What `summarise` needs of files."""

RECORD_COLUMNS = ("record_id", "publication_date", "license", "licenses")
"""What `summarise` needs of records."""

# Extensions last: theirs is the one dimension that grows with the dataset, so that
# whoever wants the others, or its head, reads the first row group.
_DIMENSIONS = (
    "total",
    "status",
    "year",
    "license",
    "licenses",
    "language_group",
    "language",
    "extension",
)
_COUNTS = ("records", "files", "images", "bytes")


def summarise(files: pa.Table, records: pa.Table) -> pa.Table:
    """Count some records and their files by every dimension.

    Parameters
    ----------
    files : pyarrow.Table
        `FILE_COLUMNS` of all files of these records.
    records : pyarrow.Table
        `RECORD_COLUMNS` of the records.

    Returns
    -------
    pyarrow.Table
        Of `SUMMARY_SCHEMA`.

    Examples
    --------
    >>> files = pa.table({"record_id": [7, 7], "language": ["C", None],
    ...     "language_group": ["C", None], "extension": ["c", "gif"],
    ...     "status": ["ok", "binary"], "size": [90, 10], "n_images": [2, 0]})
    >>> records = pa.table({"record_id": [7], "publication_date": [None], "license": ["mit"],
    ...     "licenses": [["MIT"]]})
    >>> summarise(files, records).slice(0, 1).to_pylist()
    [{'dimension': 'total', 'value': None, 'records': 1, 'files': 2, 'images': 2, 'bytes': 100}]
    """
    found = [
        _grouped(files.group_by(name), name)
        for name in ("status", "language_group", "language", "extension")
    ]
    sums = files.group_by("record_id").aggregate(
        [("n_images", "sum"), ("size", "sum"), ("record_id", "count")]
    )
    places = pc.index_in(records["record_id"], sums["record_id"].combine_chunks())
    images, size, count = (
        pc.fill_null(sums[name].take(places), 0).cast(pa.int64()).combine_chunks()
        for name in ("n_images_sum", "size_sum", "record_id_count")
    )
    year = pc.strftime(records["publication_date"].cast(pa.date32()), "%Y")
    per_record = pa.table(
        {
            "records": pa.repeat(pa.scalar(1, pa.int64()), len(records)),
            "files": count,
            "images": images,
            "bytes": size,
            "total": pa.nulls(len(records), pa.string()),
            "year": year,
            "license": records["license"].cast(pa.string()),
        }
    )
    lists = records["licenses"].cast(pa.list_(pa.string())).combine_chunks()
    per_license = per_record.take(pc.list_parent_indices(lists)).append_column(
        "licenses", pc.list_flatten(lists)
    )
    found += [_summed(per_record, name) for name in ("total", "year", "license")]
    found.append(_summed(per_license, "licenses"))
    return add_up(found)


def _grouped(groups: pa.TableGroupBy, name: str) -> pa.Table:
    table = groups.aggregate(
        [
            ("record_id", "count_distinct"),
            ("record_id", "count"),
            ("n_images", "sum"),
            ("size", "sum"),
        ]
    )
    counts = ("record_id_count_distinct", "record_id_count", "n_images_sum", "size_sum")
    return _rows(name, table[name], [table[count] for count in counts])


def _summed(table: pa.Table, name: str) -> pa.Table:
    sums = table.group_by(name).aggregate([(count, "sum") for count in _COUNTS])
    return _rows(name, sums[name], [sums[f"{count}_sum"] for count in _COUNTS])


def _rows(name: str, values: pa.ChunkedArray, counts: list[pa.ChunkedArray]) -> pa.Table:
    return pa.table(
        [
            pa.repeat(pa.scalar(name), len(values)),
            values.cast(pa.string()),
            *(pc.fill_null(count.cast(pa.int64()), 0) for count in counts),
        ],
        schema=SUMMARY_SCHEMA,
    )


def add_up(summaries: Iterable[pa.Table]) -> pa.Table:
    """Add summaries up: of disjoint sets of records, or of all parts of the table.

    Parameters
    ----------
    summaries : iterable of pyarrow.Table
        Of `SUMMARY_SCHEMA`.

    Returns
    -------
    pyarrow.Table
        By dimension, and within one those with most images first; without values of no record.
    """
    table = pa.concat_tables([SUMMARY_SCHEMA.empty_table(), *summaries])
    table = table.group_by(["dimension", "value"]).aggregate([(name, "sum") for name in _COUNTS])
    table = table.rename_columns(["dimension", "value", *_COUNTS])
    table = table.filter(pc.not_equal(table["records"], 0))
    rank = pc.index_in(table["dimension"], pa.array(_DIMENSIONS))
    order = pc.sort_indices(
        table.append_column("rank", rank),
        sort_keys=[
            ("rank", "ascending"),
            *((name, "descending") for name in ("images", "files", "records")),
            ("value", "ascending"),
        ],
    )
    return table.take(order).select(SUMMARY_SCHEMA.names).cast(SUMMARY_SCHEMA)


def taken_away(summary: pa.Table) -> pa.Table:
    """Return the part that takes a summary's counts away from the others."""
    columns = [summary["dimension"], summary["value"], *(pc.negate(summary[n]) for n in _COUNTS)]
    return pa.table(columns, schema=SUMMARY_SCHEMA)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The files that a dataset lists and does not hold, for their size.

    Attributes
    ----------
    bytes : int
        Of all of them, as far as their archives state it.
    limit : int
        Bytes of the largest file that is held.
    """

    files: int = 0
    bytes: int = 0
    limit: int = 0

    def __str__(self) -> str:
        """Say it in one line.

        Examples
        --------
        >>> str(LeftOut(12, 3_456_000, 100_000))
        '12 files of 3,456,000 bytes left out, each larger than 100,000 (--max-file-size)'
        """
        files = number_of(file=self.files)
        each = "" if self.files == 1 else "each "
        return (
            f"{files} of {self.bytes:,} bytes left out, {each}larger than {self.limit:,} "
            "(--max-file-size)"
        )


def recorded_limit(options: Mapping[str, Any]) -> int:
    """Return the size of the largest file that is read, by the options in ``dataset.json``.

    Examples
    --------
    >>> recorded_limit({}), recorded_limit({"limits": {"max_file_bytes": 1_000_000}})
    (100000, 1000000)
    """
    limits = options.get("limits")
    limit = limits.get("max_file_bytes") if isinstance(limits, Mapping) else None
    return limit if isinstance(limit, int) else MAX_FILE_BYTES
