"""Which kind of cluster is meant, and its opening.

One call, `open_cluster`, gives a `distributed.Client` for any of them, so that the
build itself does not know the difference.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import distributed
from distributed.utils import silence_logging_cmgr

from zml_dask.engine.clusters.local import open_local
from zml_dask.engine.clusters.options import ClusterOptionError, ClusterOptions, Opener
from zml_dask.engine.clusters.settings import settings_of
from zml_dask.engine.clusters.standing import names_scheduler, open_standing


@contextmanager
def open_cluster(
    spec: str = "local",
    workers: int | None = None,
    adapt: tuple[int, int] | None = None,
    options: ClusterOptions | None = None,
) -> Iterator[distributed.Client]:
    """Open a cluster, and close what was opened.

    Parameters
    ----------
    spec : str
        ``"local"``; a section of dask-jobqueue's configuration (``"slurm"``,
        ``"pbs"``, ``"sge"``, ``"lsf"``, ...); the address of a scheduler
        (``"tcp://..."``, ``"tls://..."``); or the path of a scheduler file. The
        last two are left standing afterwards.
    workers : int, optional
        How many workers. Default: locally one a core; on a job queue one.
    adapt : tuple of int, optional
        Fewest and most workers, in place of `workers`; the number follows the
        work that waits.
    options : ClusterOptions, optional

    Yields
    ------
    distributed.Client
        With at least one worker.

    Raises
    ------
    ClusterOptionError
        Where the options do not fit together or the configuration is wrong.
    ClusterUnavailableError
        Where the cluster cannot be reached or its workers do not arrive; the
        message says what the queue says.

    Examples
    --------
    >>> with open_cluster("local", workers=1) as client:
    ...     client.submit(sum, [1, 2, 3]).result()
    6
    """
    options = ClusterOptions() if options is None else options
    _check_sizes(workers, adapt)
    # Chosen before the settings are made: what is imported on the way registers
    # defaults, which would be forgotten with the settings.
    opener = _opener(spec)
    with (
        dask.config.set(settings_of(options)),
        _any_port_will_do(),
        # What goes wrong is said by our own errors; Dask's log is a screen of
        # tracebacks for a scheduler that was ended.
        silence_logging_cmgr(logging.CRITICAL),
        opener(spec, workers, adapt, options) as client,
    ):
        yield client


@contextmanager
def _any_port_will_do() -> Iterator[None]:
    """Dask takes another port where the dashboard's is taken; no reason for three lines."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        yield


def _opener(spec: str) -> Opener:
    if spec == "local":
        return open_local
    if names_scheduler(spec):
        return open_standing
    # Imported here: a laptop's build need not load dask-jobqueue.
    from zml_dask.engine.clusters.jobqueue import open_jobqueue

    return open_jobqueue


def _check_sizes(workers: int | None, adapt: tuple[int, int] | None) -> None:
    if workers is not None and adapt is not None:
        raise ClusterOptionError("--workers and --adapt exclude each other; give one of them")
    if workers is not None and workers < 1:
        raise ClusterOptionError(f"--workers {workers} is too few; give 1 or more")
