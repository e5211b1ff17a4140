"""The commit: everything staged becomes rows of the dataset, all at once for a reader.

1. `plan_commit` turns counts into offsets (driver).
2. `run_task` writes one shard or one part of a table, once and whole (any worker).
3. `finish_commit` writes the lists and metadata, then replaces ``dataset.json``:
   that is the commit; afterwards it tidies up (driver).

A crash at any point leaves the last commit readable: everything before the
replacement either has a new name or, for the one shard that is not full, keeps
the rows that are committed; running the commit again writes the same bytes.

`CommitStaged` is the job that does this on any executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Protocol

import numpy as np

from zml_dask.arguments import checked
from zml_dask.engine.job import Job, TaskReport
from zml_dask.errors import ClusterError, StorageError, ZmlError
from zml_dask.store.commit.plan import (
    PLAN_DIGEST,
    CommitOptions,
    CommitPlan,
    CommitTask,
    check_current,
    check_not_repacking,
    load_plan,
    make_plan,
    software_versions,
    store_plan,
)
from zml_dask.store.commit.tasks import TaskResult, run_task
from zml_dask.store.info import Counts, DatasetInfo, WrittenObject, read_info, replace_info
from zml_dask.store.layout import DATASET_JSON, LEGACY, PLAN, REPACK, STAGING, TABLES
from zml_dask.store.shards import zarr_objects
from zml_dask.store.staging.packs import StagingIndex
from zml_dask.store.storage import Storage
from zml_dask.store.summary import add_up
from zml_dask.store.tables import MANIFEST, append_part, digest_of, write_manifest

__all__ = [
    "CommitOptions",
    "CommitPlan",
    "CommitStaged",
    "CommitTask",
    "TaskResult",
    "commit",
    "finish_commit",
    "plan_commit",
    "run_task",
    "software_versions",
]


class _Map(Protocol):
    def __call__(
        self, function: Callable[[CommitTask], TaskResult], tasks: Iterable[CommitTask], /
    ) -> Iterable[TaskResult]: ...


def plan_commit(storage: Storage, options: CommitOptions | None = None) -> CommitPlan | None:
    """Plan the commit of everything staged, and put the plan where the tasks find it.

    Returns
    -------
    CommitPlan or None
        None where there is nothing to commit; what a dead commit left behind
        is removed then.

    Raises
    ------
    UsageError
        If the dataset, or what is staged, has another image size, or a repack has begun.
    """
    index = StagingIndex.load(storage)
    info = read_info(storage)
    if info is not None:
        check_not_repacking(storage, info)
    plan = make_plan(storage, options or CommitOptions(), info, index)
    if plan is None:
        if info is not None:
            tidy(storage, None, (*index.paths, *index.damaged))
        return None
    return store_plan(storage, plan)


def finish_commit(storage: Storage, plan: CommitPlan, results: Iterable[TaskResult]) -> DatasetInfo:
    """Make the output of the tasks part of the dataset; return the new ``dataset.json``.

    `results` are those of all tasks, in any order.

    Raises
    ------
    ZmlError
        If a task has no result, or another commit has begun since.
    StorageError
        If the dataset is not the one that the commit was planned for any more.
    """
    by_task = {result.task: result for result in results}
    missing = [task for task in plan.tasks if task not in by_task]
    if missing:
        raise ZmlError(
            f"{len(missing)} tasks of the commit have no result, such as {missing[0].kind} "
            f"{missing[0].number}; run the build again"
        )
    ordered = [by_task[task] for task in plan.tasks]
    metadata = list(zarr_objects(plan.arrays, plan.shape, plan.images_after))
    old_metadata = {
        path: storage.read(path) if storage.exists(path) else None for path, _ in metadata
    }
    committed = read_info(storage)
    if (digest_of(committed.to_bytes()) if committed else None) != plan.base:
        raise _overtaken(storage)
    base = committed or DatasetInfo(shape=plan.shape, arrays=plan.arrays)
    info = _extend_tables(storage, base, plan, ordered)
    objects = [written for result in ordered for written in result.objects]
    objects += [WrittenObject(path, len(data), digest_of(data)) for path, data in metadata]
    number = base.next_part.get(MANIFEST, 0)
    manifest = (*base.manifest, write_manifest(storage, number, objects))
    for path, data in metadata:
        if not storage.replace(path, data, expected=old_metadata[path]):
            raise _overtaken(storage)
    boundary = {shard.path: shard for shard in base.boundary_shards}
    boundary |= {written.path: written for written in objects if written.last_rows_sha256}
    counts = Counts(
        plan.images_after,
        plan.files_after,
        base.counts.records + plan.record_id.size,
        len(plan.failures),
    )
    info = replace(
        info,
        counts=counts,
        boundary_shards=tuple(boundary.values()),
        manifest=manifest,
        commits=(*base.commits, counts),
        next_part={**info.next_part, MANIFEST: number + 1},
        **plan.notes,
    )
    check_current(storage, plan.digest)
    info = replace_info(storage, committed, info)
    tidy(storage, plan, plan.paths)
    return info


def _overtaken(storage: Storage) -> StorageError:
    return StorageError(
        f"{storage.url} was changed by another process since this commit began; "
        "nothing was overwritten; run the command again"
    )


def _extend_tables(
    storage: Storage, info: DatasetInfo, plan: CommitPlan, results: list[TaskResult]
) -> DatasetInfo:
    """Add the tasks' parts; write the failures again if they have changed."""
    tables = {**dict.fromkeys(TABLES, ()), **info.tables}
    next_part = dict(info.next_part)
    for result in results:
        if result.part is not None:
            kind = result.task.kind
            tables[kind] = (*tables[kind], result.part)
            next_part[kind] = result.task.number + 1
    info = replace(info, tables=tables, next_part=next_part)
    if len(plan.failures) or any(part.rows for part in tables["failures"]):
        info = append_part(storage, info, "failures", plan.failures, replaces=True)
    counted = [result.summary for result in results if result.summary is not None]
    return append_part(storage, info, "summary", add_up(counted)) if counted else info


