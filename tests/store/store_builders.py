"""Staged records made of texts, for the store's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.raster.text import normalize_text
from zml_dask.store.info import DatasetInfo, committed_info
from zml_dask.store.layout import TABLES, ImageShape, extension_of
from zml_dask.store.staging import RecordStager, StagedFile, StagedRecord
from zml_dask.store.storage import Storage

SHAPE = ImageShape()


def staged_file(path: str, text: str | None, shape: ImageShape = SHAPE) -> tuple[StagedFile, Any]:
    """One file's row and normalised text; None stands for a binary file."""
    name = path.rpartition("/")[2]
    if text is None:
        row = (path, name, extension_of(name), None, None, 10, "00" * 32, None, "binary", "NUL", 0)
        return StagedFile(*row, None), None
    data = text.encode()
    normalized = normalize_text(data, width=shape.width, keep_binary=True)
    return (
        StagedFile(
            path,
            name,
            extension_of(name),
            "Python",
            "programming",
            len(data),
            hashlib.sha256(data).hexdigest(),
            normalized.encoding,
            "ok" if normalized.n_lines else "empty",
            None,
            normalized.n_lines,
            normalized.n_cut,
        ),
        normalized.text,
    )


def stage(
    storage: Storage,
    scratch: Path,
    record_id: int,
    files: Iterable[tuple[str, str | None]],
    shape: ImageShape = SHAPE,
    **options: Any,
) -> StagedRecord:
    """Stage a record of texts."""
    with RecordStager(scratch, record_id, shape, **options) as stager:
        for path, text in files:
            stager.add(*staged_file(path, text, shape))
        return stager.finish(storage, {"title": f"record {record_id}", "keywords": ["a"]})


def sources(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of some lines each, all different."""
    return [
        (f"src/{i:03}.py", "".join(f"x{seed}_{i} = {j}\n" for j in range((i * 37) % 190)))
        for i in range(count)
    ]


def objects(storage: Storage, prefix: str = "") -> dict[str, bytes]:
    """All objects under a prefix."""
    return {path: storage.read(path) for path in storage.list(prefix)}


def content_of(tree: dict[str, bytes]) -> dict[str, bytes]:
    """What must come out the same however often a build died: the arrays and the rows."""
    return {p: d for p, d in tree.items() if p.startswith(("images.zarr", "files", "records"))}


def stored_table(storage: Storage, table: str, info: DatasetInfo | None = None) -> pa.Table:
    """All rows of a table as pyarrow reads them, those of withdrawn records included."""
    info = info or committed_info(storage)
    parts = [storage.read(part.path) for part in info.tables[table]]
    read = [pq.read_table(pa.BufferReader(part)) for part in parts]
    return pa.concat_tables([TABLES[table].empty_table(), *read])
