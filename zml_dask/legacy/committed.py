"""Records of a committed dataset as the first edition's writers and loaders take them.

Tables and images are read for a few records at a time, straight from the parts
and shards: an export walks through datasets whose tables do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zml_dask.errors import UsageError
from zml_dask.legacy.record import LegacyFile, LegacyRecord
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import Images
from zml_dask.store.image_reader import ImageReader
from zml_dask.store.info import DatasetInfo, committed_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_record_ids, read_rows

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


class NoSuchRecordError(UsageError):
    """The dataset holds no such record."""


@dataclass(frozen=True)
class CommittedRecords:
    """The records of a dataset as of its last commit; can be pickled.

    Attributes
    ----------
    storage : Storage
    info : DatasetInfo
    """

    storage: Storage
    info: DatasetInfo

    @classmethod
    def open(cls, dataset: str | Path | Storage) -> CommittedRecords:
        """Open a dataset.

        Raises
        ------
        NoDatasetError
            If nothing is committed there.
        """
        storage = Storage.open(dataset)
        return cls(storage, committed_info(storage))

    @property
    def shape(self) -> ImageShape:
        """Size of the images."""
        return self.info.shape

    def record_ids(self) -> list[int]:
        """Numbers of all records that are to be seen, ascending."""
        return sorted(self._numbers("records") - self._numbers("withdrawn"))

    def records(self, record_ids: Iterable[int]) -> Iterator[LegacyRecord]:
        """Yield some records in ascending order, their images read as they are asked for.

        Raises
        ------
        NoSuchRecordError
            Also for one that was withdrawn.
        """
        wanted = sorted(set(record_ids))
        for record_id in sorted(self._numbers("withdrawn").intersection(wanted)):
            raise NoSuchRecordError(f"record {record_id} was withdrawn from {self.storage.url}")
        rows = self._rows("records", ["record_id", "metadata"], wanted).to_pylist()
        metadata = {row["record_id"]: row["metadata"] for row in rows}
        missing = [record_id for record_id in wanted if record_id not in metadata]
        if missing:
            raise NoSuchRecordError(f"{self.storage.url} holds no record {missing[0]}")
        files = self._rows("files", _FILE_COLUMNS, wanted)
        files = files.sort_by([("record_id", "ascending"), ("file_id", "ascending")])
        by_record: dict[int, list[dict[str, Any]]] = {
            record_id: list(group)
            for record_id, group in groupby(files.to_pylist(), itemgetter("record_id"))
        }
        for record_id in wanted:
            files_of_it = self._files(by_record.get(record_id, []))
            yield LegacyRecord(record_id, metadata[record_id], files_of_it)

    def _numbers(self, table: str) -> set[int]:
        return read_record_ids(self.storage, self.info, table)

    def _rows(self, table: str, columns: list[str], record_ids: list[int]) -> pa.Table:
        return read_rows(self.storage, self.info, table, columns, record_ids)

    def _files(self, rows: list[dict[str, Any]]) -> Iterator[LegacyFile]:
        """Yield a record's files; `rows` are in path order, and so are their images."""
        for run in _runs(rows):
            images = self._images(run[0]["first_image"], sum(row["n_images"] for row in run))
            at = 0
            for row in run:
                path, size, n = row["path"], row["size"], row["n_images"]
                if row["status"] in ("ok", "empty"):
                    n_lines = image_lines(row["n_lines"], np.arange(n), self.shape.height)
                    yield LegacyFile(path, size, images[at : at + n], n_lines)
                else:
                    yield LegacyFile(path, size)
                at += n

    def _images(self, start: int, n: int) -> Images:
        if not n:
            return np.empty((0, self.shape.height, self.shape.width), np.uint32)
        return ImageReader(self.storage, self.info).read(np.arange(start, start + n))


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
