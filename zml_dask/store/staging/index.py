"""What is staged: all records and failures, wherever they lie, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError
from zml_dask.store.staging.frames import BLOB_TRAILER_BYTES, BlobTrailer
from zml_dask.store.staging.packs import (
    ENTRY_SCHEMA,
    STAGED_FAILURES,
    STAGED_PACKS,
    FailureRow,
    entry_of,
    failure_rows,
    failures_table,
    read_pack_index,
    read_staged_failure,
)
from zml_dask.store.staging.staged import StagedLocation
from zml_dask.store.staging.stager import STAGED_RECORDS
from zml_dask.store.storage import ObjectMissingError, Storage

Int64 = NDArray[np.int64]

# Trailers and indices are small reads: their number, not their size, takes the time.
_READERS = 16


@dataclass(frozen=True)
class StagingIndex:
    """All staged records, by ascending id; some 60 bytes each.

    Attributes
    ----------
    record_id : numpy.ndarray of int64
    source : numpy.ndarray of int64
        Which of `paths` holds the record's blob.
    offset, length : numpy.ndarray of int64
        Where in it, in bytes.
    n_files, n_images : numpy.ndarray of int64
    height, width : numpy.ndarray of int64
        Image shape that the counts are for.
    paths : tuple of str
        All objects with staged records or failures.
    failures : pyarrow.Table
        Staged failures (`layout.FAILURES_SCHEMA`) of records that are not staged.
    damaged : tuple of str
        Objects that are not what they should be (torn by a power cut, say);
        their records count as not staged.
    """

    record_id: Int64
    source: Int64
    offset: Int64
    length: Int64
    n_files: Int64
    n_images: Int64
    height: Int64
    width: Int64
    paths: tuple[str, ...]
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
        return cls._build(tables, failures, paths, damaged)

    @classmethod
    def _build(
        cls,
        tables: list[pa.Table],
        failures: list[FailureRow],
        paths: list[str],
        damaged: list[str],
    ) -> StagingIndex:
        schema = ENTRY_SCHEMA.append(pa.field("source", pa.int64()))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        columns = {name: table[name].to_numpy().astype(np.int64) for name in schema.names}
        # A record that is in two places says the same in both: the first is taken.
        _, first = np.unique(columns["record_id"], return_index=True)
        columns = {name: column[first] for name, column in columns.items()}
        staged = set(columns["record_id"].tolist())
        failed = failures_table(row for row in failures if row.record_id not in staged)
        return cls(paths=tuple(paths), failures=failed, damaged=tuple(damaged), **columns)

    def __len__(self) -> int:
        return self.record_id.size

    def locate(self, position: int) -> StagedLocation:
        """Where the record at a position of the arrays lies."""
        return StagedLocation(
            self.paths[self.source[position]],
            int(self.offset[position]),
            int(self.length[position]),
        )

    def find(self, record_id: int) -> StagedLocation | None:
        """Where a record lies, if it is staged."""
        position = int(np.searchsorted(self.record_id, record_id))
        if position < len(self) and self.record_id[position] == record_id:
            return self.locate(position)
        return None


def _read_single(storage: Storage, path: str) -> dict[str, int]:
    trailer = BlobTrailer.from_bytes(storage.read_tail(path, BLOB_TRAILER_BYTES), path)
    return entry_of(trailer, 0, storage.size(path))


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
