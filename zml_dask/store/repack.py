"""Repacking: the shards of a finished dataset compressed again at another level.

Each shard is replaced by one with the same rows, so that a reader sees the same images
before, during and after; one that has read the index of the old shard finds by the
checksum of a chunk that it must read the index again. What a shard becomes is noted under
``staging/repack/`` before it is replaced. `verify` accepts a shard that is as noted, and a
repack that was interrupted goes on from there. The replacement of ``dataset.json``, last,
makes it final: the manifest then lists the new shards, and the next commit compresses at
the new level. So a repacked dataset has the arrays, byte for byte, of one built at that level.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from zml_dask.engine.job import Job, OpenExecutor, run_job
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.errors import DatasetDamagedError, UsageError
from zml_dask.store.commit import is_another_under_way, tidy
from zml_dask.store.commit.plan import PLAN_DIGEST, check_current, repack_under_way
from zml_dask.store.info import DatasetInfo, WrittenObject, committed_info, replace_info
from zml_dask.store.layout import REPACK, ArraySpec, ImageShape, check_level, row_shape
from zml_dask.store.shards import ShardBuilder, ShardReader, zarr_objects
from zml_dask.store.storage import Storage
from zml_dask.store.tables import MANIFEST, digest_of, read_manifest, write_manifest


@dataclass(frozen=True, slots=True)
class Repacked:
    """The result of a repack.

    Attributes
    ----------
    info : DatasetInfo
        As it is now.
    level : int
        The level before; that of `info` where there was nothing to do.
    before, after : int
        Bytes of ``images.zarr``.
    """

    info: DatasetInfo
    level: int
    before: int
    after: int


def repack_on(
    dataset: str | Storage,
    open_executor: OpenExecutor,
    level: int,
    *,
    progress: BuildProgress | None = None,
) -> Repacked:
    """Compress the shards of a dataset again, at another level.

    Parameters
    ----------
    open_executor : callable
        Returns a context manager that yields an executor; called if there is anything to do.
    level : int
        Of Blosc, 1 (fast) to 9 (small).

    Raises
    ------
    UsageError
        If there is no such level, or a commit or a repack to another level has begun and
        not ended.
    DatasetDamagedError
        If a shard is not what was committed.
    StorageError
        If the dataset was changed by another process meanwhile.
    """
    check_level(level)
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    committed_info(storage)
    with dataset_lock(storage, on_wait=progress.say) as lock:
        info = committed_info(storage)
        begun = repack_under_way(storage, info)
        if begun not in (None, level):
            raise UsageError(
                f"a repack of {storage.url} to level {begun} has begun and not ended; finish it "
                f"first, with --level {begun}"
            )
        if is_another_under_way(storage, None, info):
            raise UsageError(
                f"a commit to {storage.url} has begun and not ended; run the build again, then "
                "repack"
            )
        if info.arrays[0].level == level:
            tidy(storage, None, ())
            stored = sum(written.size for written in read_manifest(storage, info).values())
            return Repacked(info, level, stored, stored)
        with open_executor() as executor:
            job = Repack.of(storage, info, level)
            return run_job(job, executor, lock=lock, progress=progress)


def noted(storage: Storage, path: str) -> WrittenObject | None:
    """Return the noted new state of an object in an unfinished repack; None where none is noted."""
    note = f"{REPACK}/{path}.json"
    return WrittenObject(**json.loads(storage.read(note))) if storage.exists(note) else None


def _note(storage: Storage, written: WrittenObject) -> None:
    storage.write(f"{REPACK}/{written.path}.json", json.dumps(asdict(written)).encode())


@dataclass(frozen=True)
class Repack(Job[WrittenObject, None, WrittenObject, Repacked]):
    """Compresses every shard again; a task is a shard's row of the manifest.

    `arrays` are as they will be, `base` is what the repack begins from. `digest` is a hash of the
    dataset's state and the new level. It stands where a commit's plan would, so that no task of
    either writes after the other has begun.
    """

    name: ClassVar[str] = "shards"

    storage: Storage
    shape: ImageShape
    arrays: tuple[ArraySpec, ...]
    digest: str
    base: DatasetInfo

    @classmethod
    def of(cls, storage: Storage, base: DatasetInfo, level: int) -> Repack:
        """Begin a repack, or continue it."""
        arrays = tuple(replace(spec, level=level) for spec in base.arrays)
        digest = hashlib.sha256(b"repack %d " % level + base.to_bytes()).hexdigest()
        storage.write(f"{REPACK}/level", b"%d" % level)
        storage.write(PLAN_DIGEST, digest.encode())
        return cls(storage, base.shape, arrays, digest, base)

    def plan(self, workers: int) -> list[WrittenObject]:
        """List the shards; each task detects by itself whether its shard is done."""
        manifest = read_manifest(self.storage, self.base)
        return [written for written in manifest.values() if written.rows]

    def for_workers(self) -> Repack:
        """Return the job without what the dataset was, which no worker needs."""
        return replace(self, base=DatasetInfo())

    def shared(self) -> tuple[Storage]:
        """Return the dataset's storage."""
        return (self.storage,)

    def run(self, task: WrittenObject, context: None) -> WrittenObject:
        """Compress one shard again, unless that is done; return its row of the manifest."""
        data = self.storage.read(task.path)
        if digest_of(data) != task.sha256:
            known = noted(self.storage, task.path)
            if known is None or known.sha256 != digest_of(data):
                raise DatasetDamagedError(
                    f"{self.storage.url}/{task.path} is not what was committed; run zml-dask "
                    "verify --repair, then repack again"
                )
            return known
        packed = self._packed(task, data)
        written = replace(task, size=len(packed), sha256=digest_of(packed))
        _note(self.storage, written)
        check_current(self.storage, self.digest)
        self.storage.write(task.path, packed)
        return written

    def _packed(self, task: WrittenObject, data: bytes) -> bytes:
        """Encode the rows of a shard again, and compare what both decode to."""
        spec = next(spec for spec in self.arrays if spec.name == task.path.split("/")[1])
        row = row_shape(spec, self.shape)
        before, builder = ShardReader(spec, row, data), ShardBuilder(spec, row)
        cuts = [
            (start, min(start + spec.chunk, task.rows)) for start in range(0, task.rows, spec.chunk)
        ]
        for start, stop in cuts:
            builder.extend(before.rows(start, stop))
        packed = builder.finish()
        after = ShardReader(spec, row, packed)
        for start, stop in cuts:
            if not np.array_equal(before.rows(start, stop), after.rows(start, stop)):
                raise DatasetDamagedError(
                    f"{task.path} decodes to other rows after it was compressed again; nothing was "
                    "replaced. The memory of this machine or the Blosc library is at fault"
                )
        return packed

    def finish(self, results: Iterator[WrittenObject]) -> Repacked:
        """Write metadata and manifest, and replace ``dataset.json``."""
        storage, base = self.storage, self.base
        made = {written.path: written for written in results}
        info = replace(base, arrays=self.arrays)
        for path, data in zarr_objects(info.arrays, info.shape, info.counts.images):
            made[path] = WrittenObject(path, len(data), digest_of(data))
            _note(storage, made[path])
            check_current(storage, self.digest)
            storage.write(path, data)
        manifest = read_manifest(storage, base)
        number = base.next_part.get(MANIFEST, 0)
        info = replace(
            info,
            manifest=(write_manifest(storage, number, [made[path] for path in manifest]),),
            next_part={**base.next_part, MANIFEST: number + 1},
            boundary_shards=tuple(made[shard.path] for shard in base.boundary_shards),
        )
        info = replace_info(storage, base, info)
        tidy(storage, None, ())
        before, after = (sum(row.size for row in rows.values()) for rows in (manifest, made))
        return Repacked(info, base.arrays[0].level, before, after)
