"""Verification of meaning: counts agree, offsets tile the arrays, images give back their text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError, ObjectMissingError, UsageError
from zml_dask.raster.images import to_text
from zml_dask.store.commit.tasks import index_columns
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import (
    FILL_VALUE,
    IMAGES_ZARR,
    ArraySpec,
    ImageShape,
    row_shape,
    shard_path,
)
from zml_dask.store.shards import ShardReader
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

Int64 = NDArray[np.int64]

ProblemKind = Literal[
    "damaged", "missing", "counts", "tiling", "index", "text", "source", "unreadable"
]
"""What is wrong with an object.

``damaged``: other bytes than were written; ``missing``; ``counts``: tables and
arrays disagree on how many; ``tiling``: offsets leave a gap or overlap;
``index``: an index array says other than the files table; ``text``: images give
back another text than was recorded; ``source``: the archive, fetched again, has
another; ``unreadable``: it could not be fetched or read.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the object's path, and what, in one line."""

    kind: ProblemKind
    path: str
    message: str


@dataclass(slots=True)
class Report:
    """The findings of a verification; also collects them.

    `notes` are what is worth knowing and not wrong: leftovers of a commit that died, say. `checked`
    is how much was checked: objects, bytes, files, images, texts, records.
    """

    url: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def add(self, kind: ProblemKind, path: str, message: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, path, message))

    def merge(self, other: Report) -> None:
        """Add the findings of another report."""
        self.problems += other.problems
        self.notes += other.notes
        for what, number in other.checked.items():
            self.count(what, number)

    def to_json(self) -> dict[str, Any]:
        """Convert for ``json.dumps``."""
        return {"ok": self.ok, **asdict(self)}


_COUNTED = pa.schema(
    [(name, pa.int64()) for name in ("record_id", "file_id_count", "n_images_sum")]
)
FILE_COLUMNS = ["file_id", "record_id", "n_lines", "first_image", "n_images", "text_sha256"]


