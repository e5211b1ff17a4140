"""The commit: what is staged becomes rows of the dataset, all at once for a reader.

`planning` turns counts into offsets, `tasks` write shards and parts of tables,
`steps` puts them in order and ends with ``dataset.json``.
"""

from __future__ import annotations

from zml_dask.store.commit.plan import software_versions
from zml_dask.store.commit.steps import (
    CommitOptions,
    CommitPlan,
    CommitTask,
    TaskResult,
    commit,
    finish_commit,
    plan_commit,
    run_task,
)

__all__ = [
    "CommitOptions",
    "CommitPlan",
    "CommitTask",
    "TaskResult",
    "commit",
    "finish_commit",
    "plan_commit",
    "run_task",
    "software_versions",
]
