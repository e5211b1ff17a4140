"""Portions of a view: some neighbouring records each, as the tasks of jobs over it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from zml_dask.engine.activity import note_done
from zml_dask.engine.job import FinalT, Job, ResultT, TaskReport
from zml_dask.errors import UsageError
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.rows import Int64, Rows
from zml_dask.query.selection import Selection, open_selected
from zml_dask.store.snapshot import Snapshot, among
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

RECORDS = 64
FILES = 50_000
IMAGES = 50_000
"""What a portion holds at most, unless one record has more."""


class PackedRows(NamedTuple):
    """Ascending row numbers near each other: the first, and a bit for it and each that follows.

    Examples
    --------
    >>> PackedRows.of(np.array([70, 72])).positions().tolist()
    [70, 72]
    """

    first: int = 0
    bits: bytes = b""

    @classmethod
    def of(cls, rows: Int64) -> PackedRows:
        """Pack ascending numbers."""
        if not rows.size:
            return cls()
        first, last = int(rows[0]), int(rows[-1])
        return cls(first, Rows.of_positions(rows - first, last - first + 1).bits.tobytes())

    def positions(self) -> Int64:
        """Return the numbers, int64, ascending."""
        return self.first + np.flatnonzero(np.unpackbits(np.frombuffer(self.bits, np.uint8)))


@dataclass(frozen=True, slots=True)
class Portion:
    """Some records of a view, and those of their files and images that belong to it.

    It holds numbers only, a bit for each, so that it is small to send to a worker. Portions are
    numbered from 0, in the dataset's order. `images` is None unless they were chosen one by one.
    """

    number: int
    record_ids: tuple[int, ...]
    files: PackedRows
    images: PackedRows | None
    n_images: int

    def selection(self, snapshot: Snapshot) -> Selection:
        """Return these files and images; no other row is read."""
        file_id = self.files.positions()
        if self.images is None:
            return Selection.of_files(snapshot, file_id)
        counts = snapshot.info.counts
        chosen = Rows.of_positions(self.images.positions(), counts.images)
        return Selection.of(snapshot, Rows.of_positions(file_id, counts.files), chosen, chosen=True)

    def records(
        self, snapshot: Snapshot, columns: list[str] | None = None
    ) -> dict[int, dict[str, Any]]:
        """Read rows of the records table, by record number; `columns` include ``record_id``."""
        rows = snapshot.scan("records", columns, among(self.record_ids)).to_pylist()
        return {row["record_id"]: row for row in rows}

    def read(self, snapshot: Snapshot) -> Iterator[tuple[int, Iterator[FileImages]]]:
        """Yield each record that has files here, and these with their images.

        When the next one is requested, a record is done, for the progress of a task.
        """
        files = iterate_files(snapshot, self.selection(snapshot))
        for record_id, of_record in groupby(files, attrgetter("file.record_id")):
            yield record_id, of_record
            note_done(record_id)


@dataclass(frozen=True)
class PortionJob(Job[Portion, None, ResultT, FinalT]):
    """A job whose tasks are the portions of a view.

    `target` is where it writes; only the driver has the portions.
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
        """Return the target; reading fails by itself on a worker that cannot see the source."""
        return (self.target,)

    def size(self, task: Portion) -> int:
        """Return the number of a portion's records."""
        return len(task.record_ids)


class CountingJob(PortionJob[Counter[str], Counter[str]]):
    """A job that counts what it wrote; ``records`` and those written ``already`` are done."""

    def finish(self, results: Iterator[Counter[str]]) -> Counter[str]:
        """Add the counts of all tasks."""
        return sum(results, Counter[str]())

    def report(self, result: Counter[str]) -> TaskReport:
        """Count records."""
        return TaskReport(done=result["records"] + result["already"])


def cut(view: Dataset, *, records: int = RECORDS, images: int = IMAGES) -> list[Portion]:
    """Cut a view into portions, in the dataset's order.

    A portion has at most so many records and images, and 50,000 files; a record is never divided.
    Records without files, which only a dataset without a selection has, come last.
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
        if position > edges[-1] and (added > (records, FILES, images)).any():
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
            chosen = PackedRows.of(selection.rows.positions(int(begins[0]), int(ends[-1])))
        portions.append(
            Portion(
                len(portions),
                tuple(ids[low:high].tolist()),
                PackedRows.of(selection.files.positions(begin, end)),
                chosen,
                int(n_images[low:high].sum()),
            )
        )
    if view.is_unselected:
        known = view.snapshot.take("records", view.record_rows, ["record_id"])
        empty = np.setdiff1d(known["record_id"].to_numpy(), ids)
        for start in range(0, empty.size, records):
            some = tuple(empty[start : start + records].tolist())
            portions.append(Portion(len(portions), some, PackedRows(), None, 0))
    return portions


def check_whole_files(view: Dataset, what: str, instead: str = "") -> None:
    """Raise `UsageError` unless a view has its files with all their images.

    `what` is what takes whole files only, and `instead` what takes single images, for the message.
    """
    if view.selection.chosen is not None:
        raise UsageError(
            f"{what} holds whole files, and this view is of single images: choose files, by "
            f"conditions without segment and image_lines or with select(file_id=[...]){instead}"
        )


def fingerprint(view: Dataset) -> str:
    """Return 16 hex digits that identify the content of a view, on every machine."""
    digest = hashlib.sha256(view.info.to_bytes())
    digest.update(view.selection.files.bits.tobytes())
    if view.selection.chosen is not None:
        digest.update(view.selection.chosen.bits.tobytes())
    return digest.hexdigest()[:16]
