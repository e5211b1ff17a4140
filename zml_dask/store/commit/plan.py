"""The plan of a commit: which row of which array every staged record gets.

Counts become offsets by running sums, in record-id order. The plan is one small
object under ``staging/commit/``; tasks carry only its hash and a range.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import UsageError, ZmlError
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import (
    DEFAULT_LEVEL,
    FAILURES_SCHEMA,
    PLAN,
    REPACK,
    STAGING,
    ArraySpec,
    ImageShape,
    image_arrays,
)
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging.packs import StagedRecords, StagingIndex, failure_rows, failures_table
from zml_dask.store.storage import Storage
from zml_dask.store.tables import digest_of

PLAN_DIGEST = f"{STAGING}/commit/plan.sha256"
"""Names the plan that counts: a task of another one writes nothing."""

FILES_PER_PART = 500_000
"""Files whose rows go into one part of the files table, unless one record has more."""

RECORDS_PER_PART = 16_384
"""Records whose rows go into one part of the records table."""

FILES_PER_SORTED_PART = 4_000_000
"""Files that are ordered by language together: the more, the fewer places a language is in;
a task needs some 100 bytes of memory for each."""

TaskKind = Literal["images", "indices", "files", "records", "files_by_language"]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CommitTask:
    """One piece of a commit, which any worker can do, and do again.

    Attributes
    ----------
    kind : TaskKind
        ``images``: one shard of images; ``indices``: one shard of each index
        array; ``files``, ``records``, ``files_by_language``: one part of a table.
    number : int
        Of the shard or part.
    start, stop : int
        Rows of the arrays, or positions in the plan's records.
    plan : str
        Hash of the plan that the task is of.
    """

    kind: TaskKind
    number: int
    start: int
    stop: int
    plan: str


@dataclass(frozen=True, eq=False)
class CommitPlan(StagedRecords):
    """Where everything that is staged goes; some 64 bytes per record.

    `first_file` and `first_image` are where each record's rows begin, `images_before` and
    `files_before` how many rows are committed already. The commit uses up all `paths`. `base` is
    the SHA-256 of the ``dataset.json`` that it began from, None for none; `failures` is the whole
    failures table as it will be; `notes` are the ``options``, ``software`` and ``harvest`` of
    `CommitOptions`; `digest` is the SHA-256 of the plan's own bytes.
    """

    shape: ImageShape
    arrays: tuple[ArraySpec, ...]
    base: str | None
    images_before: int
    files_before: int
    next_part: Mapping[str, int]
    failures: pa.Table
    notes: Mapping[str, Any]
    digest: str = ""
    first_file: Int64 = field(init=False)
    first_image: Int64 = field(init=False)

    def __post_init__(self) -> None:
        for name, counts, before in (
            ("first_file", self.n_files, self.files_before),
            ("first_image", self.n_images, self.images_before),
        ):
            object.__setattr__(self, name, before + np.cumsum(counts) - counts)

    @property
    def images_after(self) -> int:
        """Images of the dataset once committed."""
        return self.images_before + int(self.n_images.sum())

    @property
    def files_after(self) -> int:
        """Files of the dataset once committed."""
        return self.files_before + int(self.n_files.sum())

    def records_of(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the records that own images `start` to `stop`, and which of their own images."""
        low = int(np.searchsorted(self.first_image, start, "right")) - 1
        for position in range(max(low, 0), self.record_id.size):
            first = int(self.first_image[position])
            if first >= stop:
                return
            begin, end = max(start - first, 0), min(stop - first, int(self.n_images[position]))
            if begin < end:
                yield position, begin, end

    @property
    def tasks(self) -> tuple[CommitTask, ...]:
        """All tasks; they can be run in any order, anywhere, also twice."""
        images, first_index, *_ = self.arrays
        shards = *self._shard_tasks("images", images), *self._shard_tasks("indices", first_index)
        total = self.record_id.size
        if not total:
            return shards
        return (
            *shards,
            *self._part_tasks("files", _cut_evenly(self.n_files, FILES_PER_PART)),
            *self._part_tasks("records", [*range(0, total, RECORDS_PER_PART), total]),
            *self._part_tasks(
                "files_by_language", _cut_evenly(self.n_files, FILES_PER_SORTED_PART)
            ),
        )

    def _shard_tasks(self, kind: TaskKind, spec: ArraySpec) -> Iterator[CommitTask]:
        before, after = self.images_before, self.images_after
        if after > before:
            for shard in range(before // spec.shard, -(-after // spec.shard)):
                start, stop = shard * spec.shard, (shard + 1) * spec.shard
                yield CommitTask(kind, shard, max(start, before), min(stop, after), self.digest)

    def _part_tasks(self, kind: TaskKind, edges: list[int]) -> Iterator[CommitTask]:
        for number, (start, stop) in enumerate(pairwise(edges), self.next_part.get(kind, 0)):
            yield CommitTask(kind, number, start, stop, self.digest)

    def to_bytes(self) -> bytes:
        """Encode as an Arrow stream; the same plan gives the same bytes."""
        table = pa.table(self.columns())
        header = {name: getattr(self, name) for name in _HEADER}
        header["failures"] = self.failures.to_pylist()
        sink = io.BytesIO()
        plan = msgspec.json.encode(header, order="sorted")
        schema = table.schema.with_metadata({"plan": plan})
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, schema, options=options) as writer:
            writer.write_table(table)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> CommitPlan:
        """Decode what `to_bytes` returned."""
        table = pa.ipc.open_stream(data).read_all()
        header = msgspec.json.decode(table.schema.metadata[b"plan"])
        header |= {
            "paths": tuple(header["paths"]),
            "shape": ImageShape(**header["shape"]),
            "arrays": msgspec.convert(header["arrays"], tuple[ArraySpec, ...]),
            "failures": pa.Table.from_pylist(header["failures"], FAILURES_SCHEMA),
        }
        columns = {name: table[name].to_numpy() for name in cls.COLUMNS}
        return cls(**columns, **header, digest=digest_of(data))


