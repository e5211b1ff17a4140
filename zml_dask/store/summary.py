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
    "record_id", "language", "language_group", "extension", "status", "size", "n_images"
)  # fmt: skip
"""What `summarise` needs of files."""

RECORD_COLUMNS = ("record_id", "publication_date", "license", "licenses")
"""What `summarise` needs of records."""

# Extensions last, since only their number grows with the dataset: the first row group has
# all other dimensions, and the most frequent extensions.
_DIMENSIONS = (
    "total", "status", "year", "license", "licenses", "language_group", "language", "extension"
)  # fmt: skip
_COUNTS = ("records", "files", "images", "bytes")


def summarise(files: pa.Table, records: pa.Table) -> pa.Table:
    """Count some records and their files by every dimension: a table of `SUMMARY_SCHEMA`.

    `files` has the `FILE_COLUMNS` of all files of these records, `records` their `RECORD_COLUMNS`.

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
    dimensions = ("status", "language_group", "language", "extension")
    found = [_counted(files, name, _OF_FILES) for name in dimensions]
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
    found += [_counted(per_record, name, _OF_RECORDS) for name in ("total", "year", "license")]
    return add_up([*found, _counted(per_license, "licenses", _OF_RECORDS)])


_OF_FILES = [
    ("record_id", "count_distinct"), ("record_id", "count"), ("n_images", "sum"), ("size", "sum")
]  # fmt: skip
_OF_RECORDS = [(name, "sum") for name in _COUNTS]


def _counted(table: pa.Table, name: str, counts: list[tuple[str, str]]) -> pa.Table:
    """Count by the values of one dimension; `counts` are those of `_COUNTS`, in that order."""
    found = table.group_by(name).aggregate(counts)
    columns = [found[f"{column}_{how}"].cast(pa.int64()) for column, how in counts]
    return pa.table(
        [
            pa.repeat(pa.scalar(name), len(found)),
            found[name].cast(pa.string()),
            *(pc.fill_null(column, 0) for column in columns),
        ],
        schema=SUMMARY_SCHEMA,
    )


def add_up(summaries: Iterable[pa.Table]) -> pa.Table:
    """Add up summaries of disjoint sets of records, or all parts of the table.

    The result is ordered by dimension, and within one by images, most first; values that no
    record has are left out.
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
    """Return a summary whose counts, added to others, subtract those of `summary`."""
    columns = [summary["dimension"], summary["value"], *(pc.negate(summary[n]) for n in _COUNTS)]
    return pa.table(columns, schema=SUMMARY_SCHEMA)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The files that a dataset lists without their content, since they are too large.

    `bytes` are those of all of them, as far as their archives state it; `limit` is the size
    of the largest file whose content is kept.
    """

    files: int = 0
    bytes: int = 0
    limit: int = 0

    def __str__(self) -> str:
        """Summarise in one line.

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
    """Return the size limit of files that the options in ``dataset.json`` record.

    Examples
    --------
    >>> recorded_limit({}), recorded_limit({"limits": {"max_file_bytes": 1_000_000}})
    (100000, 1000000)
    """
    limits = options.get("limits")
    limit = limits.get("max_file_bytes") if isinstance(limits, Mapping) else None
    return limit if isinstance(limit, int) else MAX_FILE_BYTES
