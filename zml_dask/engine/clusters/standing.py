"""A Dask cluster that stands already, by its scheduler's address or file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed

from zml_dask.engine.clusters.options import (
    ClusterOptionError,
    ClusterOptions,
    ClusterUnavailableError,
)
from zml_dask.engine.clusters.waiting import await_worker

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://")


def names_scheduler(spec: str) -> bool:
    """Whether this is the address of a scheduler, or a scheduler file that is there."""
    return bool(_ADDRESS.match(spec)) or Path(spec).is_file()


@contextmanager
def open_standing(
    spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    """Connect to a cluster; see `zml_dask.engine.clusters.open_cluster`.

    Raises
    ------
    ClusterOptionError
        If a size is asked for, or certificates are missing.
    ClusterUnavailableError
        If nothing answers there, or it has no worker.
    """
    if workers is not None or adapt is not None:
        raise ClusterOptionError(
            f"--cluster {spec} stands already and its size is not ours; "
            "leave out --workers and --adapt"
        )
    security = distributed.Security()
    if spec.startswith("tls://") and security.tls_ca_file is None:
        raise ClusterOptionError(
            f"--cluster {spec} needs certificates: set distributed.comm.tls in --cluster-config"
        )
    target = {"address": spec} if _ADDRESS.match(spec) else {"scheduler_file": spec}
    timeout = options.start_timeout or 60.0
    try:
        client = distributed.Client(**target, security=security, timeout=timeout)
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        raise ClusterUnavailableError(
            f"no Dask scheduler answers at {spec} ({error.__class__.__name__}): check that it "
            "runs, that this machine may reach its port, and that both ends use TLS or neither"
        ) from error
    with client:
        await_worker(client, timeout, "start workers that connect to it")
        yield client