def check_tables(report: Report, storage: Storage, info: DatasetInfo) -> list[tuple[int, int]]:
    """Check counts, that file ids and offsets have no gap, and that the index arrays agree.

    Returns for each batch of files the number of its first file, and its first image.
    """
    next_file = next_image = 0
    starts: list[tuple[int, int]] = []
    counted = [_COUNTED.empty_table()]
    indices = {spec.name: StoredRows(storage, spec, info.shape) for spec in info.arrays[1:]}
    for path, batch in Snapshot(storage, info).batches("files", FILE_COLUMNS):
        columns = numbers(batch)
        counts = columns["n_images"]
        starts.append((next_file, next_image))
        if (columns["file_id"] != next_file + np.arange(len(batch))).any():
            report.add("tiling", path, f"file ids from {next_file} on are not consecutive")
        if (columns["first_image"] != next_image + np.cumsum(counts) - counts).any():
            report.add("tiling", path, f"images from {next_image} on overlap or leave a gap")
        filled = ~batch.column("text_sha256").is_null().to_numpy(zero_copy_only=False)
        expected = np.where(filled, -(-columns["n_lines"] // info.shape.height), 0)
        if (counts != expected).any():
            report.add("counts", path, "files' images do not fit their lines")
        elif next_image + counts.sum() > info.counts.images:
            report.add("counts", path, "files have more images than the arrays")
        else:
            _check_indices(report, indices, info, columns, next_image)
        rows = pa.Table.from_batches([batch]).group_by("record_id")
        sums = rows.aggregate([("file_id", "count"), ("n_images", "sum")])
        counted.append(sums.select(_COUNTED.names).cast(_COUNTED))
        next_file += len(batch)
        next_image += int(counts.sum())
    report.count("files", next_file)
    report.count("images", next_image)
    for what, found, recorded in (
        ("files", next_file, info.counts.files),
        ("images", next_image, info.counts.images),
    ):
        if found != recorded:
            report.add(
                "counts", "files.parquet", f"{found} {what}, but dataset.json says {recorded}"
            )
    _check_records(report, storage, info, pa.concat_tables(counted))
    return starts


def numbers(batch: pa.RecordBatch | pa.Table) -> dict[str, Int64]:
    """Columns of such a batch, all but the last, as integers."""
    return {name: batch.column(name).to_numpy().astype(np.int64) for name in FILE_COLUMNS[:-1]}


def index_rows(columns: dict[str, Int64], height: int) -> dict[str, NDArray[np.generic]]:
    """Calculate rows of the index arrays from `numbers` of a batch."""
    names = ("record_id", "file_id", "n_images", "n_lines")
    record_id, file_id, n_images, n_lines = (columns[name] for name in names)
    return index_columns(record_id, file_id, n_images, n_lines, height)


def _check_indices(
    report: Report,
    indices: dict[str, StoredRows],
    info: DatasetInfo,
    columns: dict[str, Int64],
    first_image: int,
) -> None:
    expected = index_rows(columns, info.shape.height)
    for name, values in expected.items():
        stop = first_image + len(values)
        try:
            stored = indices[name].rows(first_image, stop)
        except (DatasetDamagedError, ObjectMissingError):
            continue  # noted with its object already
        if len(stored) != len(values) or (stored != values).any():
            report.add(
                "index",
                f"{IMAGES_ZARR}/{name}",
                f"rows {first_image} to {stop} are not what the files table says",
            )


def _check_records(report: Report, storage: Storage, info: DatasetInfo, counted: pa.Table) -> None:
    """Compare the records with counts of their files, where a record may have several rows."""
    ids, files, images = record_counts(storage, info)
    report.count("records", ids.size)
    if ids.size != info.counts.records:
        report.add(
            "counts",
            "records.parquet",
            f"{ids.size} records, but dataset.json says {info.counts.records}",
        )
    order = np.argsort(ids, kind="stable")
    ids, files, images = ids[order], files[order], images[order]
    if (np.diff(ids) == 0).any():
        report.add("counts", "records.parquet", "a record occurs twice")
    rows = counted.group_by("record_id")
    sums = rows.aggregate([("file_id_count", "sum"), ("n_images_sum", "sum")]).sort_by("record_id")
    names = ("record_id", "file_id_count_sum", "n_images_sum_sum")
    found = [sums[name].to_numpy() for name in names]
    present = files > 0  # a record without any file has no row among the files
    expected = (ids[present], files[present], images[present])
    if images[~present].any() or not all(map(np.array_equal, expected, found)):
        report.add("counts", "records.parquet", "records' counts are not those of their files")
    failed = Snapshot(storage, info).scan("failures", ["record_id"], with_withdrawn=True)
    failed = failed["record_id"].to_numpy()
    if np.isin(failed, ids).any():
        report.add("counts", "failures.parquet", "a record is listed as failed and is committed")
    if len(failed) != info.counts.failures:
        report.add("counts", "failures.parquet", "not as many rows as dataset.json says")


def record_counts(storage: Storage, info: DatasetInfo) -> tuple[Int64, Int64, Int64]:
    """Return ids of all records in row order, and their numbers of files and images."""
    names = ["record_id", "n_files", "n_images"]
    table = Snapshot(storage, info).scan("records", names, with_withdrawn=True)
    ids, files, images = (table[name].to_numpy().astype(np.int64) for name in names)
    return ids, files, images


def check_texts(
    storage: Storage, info: DatasetInfo, starts: Sequence[tuple[int, int]], shard: int
) -> Report:
    """Check that the files that begin within a shard of images give back their recorded text.

    Every pixel counts: lines by their hash, the rest by being spaces. `starts` is what
    `check_tables` returned.
    """
    report = Report(storage.url)
    spec = info.array("images")
    first_image, stop_image = shard * spec.shard, (shard + 1) * spec.shard
    rows = StoredRows(storage, spec, info.shape)
    path = f"{IMAGES_ZARR}/{spec.name}"
    ends = [*starts[1:], (info.counts.files, info.counts.images)]
    for (first_file, begin), (stop_file, end) in zip(starts, ends, strict=True):
        if begin >= stop_image or end <= first_image:
            continue
        batch = Snapshot(storage, info).take(
            "files", np.arange(first_file, stop_file), FILE_COLUMNS
        )
        columns = numbers(batch)
        firsts, counts = columns["first_image"], columns["n_images"]
        wanted = np.flatnonzero((counts > 0) & (firsts >= first_image) & (firsts < stop_image))
        for row in wanted.tolist():
            first, count = int(firsts[row]), int(counts[row])
            try:
                images = rows.rows(first, first + count)
            except (DatasetDamagedError, ObjectMissingError):
                continue  # noted with its object already
            report.count("texts")
            digest = batch.column("text_sha256")[row].as_py()
            if not _matches(images, int(columns["n_lines"][row]), info.shape.height, digest):
                where = f"file {columns['file_id'][row]} at image {first}"
                report.add("text", path, f"{where} gives back another text than was recorded")
    return report


def _matches(images: NDArray[np.generic], n_lines: int, height: int, digest: str) -> bool:
    """Whether images hold the text of a hash, and only spaces beside it."""
    lines = np.full(len(images), height)
    lines[-1] = n_lines - (len(images) - 1) * height
    try:
        text = to_text(images, lines).encode("utf-8", "surrogatepass")
    except (UnicodeDecodeError, ValueError, UsageError):
        return False  # a damaged pixel need not be a code point, nor lines fit their images
    return hashlib.sha256(text).hexdigest() == digest and bool(
        (images[-1, lines[-1] :] == FILL_VALUE).all()
    )


class StoredRows:
    """Reads runs of rows of an array; keeps the last shard and chunk.

    For reading an array in order, as verification does.
    """

    def __init__(self, storage: Storage, spec: ArraySpec, shape: ImageShape) -> None:
        self._storage = storage
        self._spec = spec
        self._row = row_shape(spec, shape)
        self._shard: tuple[int, ShardReader] | None = None
        self._chunk: tuple[int, NDArray[np.generic]] | None = None

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """Decode rows `start` to `stop` of the array.

        `DatasetDamagedError` if a chunk or an index does not fit its checksum,
        `ObjectMissingError` if a shard is missing.
        """
        size = self._spec.chunk
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            decoded = self._decode(chunk)
            parts.append(decoded[max(start - chunk * size, 0) : stop - chunk * size])
        if len(parts) == 1:
            return parts[0]
        empty = np.empty((0, *self._row), self._spec.dtype)
        return np.concatenate([empty, *parts])

    def _decode(self, chunk: int) -> NDArray[np.generic]:
        if self._chunk is None or self._chunk[0] != chunk:
            shard, within = divmod(chunk, self._spec.shard // self._spec.chunk)
            if self._shard is None or self._shard[0] != shard:
                path = shard_path(self._spec.name, shard, 1 + len(self._row))
                data = self._storage.read(path)
                self._shard = shard, ShardReader(self._spec, self._row, data)
            self._chunk = chunk, self._shard[1].chunk(within)
        return self._chunk[1]
