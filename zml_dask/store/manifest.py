"""The manifest: size and checksum of every object that a later commit may replace.

Shards and Zarr metadata are listed here; parts of tables, and the manifest's
own, are listed by ``dataset.json``, which checks itself. So one flipped byte
anywhere is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from zml_dask.store.info import DatasetInfo, Part, WrittenObject
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_part, write_part

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
    """Read the list of all objects; the last row of a path is the one that counts."""
    return {
        row["path"]: WrittenObject(**row)
        for part in info.manifest
        for row in read_part(storage, part).to_pylist()
    }


def digest_of(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()
