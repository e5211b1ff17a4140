"""Records of a committed dataset as the legacy (2018) writers and loaders take them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.legacy.record import LegacyFile, LegacyRecord
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.portions import Portion
from zml_dask.query.selection import Selection, image_lines
from zml_dask.store.snapshot import Snapshot


def legacy_record(snapshot: Snapshot, record_id: int) -> LegacyRecord:
    """Return one record, whose images are read as they are asked for.

    Raises
    ------
    UsageError
        If there is none, or it was withdrawn.
    """
    metadata = snapshot.record(record_id)["metadata"]
    its_own = pc.field("record_id") == record_id
    file_id = snapshot.scan("files", ["file_id"], its_own)["file_id"].to_numpy()
    files = iterate_files(snapshot, Selection.of_files(snapshot, file_id))
    return LegacyRecord(record_id, metadata, map(legacy_file, files))


def legacy_records(
    snapshot: Snapshot, portion: Portion, leave_out: Collection[int] = frozenset()
) -> Iterator[LegacyRecord]:
    """Yield the records of a portion of a view, with its files, except those to leave out."""
    wanted = [number for number in portion.record_ids if number not in leave_out]
    where = pc.field("record_id").isin(pa.array(wanted, pa.int64()))
    rows = snapshot.scan("records", ["record_id", "metadata"], where).to_pylist()
    metadata = {row["record_id"]: row["metadata"] for row in rows}
    file_id = portion.files.positions()
    if leave_out:
        owners = snapshot.take("files", file_id, ["record_id"])["record_id"].to_numpy()
        file_id = file_id[np.isin(owners, wanted)]
    files = iterate_files(snapshot, Selection.of_files(snapshot, file_id))
    by_record = groupby(files, attrgetter("file.record_id"))
    record_id, group = next(by_record, (None, ()))
    for number in wanted:
        if number != record_id:
            yield LegacyRecord(number, metadata[number], ())
            continue
        yield LegacyRecord(number, metadata[number], map(legacy_file, group))
        record_id, group = next(by_record, (None, ()))


def legacy_file(found: FileImages) -> LegacyFile:
    """Return a file as the legacy writers take it; one that is not text is without images."""
    file = found.file
    if file.status not in ("ok", "empty"):
        return LegacyFile(file.path, file.size)
    n_lines = image_lines(file.n_lines, found.segment, found.images.shape[1])
    return LegacyFile(file.path, file.size, found.images, n_lines)
