"""Waiting for the first worker, while there is hope, and saying why none came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import distributed

from zml_dask.engine.clusters.options import ClusterOptions, ClusterUnavailableError
from zml_dask.engine.clusters.queue import JobState, job_states, queue_command

if TYPE_CHECKING:
    # For its name alone: a laptop's build need not load it.
    import dask_jobqueue

_POLL_SECONDS: Final = 1.0
_SAY_SECONDS: Final = 60.0
# Once its job runs, a worker needs this long at most to import and to connect.
_RUNNING_PATIENCE: Final = 300.0
_UNKNOWN_QUEUE_PATIENCE: Final = 3600.0


def await_worker(client: distributed.Client, seconds: float, advice: str) -> None:
    """Wait for a worker of a cluster whose workers start at once.

    Parameters
    ----------
    client : distributed.Client
    seconds : float
        How long at most.
    advice : str
        What to do where none arrives.

    Raises
    ------
    ClusterUnavailableError
        Where none arrives.
    """
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        raise ClusterUnavailableError(
            f"no worker arrived within {seconds:.0f} s; {advice}"
        ) from None


def await_first_job(
    client: distributed.Client,
    cluster: dask_jobqueue.JobQueueCluster,
    system: str,
    options: ClusterOptions,
) -> None:
    """Wait for the worker of a queued job while there is hope, and say what is waited for.

    Parameters
    ----------
    client : distributed.Client
    cluster : dask_jobqueue.JobQueueCluster
    system : str
        The batch system: ``"slurm"``.
    options : ClusterOptions
        `start_timeout` in seconds, and who is told.

    Raises
    ------
    ClusterUnavailableError
        Where the queue says that none will come, or none came in time.
    """
    began = said = time.monotonic()
    running_since: float | None = None
    seen = False
    while not client.scheduler_info(n_workers=0)["n_workers"]:
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        job_ids = [str(job.job_id) for job in cluster.workers.values() if job.job_id]
        states = job_states(system, job_ids)
        seen = seen or bool(job_ids)
        limit = options.start_timeout or (_UNKNOWN_QUEUE_PATIENCE if states is None else None)
        if limit is not None and now - began > limit:
            raise ClusterUnavailableError(_hint(system, states, now - began))
        if seen and states is not None:
            if any(state.hopeless for state in states) or not states:
                raise ClusterUnavailableError(_hint(system, states, now - began))
            running = any(state.state == "RUNNING" for state in states)
            running_since = (running_since or now) if running else None
            if running_since is not None and now - running_since > _RUNNING_PATIENCE:
                raise ClusterUnavailableError(_hint(system, states, now - began))
        if now - said > _SAY_SECONDS and states:
            said = now
            options.say(f"waiting for workers: {_summary(states)}")


def _summary(states: list[JobState]) -> str:
    first = states[0]
    reason = "" if first.reason in {"None", ""} else f" ({first.reason})"
    return f"job {first.job_id} of {len(states)} is {first.state}{reason}"


def _hint(system: str, states: list[JobState] | None, seconds: float) -> str:
    start = f"no worker arrived within {seconds:.0f} s"
    if states is None:
        return f"{start}; {queue_command(system)} and the job's log say why"
    if not states:
        return (
            f"{start}: the worker's job has ended; its log (log-directory, else slurm-JOBID.out "
            "here) says why: often a wrong python or interface, or no memory"
        )
    if any(state.state == "RUNNING" for state in states):
        return (
            f"{start}: {_summary(states)} but does not connect: the compute nodes must reach "
            "this host; set interface (ip address) and, across subnets, scheduler-options: host"
        )
    advice = "will never start as asked" if any(s.hopeless for s in states) else "waits"
    return f"{start}: {_summary(states)}, so it {advice}; change the section or look with squeue"
