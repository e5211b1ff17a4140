"""Rows and images of single records and files, read straight from a dataset's parts.

For commands that show one thing: opening the whole dataset would read tables of
millions of rows for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow.parquet as pq

from zml_dask.pipeline.errors import UnknownRecordError
from zml_dask.raster.images import Images
from zml_dask.store.arrays import open_arrays
from zml_dask.store.info import DatasetInfo, committed_info
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_table

Row: TypeAlias = dict[str, Any]
Filter: TypeAlias = list[tuple[str, str, Any]]


@dataclass(frozen=True, slots=True)
class Committed:
    """A dataset's last commit.

    Attributes
    ----------
    storage : Storage
    info : DatasetInfo
    """

    storage: Storage
    info: DatasetInfo

    @classmethod
    def open(cls, dataset: str) -> Committed:
        """Open a dataset.

        Raises
        ------
        NoDatasetError
            If nothing is committed there.
        """
        storage = Storage.open(dataset)
        return cls(storage, committed_info(storage))

    def record(self, record_id: int) -> Row:
        """Return a record's row.

        Raises
        ------
        UnknownRecordError
            If the dataset does not hold it, with the reason where that is known.
        """
        found = next(self._rows("records", [("record_id", "==", record_id)]), None)
        withdrawn = self._one("withdrawn", record_id)
        if withdrawn is not None:
            raise UnknownRecordError(f"record {record_id} was withdrawn: {withdrawn['reason']}")
        if found is not None:
            return found
        failure = self._one("failures", record_id)
        if failure is not None:
            raise UnknownRecordError(
                f"record {record_id} is not in the dataset: {failure['kind']}: {failure['message']}"
            )
        raise UnknownRecordError(
            f"{self.storage.url} holds no record {record_id}; 'zml-dask query' finds what it holds"
        )

    def files(self, record_id: int) -> list[Row]:
        """Return the rows of a record's files, in path order."""
        return list(self._rows("files", [("record_id", "==", record_id)]))

    def first_file(self, wanted: Filter) -> Row | None:
        """Return the first file that fits, or None."""
        return next(self._rows("files", wanted), None)

    def languages(self) -> list[tuple[str, int]]:
        """Return images by language, the most frequent first; files without one are left out."""
        table = read_table(self.storage, self.info, "files", ["language", "n_images"])
        counts: Counter[str] = Counter()
        for name, n_images in zip(*(column.to_pylist() for column in table), strict=True):
            if name is not None and n_images:
                counts[name] += n_images
        return counts.most_common()

    def images(self, file: Row) -> Images:
        """Return a file's images, uint32 (n, height, width)."""
        group = open_arrays(self.storage)
        array: Any = group["images"]
        first = file["first_image"]
        images: Images = array[first : first + file["n_images"]]
        return images

    def n_lines(self, file: Row) -> list[int]:
        """Return how many rows of each of a file's images are lines."""
        height = self.info.shape.height
        full, rest = divmod(file["n_lines"], height)
        return [height] * full + ([rest] if rest else [])

    def _one(self, table: str, record_id: int) -> Row | None:
        return next(self._rows(table, [("record_id", "==", record_id)]), None)

    def _rows(self, table: str, wanted: Filter) -> Iterator[Row]:
        """Yield rows that fit, part by part; row groups that cannot hold any are not read."""
        for part in self.info.tables.get(table, ()):
            with self.storage.open_reader(part.path) as stream:
                yield from pq.read_table(stream, filters=wanted).to_pylist()
