"""Records of a committed dataset as the legacy (2018) writers and loaders take them.

Tables and images are read for a few records at a time, straight from the parts
and shards: an export walks through datasets whose tables do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.legacy.record import LegacyFile, LegacyRecord
from zml_dask.query.portions import Portion
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import Images
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

_RUN_IMAGES = 1024
"""Images read at once: 26 MB at 80 by 80."""

_FILE_COLUMNS = [
    "file_id",
    "record_id",
    "path",
    "size",
    "status",
    "n_lines",
    "first_image",
    "n_images",
]


@dataclass(frozen=True)
class CommittedRecords:
    """The records of one commit, as the legacy writers take them; can be pickled.

    Attributes
    ----------
    snapshot : Snapshot
        Leaves out withdrawn records.
    """

    snapshot: Snapshot

    @classmethod
    def open(cls, dataset: str | Path | Storage) -> CommittedRecords:
        """Open a dataset.

        Raises
        ------
        UsageError
            If nothing is committed there.
        """
        return cls(Snapshot.open(dataset))

    def record_ids(self) -> list[int]:
        """Numbers of all records, ascending."""
        ids: list[int] = self.snapshot.scan("records", ["record_id"])["record_id"].to_pylist()
        return sorted(ids)

    def records(self, record_ids: Iterable[int]) -> Iterator[LegacyRecord]:
        """Yield some records in ascending order, their images read as they are asked for.

        Raises
        ------
        UsageError
            Also for one that was withdrawn.
        """
        wanted = sorted(set(record_ids))
        if not wanted:
            return
        where = pc.field("record_id").isin(pa.array(wanted, pa.int64()))
        rows = self.snapshot.scan("records", ["record_id", "metadata"], where).to_pylist()
        metadata = {row["record_id"]: row["metadata"] for row in rows}
        for missing in (number for number in wanted if number not in metadata):
            self.snapshot.record(missing)  # says why it is not to be had
        files = self.snapshot.scan("files", _FILE_COLUMNS, where)
        files = files.sort_by([("record_id", "ascending"), ("file_id", "ascending")])
        yield from self._records(wanted, metadata, files)

    def portion(self, portion: Portion) -> Iterator[LegacyRecord]:
        """Yield the records of a portion of a view, with the files of that alone."""
        where = pc.field("record_id").isin(portion.record_ids)
        rows = self.snapshot.scan("records", ["record_id", "metadata"], where).to_pylist()
        metadata = {row["record_id"]: row["metadata"] for row in rows}
        files = self.snapshot.take("files", portion.files.positions(), _FILE_COLUMNS)
        yield from self._records(portion.record_ids, metadata, files)

    def _records(
        self, wanted: Iterable[int], metadata: Mapping[int, str | None], files: pa.Table
    ) -> Iterator[LegacyRecord]:
        by_record: dict[int, list[dict[str, Any]]] = {
            record_id: list(group)
            for record_id, group in groupby(files.to_pylist(), itemgetter("record_id"))
        }
        for record_id in wanted:
            files_of_it = self._files(by_record.get(record_id, []))
            yield LegacyRecord(record_id, metadata[record_id], files_of_it)

    def _files(self, rows: list[dict[str, Any]]) -> Iterator[LegacyFile]:
        """Yield a record's files; `rows` are in path order, and so are their images."""
        for run in _runs(rows):
            images = self._images(run[0]["first_image"], sum(row["n_images"] for row in run))
            at = 0
            for row in run:
                path, size, n = row["path"], row["size"], row["n_images"]
                if row["status"] in ("ok", "empty"):
                    n_lines = image_lines(
                        row["n_lines"], np.arange(n), self.snapshot.info.shape.height
                    )
                    yield LegacyFile(path, size, images[at : at + n], n_lines)
                else:
                    yield LegacyFile(path, size)
                at += n

    def _images(self, start: int, n: int) -> Images:
        if not n:
            shape = self.snapshot.info.shape
            return np.empty((0, shape.height, shape.width), np.uint32)
        return self.snapshot.images.read(np.arange(start, start + n))


def _runs(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Divide rows into runs of files that are read at once."""
    run: list[dict[str, Any]] = []
    n_images = 0
    for row in rows:
        if run and n_images + row["n_images"] > _RUN_IMAGES:
            yield run
            run, n_images = [], 0
        run.append(row)
        n_images += row["n_images"]
    if run:
        yield run
