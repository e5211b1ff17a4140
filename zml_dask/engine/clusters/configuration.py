"""Dask's settings for the clusters of a build: ours, and those of the user's own file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import dask
import yaml

from zml_dask.engine.clusters.options import ClusterOptionError, ClusterOptions

# What holds on every cluster that this package starts. Three deaths condemn a
# record, one by chance (preemption) does not, see `zml_dask.pipeline.isolation`.
# Results are counts, never worth spilling; a worker near its limit should stop
# taking work and then die with the one record that fills it.
_CLUSTER_CONFIG: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.deploy.lost-worker-timeout": "5s",
    # 40 bytes a record: 20 MiB for half a million, and no reason to warn.
    "distributed.admin.large-graph-warning-threshold": "200MiB",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Dask's own watching takes a twentieth of a small machine: each worker's stack is
    # sampled a hundred times a second, and every process wakes fifty times a second to
    # see how late it wakes. A tenth of that shows as much of tasks that last seconds.
    "distributed.worker.profile.interval": "100ms",
    "distributed.admin.tick.interval": "200ms",
}


def settings_of(options: ClusterOptions) -> dict[str, Any]:
    """Dask's settings, by dotted name: ours, which the file the user names may overrule.

    Raises
    ------
    ClusterOptionError
        Where that file cannot be read or is not a mapping.
    """
    settings: dict[str, Any] = dict(_CLUSTER_CONFIG)
    if options.config is not None:
        settings.update(_flattened(read_config(options.config)))
    return settings


def exported_settings() -> list[str]:
    """Lines of a job script that give a worker on another machine the settings in force here.

    Examples
    --------
    >>> with dask.config.set({"distributed.worker.memory.spill": False}):
    ...     "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in exported_settings()
    True
    """
    return [
        f"export DASK_{name.upper().replace('.', '__').replace('-', '_')}="
        + shlex.quote(str(dask.config.get(name)))
        for name in _CLUSTER_CONFIG
        if not name.startswith("distributed.scheduler")
    ]


def read_config(path: Path) -> dict[str, Any]:
    """Read a Dask configuration file.

    Raises
    ------
    ClusterOptionError
        Where it cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterOptionError(
            f"--cluster-config {path} cannot be read: {error.__class__.__name__}; "
            "copy dask-jobqueue.yaml and fill it in"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f", line {where.line + 1}"
        raise ClusterOptionError(f"--cluster-config {path}{line} is not YAML") from None
    if not isinstance(content, dict):
        raise ClusterOptionError(f"--cluster-config {path} holds no settings")
    return content


def _flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted ones, so that setting one leaves its neighbours."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat.update(_flattened(value, f"{path}."))
        elif value is None and isinstance(dask.config.get(path, None), dict):
            continue  # a section whose lines are all comments says nothing
        else:
            flat[path] = value
    return flat
