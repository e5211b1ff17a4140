"""Workers as processes of this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from zml_dask.engine.clusters.options import ClusterOptions, ClusterUnavailableError
from zml_dask.engine.clusters.waiting import await_worker

# The share of the machine that local workers may fill; the rest is the driver's,
# the scheduler's and the page cache's.
_LOCAL_MEMORY_SHARE: Final = 0.8


@contextmanager
def open_local(
    _spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    """Start a cluster here; see `zml_dask.engine.clusters.open_cluster`.

    Raises
    ------
    ClusterUnavailableError
        If the scheduler cannot start, or no worker does in time.
    """
    # Processes of one thread each: rasterising holds the interpreter's lock, and a
    # record that kills its worker then kills nothing else.
    count = workers or (adapt[1] if adapt else CPU_COUNT)
    options.say(
        f"starting {'up to ' if adapt else ''}{count} worker{'s' if count > 1 else ''} "
        "on this machine"
    )
    try:
        started = distributed.LocalCluster(
            n_workers=0 if adapt else count,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(MEMORY_LIMIT * _LOCAL_MEMORY_SHARE / count),
            scheduler_kwargs=options.scheduler_options,
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload=["zml_dask.pipeline.worker_signals"],
        )
    except (RuntimeError, ValueError, OSError) as error:
        asked = f" with --dashboard {options.dashboard!r}" if options.dashboard else ""
        why = " ".join(str(error).split())
        raise ClusterUnavailableError(
            f"Dask's scheduler cannot start on this machine{asked}: {why}"
        ) from error
    with started as cluster, distributed.Client(cluster) as client:
        # Also for a fixed number: a worker that dies while it starts ends its nanny,
        # and adapting is what puts another in its place.
        least = max(1, adapt[0]) if adapt else count
        cluster.adapt(minimum=least, maximum=count)
        await_worker(client, options.start_timeout or 120.0, "look at --debug's output")
        yield client
