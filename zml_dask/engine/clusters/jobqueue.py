"""Workers as jobs of a batch system, through dask-jobqueue.

dask-jobqueue writes and submits the jobs of seven batch systems. What a build of
days needs beyond that is here: encryption by default, workers that leave before
their walltime and are replaced, jobs that died unseen submitted again, and an
error that says what the queue says where no worker ever starts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from socket import gethostname
from typing import Any, Final, cast

import dask
import dask_jobqueue
import distributed
from tornado.ioloop import PeriodicCallback

from zml_dask.engine.clusters.certificates import security_of
from zml_dask.engine.clusters.configuration import exported_settings
from zml_dask.engine.clusters.options import (
    ClusterOptionError,
    ClusterOptions,
    ClusterUnavailableError,
)
from zml_dask.engine.clusters.queue import job_states, refusal_of
from zml_dask.engine.clusters.waiting import await_first_job
from zml_dask.engine.clusters.walltime import lifetime_within, parse_walltime

CLASSES: Final[Mapping[str, type[dask_jobqueue.JobQueueCluster]]] = {
    "slurm": dask_jobqueue.SLURMCluster,
    "pbs": dask_jobqueue.PBSCluster,
    "sge": dask_jobqueue.SGECluster,
    "lsf": dask_jobqueue.LSFCluster,
    "moab": dask_jobqueue.MoabCluster,
    "oar": dask_jobqueue.OARCluster,
    "htcondor": dask_jobqueue.HTCondorCluster,
}
"""Batch system -> dask-jobqueue's class for it."""

# Where a section says nothing: one process of one thread a job, so that jobs fit
# into any gap of the cluster and a dead one costs one record.
_DEFAULT_MEMORY: Final = "4GiB"
_NODE_LOCAL: Final = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"

_KEEPER_SECONDS: Final = 30.0


def system_of(section: str) -> str:
    """Batch system of a section: ``slurm``, and also ``slurm-highmem``.

    Raises
    ------
    ClusterOptionError
        Where there is no such section or its name begins with no known system.
    """
    system = section.partition("-")[0]
    sections = dask.config.get("jobqueue", {})
    if system not in CLASSES or section not in sections:
        known = ", ".join(sorted(name for name in sections if name.partition("-")[0] in CLASSES))
        raise ClusterOptionError(
            f"--cluster {section!r} is not known: give local, {known}, "
            "tcp://HOST:PORT, tls://HOST:PORT, or the path of a scheduler file"
        )
    return system


@contextmanager
def open_jobqueue(
    section: str,
    workers: int | None,
    adapt: tuple[int, int] | None,
    options: ClusterOptions,
) -> Iterator[distributed.Client]:
    """Submit workers as jobs; see `zml_dask.engine.clusters.open_cluster`.

    Raises
    ------
    ClusterOptionError
        If there is no such section, or it cannot be.
    ClusterUnavailableError
        If the batch system is not here, refuses the job, or never starts it.
    """
    system = system_of(section)
    submit = CLASSES[system].job_cls.submit_command.split()[0]
    if shutil.which(submit) is None:
        raise ClusterUnavailableError(
            f"{submit} is not found here: run --cluster {section} where the batch system's "
            "commands are (a login node or a job), or use --cluster local"
        )
    with ExitStack() as stack:
        stack.enter_context(_inheriting(section, system))
        cluster = stack.enter_context(_cluster(section, system, options))
        refusal = refusal_of(submit, cluster.job_script())
        if refusal:
            raise ClusterUnavailableError(
                f"{submit} refuses the worker's job: {refusal} "
                f"(jobqueue.{section} in the cluster configuration)"
            )
        least, most = adapt or (workers or 1, workers or 1)
        # Also for a fixed number: adapting is what replaces workers that have left.
        cluster.adapt(minimum=max(1, least), maximum=most)
        client = stack.enter_context(distributed.Client(cluster))
        if options.dashboard != "off" and find_spec("bokeh") is not None:
            options.say(f"dashboard: {client.dashboard_link} (on {gethostname()})")
        stack.enter_context(_keeper(cluster, system))
        await_first_job(client, cluster, system, options)
        yield client


