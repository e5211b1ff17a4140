"""The commit over a cluster: a task a shard or part, planned and finished by the driver."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import distributed

from zml_dask.errors import ZmlError
from zml_dask.pipeline.errors import BuildError
from zml_dask.pipeline.lock import DatasetLock
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.progress import BuildProgress, Counts
from zml_dask.records.state import HarvestState
from zml_dask.store.commit.steps import (
    CommitOptions,
    TaskResult,
    finish_commit,
    plan_commit,
    run_task,
)
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.storage import Storage

_RETRIES = 2
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
    # Small and equal work, except for index shards and tables, which take longer
    # and so go first.
    tasks = sorted(plan.tasks, key=lambda task: task.kind == "images")
    total = len(tasks)
    if total:
        progress.update("commit", Counts(0, total))
    futures = client.map(partial(run_task, storage), tasks, pure=False, retries=_RETRIES)
    results: list[TaskResult] = []
    try:
        for future in distributed.as_completed(futures):
            results.append(_result(future))
            future.release()
            progress.update("commit", Counts(len(results), total))
    finally:
        client.cancel(futures, reason="the commit has stopped")
    lock.check()
    return finish_commit(storage, plan, results)


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


def _result(future: distributed.Future) -> TaskResult:
    try:
        result: TaskResult = future.result()
    except ZmlError:
        raise
    except Exception as error:
        raise BuildError(
            f"the commit stopped: a worker failed with {type(error).__name__}: {error}; the last "
            "commit is untouched and what is staged is kept: run the same command again"
        ) from error
    return result
