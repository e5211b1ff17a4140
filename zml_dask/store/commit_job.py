"""The job that commits what is staged: each task writes some shards, or one part of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from zml_dask.engine.job import Job, Report
from zml_dask.errors import ClusterError
from zml_dask.store.commit import (
    CommitOptions,
    CommitPlan,
    CommitTask,
    TaskResult,
    finish_commit,
    plan_commit,
    run_task,
)
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.storage import Storage

_SHARES = 16
_MOST_SHARDS = 8
"""Shards that a task writes at most, and shares that a worker gets at least: a shard takes
a worker a tenth of a second, of which a Dask task of its own would waste a twentieth."""


@dataclass
class CommitStaged(Job[tuple[CommitTask, ...], None, list[TaskResult], DatasetInfo]):
    """Commits everything that is staged.

    A commit that ends early leaves the last one readable, and what is staged is kept.

    Attributes
    ----------
    storage : Storage
        The dataset.
    options : CommitOptions
        What the commit notes in ``dataset.json``.
    reported : sequence of int
        Ids of the records that workers reported as staged in this run.
    """

    name: ClassVar[str] = "commit"

    storage: Storage
    options: CommitOptions = field(default_factory=CommitOptions)
    reported: Sequence[int] = ()
    _plan: CommitPlan | None = field(default=None, init=False, repr=False)

    def plan(self, workers: int) -> list[tuple[CommitTask, ...]]:
        """Plan the commit; its tasks find the plan in the dataset's staging.

        Raises
        ------
        ClusterError
            If what workers reported as staged is not there: nothing is committed then.
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

    def report(self, result: list[TaskResult]) -> Report:
        """Count shards and parts."""
        return Report(done=len(result))

    def size(self, task: tuple[CommitTask, ...]) -> int:
        """Count a task's shards and parts."""
        return len(task)


def group_tasks(tasks: Sequence[CommitTask], workers: int) -> list[tuple[CommitTask, ...]]:
    """Group the tasks of a commit for a cluster.

    Returns
    -------
    list of tuple of CommitTask
        Index shards and tables first, since each takes long; then runs of image shards.

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
