"""A view cut into portions: some neighbouring records each, as the tasks of jobs over it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.engine.activity import note_done
from zml_dask.engine.job import FinalT, Job, ResultT
from zml_dask.errors import UsageError
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.rows import Int64, Rows
from zml_dask.query.selection import Selection, open_selected
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

RECORDS = 64
FILES = 50_000
IMAGES = 50_000
"""What a portion holds at most, unless one record has more."""


@dataclass(frozen=True, slots=True)
class Places:
    """Some row numbers that are near each other, as one bit for each row between them.

    Attributes
    ----------
    first : int
        The row that the first bit is of.
    bits : bytes
        As by `numpy.packbits`.
    """

    first: int
    bits: bytes

    @classmethod
    def of(cls, positions: Int64) -> Places:
        """Pack ascending numbers.

        Examples
        --------
        >>> Places.of(np.array([70, 72])).positions().tolist()
        [70, 72]
        """
        if not positions.size:
            return cls(0, b"")
        first = int(positions[0])
        mask = np.zeros(int(positions[-1]) - first + 1, np.bool_)
        mask[positions - first] = True
        return cls(first, np.packbits(mask).tobytes())

    def positions(self) -> Int64:
        """Return the numbers, int64, ascending."""
        mask = np.unpackbits(np.frombuffer(self.bits, np.uint8))
        found: Int64 = self.first + np.flatnonzero(mask)
        return found


@dataclass(frozen=True, slots=True)
class Portion:
    """Some records of a view, and those of their files and images that belong to it.

    It holds numbers alone, a bit for each, so that it travels cheaply to a worker.

    Attributes
    ----------
    number : int
        From 0, in the dataset's order.
    record_ids : tuple of int
    files : Places
        Rows of the files table.
    images : Places or None
        Rows of ``images.zarr``, where images were chosen one by one.
    """

    number: int
    record_ids: tuple[int, ...]
    files: Places
    images: Places | None
    n_images: int

    def selection(self, snapshot: Snapshot) -> Selection:
        """Return these files and images, without a look at any other row."""
        file_id = self.files.positions()
        if self.images is None:
            return Selection.of_files(snapshot, file_id)
        counts = snapshot.info.counts
        chosen = Rows.of_positions(self.images.positions(), counts.images)
        found = Selection(snapshot, Rows.of_positions(file_id, counts.files), chosen)
        found.__dict__["rows"] = chosen
        return found

    def records(
        self, snapshot: Snapshot, columns: list[str] | None = None
    ) -> dict[int, dict[str, Any]]:
        """Read rows of the records table, by record number; `columns` include ``record_id``."""
        of_portion = pc.field("record_id").isin(pa.array(self.record_ids, pa.int64()))
        rows = snapshot.scan("records", columns, of_portion).to_pylist()
        return {row["record_id"]: row for row in rows}

    def read(self, snapshot: Snapshot) -> Iterator[tuple[int, Iterator[FileImages]]]:
        """Yield the number of each record that has files here, and those with their images.

        Once the next one is asked for, a record is done, for the progress of a task.
        """
        files = iterate_files(snapshot, self.selection(snapshot))
        for record_id, of_record in groupby(files, attrgetter("file.record_id")):
            yield record_id, of_record
            note_done(record_id)


@dataclass(frozen=True)
class PortionJob(Job[Portion, None, ResultT, FinalT]):
    """A job whose tasks are the portions of a view.

    Attributes
    ----------
    target : Storage
        Where it writes: a folder or any fsspec URL.
    portions : tuple of Portion
        Needed by the driver only.
    """

    name: ClassVar[str] = "records"

    snapshot: Snapshot
    target: Storage
    portions: tuple[Portion, ...] = ()

    def plan(self, workers: int) -> Sequence[Portion]:
        """Return the portions."""
        return self.portions

    def for_workers(self) -> Self:
        """Return the job without its portions."""
        return replace(self, portions=())

    def shared(self) -> tuple[Storage]:
        """Return the target; what is read fails by itself where it is not to be seen."""
        return (self.target,)

    def size(self, task: Portion) -> int:
        """Count a portion's records."""
        return len(task.record_ids)


def cut(
    view: Dataset, *, records: int = RECORDS, files: int = FILES, images: int = IMAGES
) -> list[Portion]:
    """Cut a view into portions.

    Parameters
    ----------
    records, files, images : int
        What a portion holds at most; a record is never divided.

    Returns
    -------
    list of Portion
        In the dataset's order; records without files, which only a dataset that nothing
        was chosen from has, come last.
    """
    columns = {"file_id", "record_id", "n_images"}
    query = (
        "SELECT record_id, min(file_id) AS first, max(file_id) + 1 AS stop, "
        "count(*) AS files, sum(images)::BIGINT AS images FROM selected "
        "GROUP BY record_id ORDER BY first"
    )
    with open_selected(view, columns) as database:
        found = database.table(query)
    ids, first, stop, n_files, n_images = (
        found[name].to_numpy() for name in ("record_id", "first", "stop", "files", "images")
    )
    selection = view.selection
    edges = [0]
    held = np.zeros(3, np.int64)
    for position, more in enumerate(zip(n_files.tolist(), n_images.tolist(), strict=True)):
        added = held + np.array((1, *more))
        if position > edges[-1] and (added > (records, files, images)).any():
            edges.append(position)
            added = np.array((1, *more))
        held = added
    portions: list[Portion] = []
    for low, high in zip(edges, [*edges[1:], ids.size], strict=True):
        if low == high:
            continue
        begin, end = selection.files.rank(np.array([first[low], stop[high - 1]])).tolist()
        chosen = None
        if selection.chosen is not None:
            begins, ends = selection.images_of(slice(begin, end))
            chosen = Places.of(selection.rows.positions(int(begins[0]), int(ends[-1])))
        portions.append(
            Portion(
                len(portions),
                tuple(ids[low:high].tolist()),
                Places.of(selection.files.positions(begin, end)),
                chosen,
                int(n_images[low:high].sum()),
            )
        )
    if view.is_unselected:
        known = view.snapshot.take("records", view.record_rows, ["record_id"])
        empty = np.setdiff1d(known["record_id"].to_numpy(), ids)
        for start in range(0, empty.size, records):
            some = tuple(empty[start : start + records].tolist())
            portions.append(Portion(len(portions), some, Places(0, b""), None, 0))
    return portions


def check_whole_files(view: Dataset, what: str) -> None:
    """Check that a view holds its files with all their images.

    Parameters
    ----------
    what : str
        What holds whole files only, for the message.

    Raises
    ------
    UsageError
        If images were chosen one by one.
    """
    if view.selection.chosen is not None:
        raise UsageError(
            f"{what} holds whole files, and this view is of single images: choose files, by "
            "conditions without segment and image_lines or with select(file_id=[...]), or export "
            "the images as png or webdataset"
        )


def fingerprint(view: Dataset) -> str:
    """Return 16 hex digits that tell what is in a view from any other, whoever calculates them."""
    digest = hashlib.sha256(view.info.to_bytes())
    digest.update(view.selection.files.bits.tobytes())
    if view.selection.chosen is not None:
        digest.update(view.selection.chosen.bits.tobytes())
    return digest.hexdigest()[:16]
