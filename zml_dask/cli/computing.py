"""What computes the bags of an export or an import: this process, or the cluster asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import distributed

from zml_dask.cli.building import open_client_of
from zml_dask.errors import ZmlError
from zml_dask.legacy.bags import Compute, in_this_process
from zml_dask.pipeline.progress import BuildProgress


class WorkersDiedError(ZmlError):
    """Workers were killed while they exported or imported."""


@contextmanager
def compute_of(
    values: dict[str, Any], progress: BuildProgress, dataset: str, *, alone: bool
) -> Iterator[Compute]:
    """Yield what computes a bag: the cluster that the command line names, opened on first use.

    Parameters
    ----------
    values : dict
        Of the cluster's options.
    progress : BuildProgress
    dataset : str
        What is worked on; it names the jobs.
    alone : bool
        Whether this process does the work itself where nothing else is asked for.
    """
    asked = any(values.get(name) for name in ("workers", "adapt", "cluster_config"))
    if alone and not asked and values["cluster"] == "local":
        yield in_this_process
        return
    open_client = open_client_of(values, progress, dataset)
    with ExitStack() as stack:
        clients: list[distributed.Client] = []

        def compute(bag: Any) -> Iterator[list[Any]]:
            if not clients:  # not before there is work: a cluster takes its time
                clients.append(stack.enter_context(open_client()))
            futures = clients[0].compute(bag.to_delayed())
            try:
                for _, result in distributed.as_completed(futures, with_results=True):
                    yield list(result)
            except distributed.KilledWorker as error:
                raise WorkersDiedError(
                    "a worker died again and again, of too little memory perhaps; give workers "
                    "more of it and run the command again: what is done is kept"
                ) from error

        yield compute