_HEADER = (
    "paths", "shape", "arrays", "base", "images_before", "files_before", "next_part", "notes"
)  # fmt: skip
"""Fields of a plan that are no columns; with the failures."""


def store_plan(storage: Storage, plan: CommitPlan) -> CommitPlan:
    """Put a plan where its tasks find it; the tasks of every other plan end here."""
    data = plan.to_bytes()
    stored = CommitPlan.from_bytes(data)
    storage.write(PLAN, data)
    storage.write(PLAN_DIGEST, stored.digest.encode())
    return stored


def check_current(storage: Storage, digest: str) -> None:
    """Raise `ZmlError` for a task whose commit is over."""
    if not storage.exists(PLAN_DIGEST) or storage.read(PLAN_DIGEST).decode() != digest:
        raise ZmlError("this task's commit is over, another may have begun; nothing written")


def load_plan(storage: Storage, digest: str) -> CommitPlan:
    """Read the plan of a task, and keep it for the next one; `ZmlError` if there is another now."""
    check_current(storage, digest)
    key = (storage.url, digest)
    plan = _PLANS.get(key)
    if plan is None:
        plan = CommitPlan.from_bytes(storage.read(PLAN))
        _PLANS.clear()
        _PLANS[key] = plan
    return plan


_PLANS: dict[tuple[str, str], CommitPlan] = {}


def _cut_evenly(counts: Int64, limit: int) -> list[int]:
    """Cut a sequence where the sum of its counts would pass `limit`; return the edges."""
    edges = [0]
    gathered = 0
    for position, count in enumerate(counts.tolist()):
        if gathered and gathered + count > limit:
            edges.append(position)
            gathered = 0
        gathered += count
    return [*edges, counts.size]


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """What a commit notes besides the rows.

    Attributes
    ----------
    shape : ImageShape
        Must be the dataset's, where there is one already.
    level : int or None
        Of the compression of a new dataset; None for the default.
    options, software, harvest : mapping or None
        For ``dataset.json``; None leaves what is there.
    """

    shape: ImageShape = field(default_factory=ImageShape)
    level: int | None = None
    options: Mapping[str, Any] | None = None
    software: Mapping[str, str] | None = None
    harvest: Mapping[str, Any] | None = None


