"""A staged record as the first edition's writers take it: what a build exports in its own pass."""

from __future__ import annotations

from collections.abc import Iterator

from zml_dask.legacy.record import Canvas, LegacyFile, LegacyRecord
from zml_dask.store.staging import StagedReader


def staged_record(staged: StagedReader) -> LegacyRecord:
    """Return a record that draws its files from the staged text as they are asked for."""
    row = staged.record
    return LegacyRecord(row["record_id"], row["metadata"], _files(staged))


def _files(staged: StagedReader) -> Iterator[LegacyFile]:
    canvas = Canvas(staged.shape)
    for row, text in staged:
        # An empty file is text without lines: a key without segments.
        drawn = b"" if row["status"] == "empty" else text
        yield canvas.file(row["path"], drawn, size=row["size"], n_lines=row["n_lines"])
