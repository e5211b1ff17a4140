"""What is staged, record by record and in packs, and the index of all of it.

A pack is the staged records of a partition in one object, so that quotas of files last.

What is packed is what was staged one by one; a crash between the writing of a
pack and the removal of its singles leaves both, which is harmless: they say the
same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError
from zml_dask.store.layout import FAILURES_SCHEMA, STAGING
from zml_dask.store.staging.frames import (
    BLOB_TRAILER_BYTES,
    PACK_TRAILER_BYTES,
    BlobTrailer,
    Spool,
    compress,
    decompress,
    pack_trailer,
    unpack_trailer,
)
from zml_dask.store.staging.staged import StagedLocation
from zml_dask.store.staging.stager import STAGED_RECORDS
from zml_dask.store.storage import ObjectMissingError, Storage
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

    Parameters
    ----------
    pack_name : str
        Of the partition, say its number.
    record_ids : iterable of int
        Records of the partition; those that are not staged singly are passed over.
    scratch : Path, optional
        Folder for a pack that outgrows memory; the system's by default.

    Returns
    -------
    str or None
        Path of the pack; None where there was nothing to pack.

    Raises
    ------
    StorageError
        If it cannot be written; the singles are all there still.
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


def read_pack_index(storage: Storage, path: str) -> tuple[pa.Table, pa.Table]:
    """Read what a pack holds: its index (`ENTRY_SCHEMA`) and its failures.

    Raises
    ------
    DatasetDamagedError
        If the object is not a whole pack.
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
    failures = pa.ipc.open_stream(reader).read_all()
    return entries, failures


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
    """Why a record is not in the dataset.

    Attributes
    ----------
    stage, kind, message : str
        As of `zml_dask.errors.RecordError`.
    attempts : int
        How often it was tried in all.
    permanent : bool
        Whether trying again is pointless.
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
    """Arrange failures as a table, in record order.

    A record noted more than once keeps the row with the most attempts.
    """
    last: dict[int, FailureRow] = {}
    for failure in failures:
        known = last.get(failure.record_id)
        if known is None or (failure.attempts, failure.kind, failure.message) > (
            known.attempts,
            known.kind,
            known.message,
        ):
            last[failure.record_id] = failure
    rows = []
    for _, failure in sorted(last.items()):
        row = asdict(failure)
        row["message"] = encodable(failure.message)
        rows.append(row)
    return pa.Table.from_pylist(rows, FAILURES_SCHEMA)


def failure_rows(table: pa.Table) -> list[FailureRow]:
    """Inverse of `failures_table`."""
    return [FailureRow(**row) for row in table.to_pylist()]


# Trailers and indices are small reads: their number, not their size, takes the time.
_READERS = 16


@dataclass(frozen=True, eq=False)
class StagedRecords:
    """Some staged records, by ascending id, and where each lies; some 50 bytes per record.

    Attributes
    ----------
    record_id, n_files, n_images : numpy.ndarray of int64
    source : numpy.ndarray of int64
        Which of `paths` holds the record's blob.
    offset, length : numpy.ndarray of int64
        Where in it, in bytes.
    paths : tuple of str
        Objects with staged records, or with failures.
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

    Attributes
    ----------
    height, width : numpy.ndarray of int64
        Image shape that the counts are for.
    failures : pyarrow.Table
        Staged failures (`layout.FAILURES_SCHEMA`) of records that are not staged.
    damaged : tuple of str
        Objects that are not what they should be (torn by a power cut, say);
        their records count as not staged.
    """

    height: Int64
    width: Int64
    failures: pa.Table
    damaged: tuple[str, ...] = ()

    @classmethod
    def load(cls, storage: Storage) -> StagingIndex:
        """Read the index of everything under ``staging/``; empty where there is nothing."""
        packs, singles, notes = (
            storage.list(folder) for folder in (STAGED_PACKS, STAGED_RECORDS, STAGED_FAILURES)
        )
        tables: list[pa.Table] = []
        failures: list[FailureRow] = []
        damaged: list[str] = []
        paths: list[str] = []

        def take(path: str, entries: pa.Table) -> None:
            source = pa.array(np.full(len(entries), len(paths), np.int64))
            tables.append(entries.append_column("source", source))
            paths.append(path)

        with ThreadPoolExecutor(_READERS) as pool:
            for path, pack in _read_all(pool, read_pack_index, storage, packs):
                if pack is None:
                    damaged.append(path)
                else:
                    failures += failure_rows(pack[1])
                    take(path, pack[0])
            for path, entry in _read_all(pool, _read_single, storage, singles):
                if entry is None:
                    damaged.append(path)
                else:
                    take(path, pa.Table.from_pylist([entry], ENTRY_SCHEMA))
            for path, note in _read_all(pool, read_staged_failure, storage, notes):
                if note is None:
                    damaged.append(path)
                else:
                    failures.append(note)
                    paths.append(path)
        schema = ENTRY_SCHEMA.append(pa.field("source", pa.int64()))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        columns = {name: table[name].to_numpy().astype(np.int64) for name in schema.names}
        # A record that is in two places says the same in both: the first is taken.
        _, first = np.unique(columns["record_id"], return_index=True)
        columns = {name: column[first] for name, column in columns.items()}
        staged = set(columns["record_id"].tolist())
        failed = failures_table(row for row in failures if row.record_id not in staged)
        return cls(paths=tuple(paths), failures=failed, damaged=tuple(damaged), **columns)

    def find(self, record_id: int) -> StagedLocation | None:
        """Where a record lies, if it is staged."""
        position = int(np.searchsorted(self.record_id, record_id))
        if position < len(self) and self.record_id[position] == record_id:
            return self.locate(position)
        return None


def _read_single(storage: Storage, path: str) -> dict[str, int]:
    trailer = read_trailer(storage, path)
    return asdict(trailer) | {"offset": 0, "length": storage.size(path)}


def _read_all(
    pool: ThreadPoolExecutor,
    read: Callable[[Storage, str], Any],
    storage: Storage,
    paths: Iterable[str],
) -> list[tuple[str, Any]]:
    """Read objects in parallel; None for a damaged one, nothing for one that is gone by now."""

    def attempt(path: str) -> tuple[str, Any] | None:
        try:
            return path, read(storage, path)
        except DatasetDamagedError:
            return path, None
        except ObjectMissingError:
            return None  # packed, and so removed, since it was listed: its pack is listed too

    return [found for found in pool.map(attempt, paths) if found is not None]
