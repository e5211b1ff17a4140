"""Rows of files on their way into staging: as they are added, gathered, sorted by path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.store.layout import FILES_SCHEMA, FileStatus
from zml_dask.text_safety import encodable

ROW_FRAME_FILES = 8_192
"""Files whose rows go into one frame."""

_ROWS_IN_MEMORY = 65_536


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A row of the files table before it has any number; see `layout.FILES_SCHEMA`.

    Attributes
    ----------
    path, name, extension : str
    language, kind : str or None
    size : int or None
        Bytes of the file itself.
    sha256 : str or None
        Of the file's own bytes, hex.
    encoding : str or None
    status : FileStatus
    reason : str or None
    n_lines : int
        Lines of the normalised text; 0 where there is none.
    n_cut : int or None
        How many of them are longer than an image is wide.
    sha1_git : str or None
        Of the file's own bytes as git names them, hex.
    """

    path: str
    name: str
    extension: str
    language: str | None
    kind: str | None
    size: int | None
    sha256: str | None
    encoding: str | None
    status: FileStatus
    reason: str | None
    n_lines: int
    n_cut: int | None
    sha1_git: str | None = None


STAGED_SCHEMA = pa.schema(
    [
        *(FILES_SCHEMA.field(column.name) for column in fields(StagedFile)),
        pa.field("text", pa.int64(), nullable=False),
    ]
)
"""A row of a file as it is added: what `StagedFile` holds, and the number of its text or -1."""


class FileRows:
    """Rows of one record's files: takes them in any order, gives them in path order.

    Rows beyond 65,536 wait in one Arrow file.

    Parameters
    ----------
    path : Path
        Of that file, in scratch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = None
        self._rows: list[tuple[StagedFile, int]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, file: StagedFile, text: int) -> None:
        """Take a file and the number of its text, or -1."""
        self._rows.append((file, text))
        if len(self._rows) >= ROW_FRAME_FILES:
            self._gather()

    def _gather(self) -> None:
        if self._rows:
            self._batches.append(_to_batch(self._rows))
            self._rows = []
        if sum(map(len, self._batches)) >= _ROWS_IN_MEMORY:
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pa.ipc.new_file(str(self._path), STAGED_SCHEMA)
            for batch in self._batches:
                self._writer.write_batch(batch)
            self._batches = []

    def in_path_order(self) -> Iterator[pa.RecordBatch]:
        """Give all rows by the UTF-8 bytes of their paths, which is also code point order."""
        self._gather()
        table = pa.Table.from_batches(self._batches, STAGED_SCHEMA)
        if self._writer is not None:
            self._writer.close()
            spilled = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
            table = pa.concat_tables([spilled, table])
        # Members of one path keep the order they were added in.
        table = table.append_column("sequence", pa.array(range(len(table)), pa.int64()))
        order = pc.sort_indices(
            table.select(["path", "sequence"]),
            sort_keys=[("path", "ascending"), ("sequence", "ascending")],
        )
        table = table.drop_columns("sequence")
        for start in range(0, len(order), ROW_FRAME_FILES):
            rows = table.take(order.slice(start, ROW_FRAME_FILES)).combine_chunks()
            yield rows.to_batches()[0]

    def close(self) -> None:
        """Free the memory, and remove the file in scratch."""
        self._rows, self._batches = [], []
        if self._writer is not None:
            self._writer.close()
            self._path.unlink(missing_ok=True)
            self._writer = None


def _to_batch(rows: list[tuple[StagedFile, int]]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        name: [getattr(file, name) for file, _ in rows] for name in STAGED_SCHEMA.names[:-1]
    }
    columns["text"] = [number for _, number in rows]
    try:
        return pa.RecordBatch.from_pydict(columns, STAGED_SCHEMA)
    except UnicodeEncodeError:
        # A lone surrogate in a path, say: no table can hold it, so it is spelt out.
        cleaned = {name: [encodable(value) for value in column] for name, column in columns.items()}
        return pa.RecordBatch.from_pydict(cleaned, STAGED_SCHEMA)