def tidy(storage: Storage, plan: CommitPlan | None, used: Iterable[str]) -> None:
    """Remove what a commit used up, and what dead commits left behind.

    Nothing is removed where another commit has begun since, or that a finished one may need:
    a part counts as left over only if it was there before ``dataset.json`` was read, and is
    not named in it.
    """
    parts = [path for table in (*TABLES, MANIFEST) for path in storage.list(f"{table}.parquet")]
    info = read_info(storage)
    if info is None or is_another_under_way(storage, plan, info):
        return
    listed = {part.path for group in info.tables.values() for part in group}
    listed |= {part.path for part in info.manifest}
    storage.remove([PLAN_DIGEST, *used, *storage.list(REPACK), PLAN])
    storage.prune(STAGING)
    storage.remove([path for path in parts if path not in listed])
    storage.remove([path for path in storage.leftovers() if _is_ours(path)])
    storage.remove(storage.leftovers(_ABANDONED))


def is_another_under_way(storage: Storage, plan: CommitPlan | None, info: DatasetInfo) -> bool:
    """Whether a commit other than that of `plan` has begun, and not ended."""
    if not storage.exists(PLAN_DIGEST):
        return False
    digest = storage.read(PLAN_DIGEST).decode()
    if plan is not None:
        return digest != plan.digest
    # Only a plan that starts from the current dataset.json is of an unfinished commit.
    return storage.exists(PLAN) and load_plan(storage, digest).base == digest_of(info.to_bytes())


_ABANDONED = 600
"""Seconds after which nobody is writing a small object any more, say the lock."""


def _is_ours(leftover: str) -> bool:
    """Whether a half-written object is the store's own: others may be writing theirs now."""
    folder, separator, name = leftover.rpartition("/")
    return folder != LEGACY if separator else name.endswith(f"-{DATASET_JSON}")