def _inheriting(section: str, system: str) -> AbstractContextManager[object]:
    """A section of the user's own takes what it leaves out from its system's section."""
    settings = dask.config.get("jobqueue")
    whole: object = dask.config.set(
        {f"jobqueue.{section}": {**settings[system], **(settings[section] or {})}}
    )
    return cast("AbstractContextManager[object]", whole)


@contextmanager
def _cluster(
    section: str, system: str, options: ClusterOptions
) -> Iterator[dask_jobqueue.JobQueueCluster]:
    with ExitStack() as stack:
        security = security_of(section, options, stack)
        scheduler = options.scheduler_options
        if options.dashboard is None:
            # What the section says of the dashboard holds, unless the caller spoke.
            scheduler.update(dask.config.get(f"jobqueue.{section}.scheduler-options", None) or {})
        try:
            cluster = stack.enter_context(
                CLASSES[system](
                    config_name=section,
                    security=security,
                    scheduler_options=scheduler,
                    **_job_options(section, system),
                )
            )
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise ClusterOptionError(_one_line(section, error)) from error
        yield cluster


def _one_line(section: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "network interface" in text:
        text += f"; set jobqueue.{section}.interface (see `ip address` on a compute node)"
    return f"--cluster {section}: {text}"


def _job_options(section: str, system: str) -> dict[str, Any]:
    """What the section leaves open, filled with what suits a build."""

    def said(name: str) -> Any:
        return dask.config.get(f"jobqueue.{section}.{name}", None)

    extra = [str(word) for word in said("worker-extra-args") or ()]
    # Workers' own dashboards would listen on every interface of their nodes.
    if not any(word.startswith(("--dashboard", "--no-dashboard")) for word in extra):
        extra += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    walltime = parse_walltime(str(said("walltime")), system) if said("walltime") else None
    lifetime = lifetime_within(walltime) if walltime else None
    if lifetime and not any(word.startswith("--lifetime") for word in extra):
        extra += ["--lifetime", f"{lifetime.duration}s"]
        extra += ["--lifetime-stagger", f"{lifetime.stagger}s"]
    cores = said("cores") or 1
    return {
        "cores": cores,
        "processes": said("processes") or cores,
        "memory": said("memory") or _DEFAULT_MEMORY,
        "local_directory": said("local-directory") or _NODE_LOCAL,
        "worker_extra_args": extra,
        # A job begins with a configuration of its own; what it says for itself comes last.
        "job_script_prologue": [*exported_settings(), *(said("job-script-prologue") or ())],
    }


@contextmanager
def _keeper(cluster: dask_jobqueue.JobQueueCluster, system: str) -> Iterator[None]:
    """Have jobs that ended before their worker ever connected submitted again.

    Dask notices workers that leave; a job cancelled or broken in the queue never
    was one, and would be waited for until the end of the build.
    """
    missed: set[str] = set()

    async def look() -> None:
        awaited = {
            name: job.job_id
            for name, job in cluster.workers.items()
            if job.job_id is not None and name not in cluster.observed
        }
        states = await cluster.loop.run_in_executor(
            None, job_states, system, list(awaited.values())
        )
        if states is None:
            return
        queued = {state.job_id for state in states}
        gone = {name for name, job_id in awaited.items() if job_id not in queued}
        # Twice in a row: a worker that has just left is Dask's to replace.
        for name in gone & missed:
            cluster.workers.pop(name, None)
        missed.clear()
        missed.update(gone)

    callback = PeriodicCallback(look, _KEEPER_SECONDS * 1000)
    cluster.loop.add_callback(callback.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(callback.stop)
