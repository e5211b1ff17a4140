"""Records of a committed dataset as the legacy (2018) writers and loaders take them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.legacy.record import LegacyFile, LegacyRecord
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.portions import Portion
from zml_dask.query.selection import Selection, image_lines
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage


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

    def record(self, record_id: int) -> LegacyRecord:
        """Return one record, whose images are read as they are asked for.

        Raises
        ------
        UsageError
            If there is none, or it was withdrawn.
        """
        metadata = self.snapshot.record(record_id)["metadata"]
        its_own = pc.field("record_id") == record_id
        file_id = self.snapshot.scan("files", ["file_id"], its_own)["file_id"].to_numpy()
        files = map(_file, iterate_files(self.snapshot, Selection.of_files(self.snapshot, file_id)))
        return LegacyRecord(record_id, metadata, files)

    def portion(
        self, portion: Portion, leave_out: Collection[int] = frozenset()
    ) -> Iterator[LegacyRecord]:
        """Yield the records of a portion of a view but some, with the files of that alone."""
        wanted = [number for number in portion.record_ids if number not in leave_out]
        where = pc.field("record_id").isin(pa.array(wanted, pa.int64()))
        rows = self.snapshot.scan("records", ["record_id", "metadata"], where).to_pylist()
        metadata = {row["record_id"]: row["metadata"] for row in rows}
        file_id = portion.files.positions()
        if leave_out:
            owners = self.snapshot.take("files", file_id, ["record_id"])["record_id"].to_numpy()
            file_id = file_id[np.isin(owners, wanted)]
        files = iterate_files(self.snapshot, Selection.of_files(self.snapshot, file_id))
        by_record = groupby(files, attrgetter("file.record_id"))
        record_id, group = next(by_record, (None, ()))
        for number in wanted:
            if number != record_id:
                yield LegacyRecord(number, metadata[number], ())
                continue
            yield LegacyRecord(number, metadata[number], map(_file, group))
            record_id, group = next(by_record, (None, ()))


def _file(found: FileImages) -> LegacyFile:
    file = found.file
    if file.status not in ("ok", "empty"):
        return LegacyFile(file.path, file.size)
    n_lines = image_lines(file.n_lines, found.segment, found.images.shape[1])
    return LegacyFile(file.path, file.size, found.images, n_lines)
