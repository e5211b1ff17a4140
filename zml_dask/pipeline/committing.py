"""The commit over a cluster: a task a shard or part, planned and finished by the driver."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import distributed

from zml_dask.errors import ZmlError
from zml_dask.pipeline.errors import BuildError
from zml_dask.pipeline.lock import DatasetLock
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.progress import BuildProgress, Counts
from zml_dask.records.journal import HarvestState
from zml_dask.store.commit.steps import (
    CommitOptions,
    CommitTask,
    TaskResult,
    finish_commit,
    plan_commit,
    run_task,
)
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.storage import Storage

_RETRIES = 2

_SHARES = 16
_MOST_SHARDS = 8
"""Shards that a Dask task writes at most, and shares that a worker gets at least: a shard
takes a worker a tenth of a second, of which a task of its own would waste a twentieth."""

_SOFTWARE = ("zml-dask", "numpy", "zarr", "numcodecs", "pyarrow", "dask")


def commit_staged(
    client: distributed.Client,
    storage: Storage,
    options: BuildOptions,
    harvest: HarvestState | None,
    lock: DatasetLock,
    progress: BuildProgress,
) -> DatasetInfo:
    """Commit everything that is staged, its shards written by the cluster's workers.

    Parameters
    ----------
    client : distributed.Client
    storage : Storage
        The dataset.
    options : BuildOptions
    harvest : HarvestState or None
        Of the catalogue; noted, so that an update knows where to go on.
    lock : DatasetLock
        Checked before the dataset is replaced.
    progress : BuildProgress

    Returns
    -------
    DatasetInfo
        The dataset as it is now.

    Raises
    ------
    BuildError
        If the cluster is lost. The last commit stays readable, and what is
        staged is kept.
    StorageError
        If the storage fails; the same holds.
    """
    plan = plan_commit(
        storage,
        CommitOptions(options.shape, options.recorded(), software_versions(), noted(harvest)),
    )
    if plan is None:
        return read_info(storage) or DatasetInfo()
    total = len(plan.tasks)
    if total:
        progress.update("commit", Counts(0, total))
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    groups = group_tasks(plan.tasks, workers)
    futures = client.map(run_tasks, groups, storage=storage, pure=False, retries=_RETRIES)
    results: list[TaskResult] = []
    try:
        for future in distributed.as_completed(futures):
            results += _results(future)
            future.release()
            progress.update("commit", Counts(len(results), total))
    finally:
        client.cancel(futures, reason="the commit has stopped")
    lock.check()
    return finish_commit(storage, plan, results)


def group_tasks(tasks: Sequence[CommitTask], workers: int) -> list[tuple[CommitTask, ...]]:
    """Group the tasks of a commit for a cluster.

    Parameters
    ----------
    tasks : sequence of CommitTask
    workers : int

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


def run_tasks(tasks: Sequence[CommitTask], *, storage: Storage) -> list[TaskResult]:
    """Do some tasks of a commit, one after another."""
    return [run_task(storage, task) for task in tasks]


def noted(harvest: HarvestState | None) -> Mapping[str, Any] | None:
    """Return what ``dataset.json`` keeps of a harvest; None where there was no real one."""
    if harvest is None or harvest.complete_until is None:
        return None
    return {**asdict(harvest.options), "complete_until": harvest.complete_until}


def software_versions() -> dict[str, str]:
    """Return the versions of what decides a dataset's bytes.

    Examples
    --------
    >>> sorted(software_versions())[-1]
    'zml-dask'
    """
    return {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE}


def _results(future: distributed.Future) -> list[TaskResult]:
    try:
        results: list[TaskResult] = future.result()
    except ZmlError:
        raise
    except Exception as error:
        raise BuildError(
            f"the commit stopped: a worker failed with {type(error).__name__}: {error}; the last "
            "commit is untouched and what is staged is kept: run the same command again"
        ) from error
    return results
