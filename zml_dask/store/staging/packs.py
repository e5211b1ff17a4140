"""Packs: the staged records of a partition in one object, so that quotas of files last.

What is packed is what was staged one by one; a crash between the writing of a
pack and the removal of its singles leaves both, which is harmless: they say the
same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

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
from zml_dask.store.staging.stager import STAGED_RECORDS
from zml_dask.store.storage import ObjectMissingError, Storage
from zml_dask.text_safety import encodable

STAGED_PACKS = f"{STAGING}/packs"

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


def entry_of(trailer: BlobTrailer, offset: int, length: int) -> dict[str, int]:
    """Row of a pack's index for a blob."""
    return {
        "record_id": trailer.record_id,
        "offset": offset,
        "length": length,
        "n_files": trailer.n_files,
        "n_images": trailer.n_images,
        "height": trailer.height,
        "width": trailer.width,
    }


def pack_records(
    storage: Storage, pack_name: str, record_ids: Iterable[int], *, scratch: Path | None = None
) -> str | None:
    """Put the staged records and failures of a partition into one object; remove the singles.

    Safe at every point: the pack is published before anything is removed, and
    its name holds a hash of what is in it, so that no other partition's pack of
    the same name is overwritten.

    Parameters
    ----------
    storage : Storage
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
            trailer = _read_trailer(storage, path)
            if trailer is not None:
                offset, length = spool.size, storage.size(path)
                for start in range(0, length, _COPY_BYTES):
                    spool.append(storage.read_range(path, start, min(start + _COPY_BYTES, length)))
                entries.append(entry_of(trailer, offset, length))
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


def _read_trailer(storage: Storage, path: str) -> BlobTrailer | None:
    try:
        return BlobTrailer.from_bytes(storage.read_tail(path, BLOB_TRAILER_BYTES), path)
    except (ObjectMissingError, DatasetDamagedError):
        return None  # never staged, or torn by a power cut: it is built again


def _to_stream(entries: list[dict[str, int]], failures: list[FailureRow]) -> bytes:
    sink = pa.BufferOutputStream()
    for rows, schema in ((entries, ENTRY_SCHEMA), ([*map(asdict, failures)], FAILURES_SCHEMA)):
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    data: bytes = sink.getvalue().to_pybytes()
    return data


STAGED_FAILURES = f"{STAGING}/failures"


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Why a record is not in the dataset.

    Attributes
    ----------
    record_id : int
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
