"""The catalogue as a table: a Parquet file of hits, and SQL over any catalogue.

A Parquet catalogue holds one row per record: the hit as JSON, and columns of
what a record is chosen by. The state of the harvest that wrote it is in the
file's metadata. Three columns are read to open half a million records.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zml_dask.arguments import nearest
from zml_dask.records.instants import instant_of
from zml_dask.records.journal import HarvestState, add_line, replacing
from zml_dask.records.parse import api_root_of, parse_record

PARQUET_MAGIC: Final = b"PAR1"

COLUMNS: Final = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("concept_id", pa.int64()),
        pa.field("created", pa.timestamp("ms", tz="UTC")),
        pa.field("updated", pa.timestamp("ms", tz="UTC")),
        pa.field("publication_date", pa.string()),
        pa.field("doi", pa.string()),
        pa.field("title", pa.string()),
        pa.field("version", pa.string()),
        pa.field("license", pa.string()),
        pa.field("keywords", pa.list_(pa.string())),
        pa.field("creators", pa.list_(pa.string())),
        pa.field("repository", pa.string()),
        pa.field("resource_type", pa.string()),
        pa.field("access", pa.string()),
        pa.field("n_files", pa.int32()),
        pa.field("archive_bytes", pa.int64()),
        pa.field("api_url", pa.string()),
        pa.field("hit", pa.string(), nullable=False),
    ]
)
"""Columns of a Parquet catalogue, and of the table that a condition is asked of. `archive_bytes`
is the sum of the files' sizes, `api_url` the server that the record names, `hit` the whole JSON."""

_STATE: Final = "zml_dask.harvest"
_STATE_CHECKSUM: Final = "zml_dask.harvest.checksum"
# Small groups: to read one record, one group is decoded (about 5 MB of JSON).
_GROUP: Final = 2_000
_LEVEL: Final = 9


@dataclass(frozen=True)
class ParquetIndex:
    """What opening a Parquet catalogue reads of it."""

    # (n, 4), columns as in `RecordRef`: id, number of the row, length of the hit, bytes of files.
    rows: NDArray[np.int64]
    roots: frozenset[str]  # servers that the records name
    harvest: HarvestState | None


def row_of(hit: bytes) -> dict[str, Any]:
    """Make a row of one hit's JSON; raise `RecordParseError` or `ValueError` if it is no record."""
    content = json.loads(hit)
    record = parse_record(content)
    return {
        "record_id": record.record_id,
        "concept_id": record.concept_id,
        "created": instant_of(record.created),
        "updated": instant_of(content.get("updated")),
        "publication_date": record.publication_date,
        "doi": record.doi,
        "title": record.title,
        "version": record.version,
        "license": record.license,
        "keywords": record.keywords,
        "creators": record.creators,
        "repository": record.repository,
        "resource_type": record.resource_type,
        "access": record.access,
        "n_files": len(record.files),
        "archive_bytes": min(record.archive_bytes, 2**63 - 1),
        "api_url": api_root_of(content),
        "hit": hit.rstrip(b"\r\n"),
    }


