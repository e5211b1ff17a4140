"""From conditions to numbers: which files match, and which of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.query.columns import Column
from zml_dask.query.expression import Condition
from zml_dask.query.rows import Int64, Rows
from zml_dask.store.snapshot import Snapshot

_PLACES = ("file_id", "record_id", "n_lines", "first_image", "n_images")


@dataclass(frozen=True)
class Selection:
    """Some files of a dataset, and some of their images.

    Attributes
    ----------
    file_id, record_id, n_lines, first_image, n_images : numpy.ndarray of int64, shape (n,)
        Columns of the files table, in its order; counts are the whole file's.
    rows : Rows
        The images.
    by_image : bool
        Whether images were chosen one by one: only files with a chosen image
        belong to it then. Otherwise `rows` are all images of the files.
    """

    file_id: Int64
    record_id: Int64
    n_lines: Int64
    first_image: Int64
    n_images: Int64
    rows: Rows
    by_image: bool

    @classmethod
    def of_table(cls, files: pa.Table, total: int) -> Selection:
        """All images of some rows of the files table, which has the columns above."""
        columns = {name: files[name].to_numpy().astype(np.int64) for name in _PLACES}
        rows = Rows.of_runs(columns["first_image"], columns["n_images"], total)
        return cls(**columns, rows=rows, by_image=False)

    def with_files(self, keep: NDArray[np.bool_]) -> Selection:
        """Only some of the files, with those of their images that belong to this.

        Parameters
        ----------
        keep : numpy.ndarray of bool, shape (files,)
        """
        columns = {name: getattr(self, name)[keep] for name in _PLACES}
        rows = Rows.of_runs(columns["first_image"], columns["n_images"], self.rows.total)
        both = Rows(rows.bits & self.rows.bits, self.rows.total)
        return Selection(**columns, rows=both, by_image=self.by_image)

    def with_images(self, rows: Rows) -> Selection:
        """Only some of the images, and the files they are of."""
        both = Rows(rows.bits & self.rows.bits, self.rows.total)
        keep = np.zeros(self.file_id.size, np.bool_)
        keep[np.unique(self.file_of(both.positions()))] = True
        columns = {name: getattr(self, name)[keep] for name in _PLACES}
        return Selection(**columns, rows=both, by_image=True)

    def file_of(self, positions: Int64) -> Int64:
        """Position, among these files, of the file of each image (by its row)."""
        # Files without images share their first_image with the file that follows.
        filled = np.flatnonzero(self.n_images)
        found = np.searchsorted(self.first_image[filled], positions, "right") - 1
        of_file: Int64 = np.asarray(filled[found], np.int64)
        return of_file

    def images_of(self, files: slice) -> tuple[Int64, Int64]:
        """Return where the images of each of some neighbouring files begin and end in `rows`."""
        first = self.first_image[files]
        mask_edges = np.concatenate((first, first + self.n_images[files]))
        places = self.rows.rank(mask_edges)
        return places[: first.size], places[first.size :]


def image_lines(n_lines: Int64 | int, segment: Int64, height: int) -> Int64:
    """How many rows of an image are lines: `segment` of a file of `n_lines` lines.

    Examples
    --------
    >>> image_lines(np.array([100, 100]), np.array([0, 1]), 80).tolist()
    [80, 20]
    """
    lines: Int64 = np.minimum(n_lines - segment * height, height)
    return lines


def resolve(snapshot: Snapshot, conditions: Sequence[Condition]) -> Selection:
    """Find what fulfils all conditions.

    Conditions on files alone, and what those on records alone come to, are
    pushed down to Parquet; those on both, or on single images, are then asked
    of what is left.

    Parameters
    ----------
    snapshot : Snapshot
    conditions : sequence of Condition

    Returns
    -------
    Selection
    """
    where = [c.expression(_bare) for c in conditions if c.levels <= {"files"}]
    of_records = [c for c in conditions if c.levels == {"records"}]
    left = [c for c in conditions if not (c.levels <= {"files"} or c.levels == {"records"})]
    if of_records:
        where.append(pc.field("record_id").isin(_matching_records(snapshot, of_records)))
    needed = {c for condition in left for c in condition.columns}
    names = [*_PLACES, *sorted({c.name for c in needed if c.level == "files"} - set(_PLACES))]
    expression = reduce(lambda one, other: one & other, where) if where else None
    files = snapshot.scan("files", names, expression)
    if left:
        files = _with_records(snapshot, files, left)
    for condition in left:
        if "images" not in condition.levels:
            files = files.filter(condition.expression(_key))
    return _with_single_images(
        Selection.of_table(files, snapshot.info.counts.images),
        files,
        [c for c in left if "images" in c.levels],
        snapshot.info.shape.height,
    )


def _bare(column: Column) -> str:
    return column.name


def _key(column: Column) -> str:
    """Names of columns where tables are joined: the files' bare, since they are most."""
    return column.name if column.level == "files" else column.key


def _matching_records(snapshot: Snapshot, conditions: Sequence[Condition]) -> pa.Array:
    """Return the numbers of the records that fulfil all conditions."""
    tests = [c for c in conditions if c.list_tests]
    plain = [c.expression(_bare) for c in conditions if not c.list_tests]
    where = reduce(lambda one, other: one & other, plain) if plain else None
    names = sorted({"record_id"} | {column.name for c in tests for column in c.columns})
    records = snapshot.scan("records", names, where)
    for condition in tests:
        for test in condition.list_tests:
            if test.key not in records.column_names:
                answers = test.answers(records[test.column.name])
                records = records.append_column(test.key, answers)
    for condition in tests:
        records = records.filter(condition.expression(_bare))
    return records["record_id"].combine_chunks()


def _with_records(snapshot: Snapshot, files: pa.Table, conditions: Sequence[Condition]) -> pa.Table:
    """Add what the conditions need of the records to the files."""
    columns = {c for condition in conditions for c in condition.columns if c.level == "records"}
    if not columns:
        return files
    names = sorted({"record_id"} | {column.name for column in columns})
    records = snapshot.scan("records", names)
    order = pc.sort_indices(records["record_id"])
    ids = records["record_id"].take(order).to_numpy()
    places = order.take(pa.array(np.searchsorted(ids, files["record_id"].to_numpy())))
    for column in sorted(columns, key=lambda column: column.name):
        files = files.append_column(column.key, records[column.name].take(places))
    for test in {test for condition in conditions for test in condition.list_tests}:
        answers = test.answers(records[test.column.name])
        files = files.append_column(test.key, answers.take(places))
    return files


def _with_single_images(
    selection: Selection, files: pa.Table, conditions: Sequence[Condition], height: int
) -> Selection:
    """Ask conditions that name properties of single images."""
    if not conditions:
        return selection
    rows = selection.rows.positions()
    of_file = selection.file_of(rows)
    segment = rows - selection.first_image[of_file]
    names = {column.name for c in conditions for column in c.columns if column.level == "files"}
    keys = {c.key for condition in conditions for c in condition.columns if c.level == "records"}
    tests = {test.key for condition in conditions for test in condition.list_tests}
    lines = image_lines(selection.n_lines[of_file], segment, height)
    images = pa.table({"row": rows, "images.segment": segment, "images.image_lines": lines})
    for name in sorted(names | keys | tests):
        images = images.append_column(name, files[name].take(pa.array(of_file)))
    for condition in conditions:
        images = images.filter(condition.expression(_key))
    chosen = Rows.of_positions(images["row"].to_numpy(), selection.rows.total)
    return selection.with_images(chosen)