@checked
def commit(
    storage: Storage,
    options: CommitOptions | None = None,
    *,
    map: _Map = map,  # noqa: A002
) -> DatasetInfo:
    """Commit everything staged, in this process or over any `map`.

    Parameters
    ----------
    storage : Storage
        The dataset's.
    options : CommitOptions, optional
    map : callable
        Like the builtin; an executor's, for example.

    Returns
    -------
    DatasetInfo
        As it is now, also where there was nothing to commit.
    """
    plan = plan_commit(storage, options)
    if plan is None:
        return read_info(storage) or DatasetInfo()
    return finish_commit(storage, plan, map(partial(run_task, storage), plan.tasks))


_SHARES = 16
_MOST_SHARDS = 8
"""Shards that a task writes at most, and shares that a worker gets at least: a shard takes
a worker a tenth of a second, of which a Dask task of its own would waste a twentieth."""


@dataclass
class CommitStaged(Job[tuple[CommitTask, ...], None, list[TaskResult], DatasetInfo]):
    """Commits everything that is staged in `storage`, the dataset.

    A commit that ends early leaves the last one readable, and what is staged is kept. `reported`
    are the ids of the records that workers reported as staged in this run.
    """

    name: ClassVar[str] = "commit"

    storage: Storage
    options: CommitOptions = field(default_factory=CommitOptions)
    reported: Sequence[int] = ()
    _plan: CommitPlan | None = field(default=None, init=False, repr=False)

    def plan(self, workers: int) -> list[tuple[CommitTask, ...]]:
        """Plan the commit; its tasks find the plan in the dataset's staging.

        `ClusterError` if what workers reported as staged is not there: nothing is committed then.
        """
        self._plan = plan_commit(self.storage, self.options)
        there = np.empty(0, np.int64) if self._plan is None else self._plan.record_id
        missing = np.setdiff1d(np.array(self.reported, np.int64), there)
        if missing.size:
            raise ClusterError(
                f"{missing.size:,} of {len(self.reported):,} records that workers reported as "
                f"staged are not in {self.storage.url}, such as {missing[0]}: do all workers "
                "write to the same storage? Nothing is committed; run the same command again"
            )
        return [] if self._plan is None else group_tasks(self._plan.tasks, workers)

    def for_workers(self) -> CommitStaged:
        """Return the job without its plan."""
        return CommitStaged(self.storage)

    def shared(self) -> tuple[Storage]:
        """Return the dataset's storage."""
        return (self.storage,)

    def run(self, task: tuple[CommitTask, ...], context: None) -> list[TaskResult]:
        """Write some shards, or one part of a table."""
        return [run_task(self.storage, each) for each in task]

    def finish(self, results: Iterator[list[TaskResult]]) -> DatasetInfo:
        """Replace ``dataset.json``: that is the commit."""
        found = [result for group in results for result in group]
        if self._plan is None:
            return read_info(self.storage) or DatasetInfo()
        return finish_commit(self.storage, self._plan, found)

    def report(self, result: list[TaskResult]) -> TaskReport:
        """Count shards and parts."""
        return TaskReport(done=len(result))

    def size(self, task: tuple[CommitTask, ...]) -> int:
        """Count a task's shards and parts."""
        return len(task)


def group_tasks(tasks: Sequence[CommitTask], workers: int) -> list[tuple[CommitTask, ...]]:
    """Group the tasks of a commit for a cluster.

    Index shards and tables come first, since each takes long; then runs of image shards.

    Examples
    --------
    >>> tasks = [CommitTask("images", n, 0, 1, "") for n in range(70)]
    >>> groups = group_tasks([*tasks, CommitTask("files", 0, 0, 1, "")], workers=2)
    >>> groups[0][0].kind, [task.number for task in groups[1]], len(groups)
    ('files', [0, 1], 36)
    """
    shards = [task for task in tasks if task.kind == "images"]
    size = max(1, min(_MOST_SHARDS, len(shards) // (_SHARES * max(1, workers))))
    return [
        *((task,) for task in tasks if task.kind != "images"),
        *(tuple(shards[start : start + size]) for start in range(0, len(shards), size)),
    ]
