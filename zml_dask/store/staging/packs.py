"""What is staged, record by record and in packs, and the index of all of it.

A pack is the staged records of a partition in one object, to respect quotas of files.
A crash between the writing of a pack and the removal of its single records leaves both,
which is harmless: their content is the same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError, ObjectMissingError
from zml_dask.store.layout import FAILURES_SCHEMA, STAGING
from zml_dask.store.staging.frames import (
    BLOB_TRAILER_BYTES,
    PACK_TRAILER_BYTES,
    BlobTrailer,
    Spool,
    StagedLocation,
    compress,
    decompress,
    pack_trailer,
    unpack_trailer,
)
from zml_dask.store.staging.stager import STAGED_RECORDS
from zml_dask.store.storage import Storage
from zml_dask.text_safety import encodable

Int64 = NDArray[np.int64]

STAGED_PACKS = f"{STAGING}/packs"
STAGED_FAILURES = f"{STAGING}/failures"

ENTRY_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("n_files", pa.int64(), nullable=False),
        pa.field("n_images", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)
"""The index of a pack: one row per blob."""

_COPY_BYTES = 4 * 2**20
_TAIL_BYTES = 64 * 1024


def pack_records(
    storage: Storage, pack_name: str, record_ids: Iterable[int], *, scratch: Path | None = None
) -> str | None:
    """Put the staged records and failures of a partition into one object; remove the singles.

    Safe at every point: the pack is published before anything is removed, and
    its name holds a hash of what is in it, so that no other partition's pack of
    the same name is overwritten.

    Of `record_ids`, those that are not staged singly are ignored. A pack that outgrows memory is
    written in the folder `scratch` (default: the system's). Returns the path of the pack; None if
    there was nothing to pack. `StorageError` if it cannot be written; all singles remain then.
    """
    entries: list[dict[str, int]] = []
    failures: list[FailureRow] = []
    singles: list[str] = []
    with Spool(scratch or Path(tempfile.gettempdir())) as spool:
        for record_id in sorted(set(record_ids)):
            path = f"{STAGED_RECORDS}/{record_id}"
            trailer = staged_trailer(storage, record_id)
            if trailer is not None:
                offset, length = spool.size, storage.size(path)
                for start in range(0, length, _COPY_BYTES):
                    spool.append(storage.read_range(path, start, min(start + _COPY_BYTES, length)))
                entries.append(asdict(trailer) | {"offset": offset, "length": length})
                singles.append(path)
            note = f"{STAGED_FAILURES}/{record_id}.json"
            if storage.exists(note):
                failures.append(read_staged_failure(storage, note))
                singles.append(note)
        if not singles:
            return None
        index = compress(_to_stream(entries, failures))
        start = spool.size
        spool.append(index)
        spool.append(pack_trailer(start, len(index)))
        name = hashlib.sha256(index).hexdigest()[:16]
        path = f"{STAGED_PACKS}/{pack_name}-{name}"
        if spool.path is None:
            storage.write(path, spool.join())
        else:
            storage.publish(spool.path, path)
    storage.remove(singles)
    return path


def read_pack_index(storage: Storage, path: str) -> tuple[pa.Table, list[FailureRow]]:
    """Read the index (`ENTRY_SCHEMA`) and the failures of a pack.

    `DatasetDamagedError` if the object is not a whole pack.
    """
    tail = storage.read_tail(path, _TAIL_BYTES)
    offset, length = unpack_trailer(tail, path)
    size = length + PACK_TRAILER_BYTES
    frame = (
        tail[-size:-PACK_TRAILER_BYTES]
        if size <= len(tail)
        else storage.read_range(path, offset, offset + length)
    )
    stream = pa.py_buffer(decompress(frame, path))
    reader = pa.BufferReader(stream)
    entries = pa.ipc.open_stream(reader).read_all()
    return entries, failure_rows(pa.ipc.open_stream(reader).read_all())


def read_trailer(storage: Storage, path: str) -> BlobTrailer:
    """Read what the end of a blob says; `DatasetDamagedError` where it is not whole."""
    return BlobTrailer.from_bytes(storage.read_tail(path, BLOB_TRAILER_BYTES), path)


def staged_trailer(storage: Storage, record_id: int) -> BlobTrailer | None:
    """Read the trailer of a record that is staged on its own; None where it is not, or torn."""
    try:
        return read_trailer(storage, f"{STAGED_RECORDS}/{record_id}")
    except (ObjectMissingError, DatasetDamagedError):
        return None  # a power cut tears what was written; it is built again


def _to_stream(entries: list[dict[str, int]], failures: list[FailureRow]) -> bytes:
    sink = pa.BufferOutputStream()
    for rows, schema in ((entries, ENTRY_SCHEMA), ([*map(asdict, failures)], FAILURES_SCHEMA)):
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    data: bytes = sink.getvalue().to_pybytes()
    return data


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Why a record is not in the dataset; `stage`, `kind`, `message` are those of a `RecordError`.

    `attempts` counts all; `permanent` is whether trying again is pointless.
    """

    record_id: int
    stage: str
    kind: str
    message: str
    attempts: int
    permanent: bool


def stage_failure(storage: Storage, failure: FailureRow) -> None:
    """Note that a record failed; replaces what was noted of it before."""
    storage.write(
        f"{STAGED_FAILURES}/{failure.record_id}.json",
        json.dumps(asdict(failure)).encode(),
        durable=False,
    )


def read_staged_failure(storage: Storage, path: str) -> FailureRow:
    """Read one staged failure; `DatasetDamagedError` where it is not one."""
    try:
        return FailureRow(**json.loads(storage.read(path)))
    except (ValueError, TypeError) as error:
        raise DatasetDamagedError(
            f"{path} is not a staged failure; remove it and build again"
        ) from error


def failures_table(failures: Iterable[FailureRow]) -> pa.Table:
    """Make a table of failures, in record order; of several of a record, that of most attempts."""
    ordered = sorted(failures, key=lambda one: (one.record_id, one.attempts, one.kind, one.message))
    last = {failure.record_id: failure for failure in ordered}
    rows = [asdict(one) | {"message": encodable(one.message)} for one in last.values()]
    return pa.Table.from_pylist(rows, FAILURES_SCHEMA)


def failure_rows(table: pa.Table) -> list[FailureRow]:
    """Inverse of `failures_table`."""
    return [FailureRow(**row) for row in table.to_pylist()]


# Trailers and indices are small reads, whose number takes the time.
_READERS = 16


@dataclass(frozen=True, eq=False)
class StagedRecords:
    """Some staged records, by ascending id, and where each lies; some 50 bytes per record.

    `source` is which of `paths` (objects with staged records, or with failures) has the record's
    blob, `offset` and `length` are where in it, in bytes.
    """

    record_id: Int64
    source: Int64
    offset: Int64
    length: Int64
    n_files: Int64
    n_images: Int64
    paths: tuple[str, ...]

    COLUMNS: ClassVar = ("record_id", "source", "offset", "length", "n_files", "n_images")

    def __len__(self) -> int:
        return self.record_id.size

    def columns(self, rows: Any = slice(None)) -> dict[str, Any]:
        """Return the columns, or some rows of them, by name."""
        return {name: getattr(self, name)[rows] for name in self.COLUMNS}

    def locate(self, position: int) -> StagedLocation:
        """Where the record at a position of the arrays lies."""
        path = self.paths[self.source[position]]
        return StagedLocation(path, int(self.offset[position]), int(self.length[position]))


@dataclass(frozen=True, eq=False)
class StagingIndex(StagedRecords):
    """All that is staged.

    `height` and `width` are the image shape that the counts are for, `failures` the staged
    failures (`layout.FAILURES_SCHEMA`) of records that are not staged. `damaged` are objects torn
    by a power cut, say; their records count as not staged.
    """

    height: Int64
    width: Int64
    failures: pa.Table
    damaged: tuple[str, ...] = ()

    @classmethod
    def load(cls, storage: Storage) -> StagingIndex:
        """Read the index of everything under ``staging/``; empty where there is nothing."""
        readers = {
            STAGED_PACKS: read_pack_index,
            STAGED_RECORDS: _read_single,
            STAGED_FAILURES: _read_note,
        }
        listed = [(path, read) for folder, read in readers.items() for path in storage.list(folder)]

        def attempt(item: tuple[str, _Read]) -> tuple[pa.Table, list[FailureRow]] | None:
            path, read = item
            try:
                return read(storage, path)
            except DatasetDamagedError:
                return None
            except ObjectMissingError:  # packed since it was listed: its pack is listed too
                return ENTRY_SCHEMA.empty_table(), []

        tables: list[pa.Table] = []
        failures: list[FailureRow] = []
        damaged: list[str] = []
        paths: list[str] = []
        with ThreadPoolExecutor(_READERS) as pool:
            for (path, _), found in zip(listed, pool.map(attempt, listed), strict=True):
                if found is None:
                    damaged.append(path)
                    continue
                source = pa.array(np.full(len(found[0]), len(paths), np.int64))
                tables.append(found[0].append_column("source", source))
                failures += found[1]
                paths.append(path)
        schema = ENTRY_SCHEMA.append(pa.field("source", pa.int64()))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        columns = {name: table[name].to_numpy().astype(np.int64) for name in schema.names}
        # A record in two places is the same in both: the first is taken.
        _, first = np.unique(columns["record_id"], return_index=True)
        columns = {name: column[first] for name, column in columns.items()}
        staged = set(columns["record_id"].tolist())
        failed = failures_table(row for row in failures if row.record_id not in staged)
        return cls(paths=tuple(paths), failures=failed, damaged=tuple(damaged), **columns)

    def find(self, record_id: int) -> StagedLocation | None:
        """Return where a record lies; None if it is not staged."""
        position = int(np.searchsorted(self.record_id, record_id))
        if position < len(self) and self.record_id[position] == record_id:
            return self.locate(position)
        return None


_Read: TypeAlias = Callable[[Storage, str], tuple[pa.Table, list[FailureRow]]]


def _read_single(storage: Storage, path: str) -> tuple[pa.Table, list[FailureRow]]:
    trailer = read_trailer(storage, path)
    entry = asdict(trailer) | {"offset": 0, "length": storage.size(path)}
    return pa.Table.from_pylist([entry], ENTRY_SCHEMA), []


def _read_note(storage: Storage, path: str) -> tuple[pa.Table, list[FailureRow]]:
    return ENTRY_SCHEMA.empty_table(), [read_staged_failure(storage, path)]