def _batches(hits: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
    left = iter(hits)
    while rows := [row_of(hit) for hit in islice(left, _GROUP)]:
        yield pa.RecordBatch.from_pylist(rows, schema=COLUMNS)


def write_parquet(path: Path, hits: Iterable[bytes], harvest: HarvestState | None) -> int:
    """Write a Parquet catalogue, whole or not at all; return the number of its records.

    `hits` is the JSON of each record, taken one after the other. The state of the harvest is kept
    in the file.
    """
    state = {}
    if harvest is not None:
        # Pages have checksums; the file's metadata does not.
        text = harvest.to_json()
        state = {_STATE: text, _STATE_CHECKSUM: str(add_line(0, text.encode()))}
    count = 0
    with (
        replacing(path) as stream,
        pq.ParquetWriter(
            stream,
            COLUMNS.with_metadata(state),
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=["license", "resource_type", "access", "api_url"],
            write_statistics=["record_id", "created", "updated", "archive_bytes"],
            write_page_checksum=True,
        ) as writer,
    ):
        for batch in _batches(hits):
            writer.write_batch(batch, row_group_size=_GROUP)
            count += batch.num_rows
    return count


def read_parquet_index(path: str) -> ParquetIndex:
    """Read which records a Parquet catalogue holds; raise `ValueError` if it is none or damaged."""
    try:
        with fsspec.open(path, "rb") as stream, _opened(stream) as file:
            names = file.schema_arrow.names
            missing = {"record_id", "hit"} - set(names)
            if missing:
                raise ValueError(f"it has no column {' and no column '.join(sorted(missing))}")
            if not _is_text(file.schema_arrow.field("hit").type):
                raise ValueError("its column hit holds something else than the JSON of records")
            optional = [name for name in ("archive_bytes", "api_url") if name in names]
            table = file.read(["record_id", *optional])
            metadata = file.schema_arrow.metadata or {}
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    ids = table["record_id"]
    if ids.null_count or not pa.types.is_integer(ids.type):
        raise ValueError("its column record_id holds something else than whole numbers")
    rows = np.zeros((table.num_rows, 4), dtype=np.int64)
    rows[:, 0] = ids.to_numpy()
    rows[:, 1] = np.arange(table.num_rows)
    if "archive_bytes" in optional:
        rows[:, 3] = table["archive_bytes"].fill_null(0).to_numpy()
    roots = table["api_url"].unique().drop_null().to_pylist() if "api_url" in optional else []
    return ParquetIndex(rows, frozenset(roots), _harvest_in(metadata, path))


def _harvest_in(metadata: Mapping[bytes, bytes], path: str) -> HarvestState | None:
    names = {name for name in metadata if name.startswith(b"zml_dask")}
    if not names:
        return None
    text, checksum = (metadata.get(name.encode(), b"") for name in (_STATE, _STATE_CHECKSUM))
    if str(add_line(0, text)).encode() != checksum:
        raise ValueError("the harvest's state in it is damaged")
    return HarvestState.from_json(text, path)


class ParquetHits:
    """Reads single hits of a Parquet catalogue (a path or an fsspec URL).

    The last group of rows that was decoded is kept.
    """

    def __init__(self, path: str) -> None:
        self._file = _opened(fsspec.open(path, "rb").open())
        sizes = [
            self._file.metadata.row_group(number).num_rows
            for number in range(self._file.metadata.num_row_groups)
        ]
        self._starts = np.cumsum([0, *sizes])
        self._lock = threading.Lock()
        self._group = -1
        self._hits: pa.ChunkedArray | None = None

    def read(self, row: int) -> bytes:
        """Return the JSON in one row; nothing if there is no such row."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if not 0 <= row < self._starts[-1]:
            return b""
        with self._lock:
            if self._hits is None or group != self._group:
                self._hits = self._file.read_row_group(group, ["hit"])["hit"]
                self._group = group
            hit = self._hits[row - int(self._starts[group])].as_py() or b""
        return hit.encode("utf-8") if isinstance(hit, str) else bytes(hit)


def table_of(path: str, hits: Callable[[], Iterator[bytes]]) -> pa.RecordBatchReader:
    """Return a catalogue as a stream of batches with `COLUMNS`.

    Parquet is read as it is; `hits` gives the JSON of every record of another form.
    """
    filesystem, inner = fsspec.core.url_to_fs(path)
    if filesystem.cat_file(inner, start=0, end=len(PARQUET_MAGIC)) != PARQUET_MAGIC:
        return pa.RecordBatchReader.from_batches(COLUMNS, _batches(hits()))
    file = _opened(filesystem.open(inner, "rb"))
    return pa.RecordBatchReader.from_batches(
        file.schema_arrow, file.iter_batches(batch_size=_GROUP)
    )


def select_ids(table: pa.RecordBatchReader, condition: str) -> NDArray[np.int64]:
    """Return the ids (int64) of the records for which a SQL condition is true.

    `condition` is what may follow WHERE in DuckDB's SQL. Raises `ValueError` if it is not a
    condition over these columns.
    """
    import duckdb

    if not condition.strip():
        raise ValueError(f"{condition!r} is not a condition; write it like \"license == 'mit'\"")
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("set enable_external_access = false; set lock_configuration = true")
        try:
            # On lines of their own, so that a comment does not hide the bracket.
            query = f"select record_id from catalogue where (\n{condition}\n)"  # noqa: S608
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise ValueError(f"{condition!r} is more than one condition")
            connection.register("catalogue", table)
            found = connection.execute(query).fetchnumpy()["record_id"]
        except duckdb.Error as error:
            reason = re.sub(r"^\w+ Error: ", "", str(error).splitlines()[0])
            names = table.schema.names
            unknown = re.search(r'column "([^"]+)" not found', reason)
            if unknown is not None:
                reason = f"no column {unknown[1]!r}; {nearest(unknown[1], names)}"
            raise ValueError(
                f"{condition!r} is not a condition over a catalogue: {reason}"
            ) from None
    return np.asarray(found, dtype=np.int64)


def _is_text(column: pa.DataType) -> bool:
    """Whether a column holds text, as the tools that write Parquet have it."""
    kinds = ("string", "large_string", "string_view", "binary", "large_binary")
    return isinstance(column, pa.JsonType) or str(column) in kinds


def _opened(stream: Any) -> pq.ParquetFile:
    return pq.ParquetFile(stream, page_checksum_verification=True)