def make_plan(
    storage: Storage, options: CommitOptions, committed: DatasetInfo | None, index: StagingIndex
) -> CommitPlan | None:
    """Calculate what a commit of everything staged does; None where there is nothing to do.

    `committed` is what the commit begins from. `UsageError` if the dataset, or what is
    staged, has another image size.
    """
    arrays = image_arrays(options.shape, options.level or DEFAULT_LEVEL)
    base = committed or DatasetInfo(shape=options.shape, arrays=arrays)
    check_shape(base, options.shape)
    snapshot = Snapshot(storage, base)
    done = snapshot.done()
    wanted = ~np.isin(index.record_id, done)
    check_staged_shape(index, wanted, options.shape)
    staged = set(index.record_id[wanted].tolist())
    old = snapshot.scan("failures", with_withdrawn=True).cast(FAILURES_SCHEMA)
    gone = staged | set(done.tolist())
    failures = failures_table(
        row for row in failure_rows(old) + failure_rows(index.failures) if row.record_id not in gone
    )
    notes = {
        name: dict(value)
        for name in ("options", "software", "harvest")
        if (value := getattr(options, name)) is not None
    }
    same_harvest = options.harvest is None or dict(options.harvest) == base.harvest
    if base.commits and not wanted.any() and failures.equals(old) and same_harvest:
        return None
    return CommitPlan(
        **index.columns(wanted),
        paths=index.paths,
        shape=base.shape,
        arrays=base.arrays,
        base=digest_of(committed.to_bytes()) if committed else None,
        images_before=base.counts.images,
        files_before=base.counts.files,
        next_part=base.next_part,
        failures=failures,
        notes=notes,
    )


def repack_under_way(storage: Storage, info: DatasetInfo) -> int | None:
    """Return the level of a repack that has begun and not ended; None if there is none."""
    path = f"{REPACK}/level"
    level = int(storage.read(path)) if storage.exists(path) else info.arrays[0].level
    return level if level != info.arrays[0].level else None


def check_not_repacking(storage: Storage, info: DatasetInfo) -> None:
    """Raise `UsageError` where shards are being rewritten: nothing can be appended then."""
    level = repack_under_way(storage, info)
    if level is not None:
        raise UsageError(
            f"a repack of {storage.url} to level {level} has begun and not ended; finish it with "
            f"'zml-dask repack {storage.url} --level {level}', then run this command again"
        )


def check_shape(info: DatasetInfo, shape: ImageShape) -> None:
    """Raise `UsageError` unless a dataset's images have this size."""
    if info.shape != shape:
        raise UsageError(
            f"the dataset's images have {info.shape.height} lines by {info.shape.width} "
            f"characters, not {shape.height} by {shape.width}; "
            "build another size into another folder"
        )


def check_staged_shape(index: StagingIndex, wanted: NDArray[np.bool_], shape: ImageShape) -> None:
    """Raise `UsageError` unless the `wanted` staged records were counted for this size."""
    wrong = wanted & ((index.height != shape.height) | (index.width != shape.width))
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        raise UsageError(
            f"record {index.record_id[position]} and {int(wrong.sum()) - 1} others are staged for "
            f"images of {index.height[position]} lines by {index.width[position]} characters; "
            "build with that size ([image] in --config), or remove staging/"
        )


_SOFTWARE = ("zml-dask", "numpy", "zarr", "numcodecs", "pyarrow", "dask")


def software_versions() -> dict[str, str]:
    """Return the versions of what decides a dataset's bytes.

    Examples
    --------
    >>> sorted(software_versions())[-1]
    'zml-dask'
    """
    return {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE}
