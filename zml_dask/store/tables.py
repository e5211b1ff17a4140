"""Tables as Parquet parts: each is written once, whole, by one task, and never changed."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.errors import StorageError
from zml_dask.store.info import DatasetInfo, Part, WrittenObject
from zml_dask.store.layout import RECORDS_SCHEMA, TABLES, part_path
from zml_dask.store.storage import Storage

ROW_GROUP_ROWS = 65_536
"""Rows per row group: what a reader that filters by statistics can skip at once."""

_ROW_GROUP_ROWS = {"records": 4_096, "summary": 8_192}
"""Fewer of records, whose metadata takes a kilobyte each when compressed, since a row group of it
is read for that of one. Of 100,000 records over HTTP, counting those of a licence takes 32
requests (56 with groups of 2,048 rows, 105 with 1,024), and the metadata of one record 4.1 MB
(2.1, 1.0). The first row group of the summary has all but most of the extensions."""

# Columns of few different values; for others, Parquet's writer would give up the dictionary.
_DICTIONARY = [
    "name", "extension", "language", "language_group", "kind", "encoding", "status", "reason",
    "license", "licenses.list.element", "keywords.list.element", "publication_date", "origin",
    "stage", "dimension"
]  # fmt: skip

# Numbers that increase from row to row. Stored as differences, the files by language take 6.6
# bytes per row instead of 8.0, and are read in a third of the time.
_INCREASING = ("file_id", "record_id", "first_image")

# Nearly random: compressed they are a fifteenth smaller, and take a browser ten times as long.
_UNCOMPRESSED = ("vector", "tree", "weights")

# The least and greatest of a row group would be whole JSON texts, more than the rest of a footer.
_WITHOUT_STATISTICS = ("metadata",)

# Hashes are looked up one at a time, and a row group's statistics never exclude one. A filter
# has 4 bytes per row, where 90 would be read (hex text takes 10 % more than bytes would, and
# is what sha256sum and git print).
_BLOOM = ("sha256", "sha1_git")


def write_part(
    storage: Storage,
    table: str,
    number: int,
    batches: Iterable[pa.RecordBatch | pa.Table],
    *,
    schema: pa.Schema | None = None,
    check: Callable[[], None] = lambda: None,
) -> Part:
    """Write one part of a table; the same rows give the same bytes.

    `table` is a key of `layout.TABLES`, unless `schema` is given. Rows are consumed as they come,
    so that memory holds one row group. `check`, which may raise, is called just before the part is
    put in its place.
    """
    schema = schema or TABLES[table]
    row_group_rows = _ROW_GROUP_ROWS.get(table, ROW_GROUP_ROWS)
    # Per column only if needed, since the columns of lists have other names there.
    plain = [f.name for f in schema if f.name in _UNCOMPRESSED and f.type == pa.binary()]
    others = [name for name in schema.names if name not in plain]
    codecs = dict.fromkeys(others, "zstd") | dict.fromkeys(plain, "none") if plain else "zstd"
    leaves = {f.name: f"{f.name}.list.element" for f in schema if pa.types.is_list(f.type)}
    rows = 0
    with tempfile.TemporaryDirectory(prefix="zml-part-") as scratch:
        local = Path(scratch, "part.parquet")
        with pq.ParquetWriter(
            local,
            schema,
            compression=codecs,
            compression_level=dict.fromkeys(others, 3) if plain else 3,
            use_dictionary=[n for n in _DICTIONARY if n.partition(".")[0] in schema.names],
            column_encoding={
                name: "DELTA_BINARY_PACKED" for name in _INCREASING if name in schema.names
            },
            write_statistics=[
                leaves.get(name, name) for name in schema.names if name not in _WITHOUT_STATISTICS
            ],
            write_page_checksum=True,
            bloom_filter_options={
                name: {"ndv": row_group_rows, "fpp": 0.01}
                for name in _BLOOM
                if name in schema.names
            },
        ) as writer:
            for group in row_groups(batches, row_group_rows):
                writer.write_table(group)
                rows += len(group)
        size, digest = local.stat().st_size, _hash_file(local)
        check()
        path = part_path(table, number, digest)
        storage.publish(local, path)
    return Part(path, rows, size, digest)


def append_part(
    storage: Storage, info: DatasetInfo, table: str, rows: pa.Table, *, replaces: bool = False
) -> DatasetInfo:
    """Write a part of a table; return `info` with it, after the other parts or instead of them."""
    number = info.next_part.get(table, 0)
    part = write_part(storage, table, number, [rows])
    return replace(
        info,
        tables={**info.tables, table: (part,) if replaces else (*info.tables[table], part)},
        next_part={**info.next_part, table: number + 1},
    )


def row_groups(
    batches: Iterable[pa.RecordBatch | pa.Table], row_group_rows: int
) -> Iterator[pa.Table]:
    """Cut rows into groups of equal size, so that the bytes do not depend on the batches."""
    waiting: list[pa.Table] = []
    rows = 0  # of those that wait: a batch may be a single row, and a group tens of thousands
    for batch in batches:
        rows += len(batch)
        waiting.append(
            pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        )
        if rows < row_group_rows:
            continue
        gathered = pa.concat_tables(waiting)
        whole = rows - rows % row_group_rows
        for start in range(0, whole, row_group_rows):
            yield gathered.slice(start, row_group_rows).combine_chunks()
        rows -= whole
        waiting = [gathered.slice(whole)] if rows else []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def records_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of rows of the records table, whose dates are text as published.

    `pyarrow.ArrowException` where a value does not fit its column.
    """
    dated = [{**row, "publication_date": first_day(row.get("publication_date"))} for row in rows]
    return pa.Table.from_pylist(dated, RECORDS_SCHEMA)


def first_day(published: str | date | None) -> date | None:
    """Return the day of a publication date; the first one of a month, a year or an interval.

    Examples
    --------
    >>> first_day("2018-05-06"), first_day("2018-05"), first_day("2018/2020"), first_day("soon")
    (datetime.date(2018, 5, 6), datetime.date(2018, 5, 1), datetime.date(2018, 1, 1), None)
    """
    found = re.match(r"\s*(\d{4})(?:-(\d\d))?(?:-(\d\d))?(?!\d)", str(published or ""), re.ASCII)
    if found is None:
        return None
    try:
        return date(*(int(number or 1) for number in found.groups()))
    except ValueError:
        return None


def _hash_file(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "manifest"

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("rows_sha256", pa.string()),
        pa.field("last_rows_sha256", pa.string()),
    ]
)


def write_manifest(storage: Storage, number: int, objects: Sequence[WrittenObject]) -> Part:
    """Write the list of what one commit wrote."""
    table = pa.Table.from_pylist(list(map(asdict, objects)), MANIFEST_SCHEMA)
    return write_part(storage, MANIFEST, number, [table], schema=MANIFEST_SCHEMA)


def read_manifest(storage: Storage, info: DatasetInfo) -> dict[str, WrittenObject]:
    """Read the list of all objects, by path."""
    found: dict[str, WrittenObject] = {}
    for part in info.manifest:
        try:
            with storage.open_reader(part.path) as stream:
                rows = pq.ParquetFile(stream, page_checksum_verification=True).read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{part.path} cannot be read ({error}); run zml-dask verify on the dataset"
            ) from error
        found.update((row["path"], WrittenObject(**row)) for row in rows)
    return found


def digest_of(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()
