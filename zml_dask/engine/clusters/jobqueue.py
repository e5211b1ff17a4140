"""Workers as jobs of a batch system, through dask-jobqueue.

dask-jobqueue writes and submits the jobs of seven batch systems. What a build of
days needs beyond that is here: encryption by default, workers that leave before
their walltime and are replaced, jobs that died unseen submitted again, and an
error that says what the queue says where no worker ever starts.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import dask
import distributed
from dask.utils import format_bytes, parse_bytes
from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from zml_dask.engine.clusters.cluster_options import ClusterOptions, report_dashboard
from zml_dask.engine.clusters.queue import await_first_job, job_states, refusal_of
from zml_dask.engine.clusters.sections import OLD_NAMES, setting_names
from zml_dask.engine.clusters.settings import ResolvedSection, exported_settings, resolve
from zml_dask.engine.clusters.tls import Security
from zml_dask.errors import ClusterError, UsageError


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep an import from setting handlers of signals.

    dask_jobqueue sets one by which Ctrl-C ends the process as if all were done, and which
    makes its import fail outside of the main thread.
    """
    setter = signal.signal
    signal.signal = lambda *_: None
    try:
        yield
    finally:
        signal.signal = setter


with _signals_kept():
    import dask_jobqueue

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

# Python and its libraries take 260 MiB; in less, a worker is killed while it starts.
_LEAST_MEMORY: Final = 200 * 2**20
_DEFAULT_NAME: Final = "dask-worker"

_RESUBMIT_SECONDS: Final = 30.0

# A tenth of the walltime, within bounds: enough for a slow start (modules on a
# shared disk) and for handing work back, and little lost on long jobs.
_MARGIN_SHARE = 0.1
_SHORTEST_MARGIN = 10.0
_LONGEST_MARGIN = 600.0

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@contextmanager
def open_jobqueue(
    section: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    """Submit workers as jobs; see `zml_dask.engine.clusters.open_cluster`.

    Raises `UsageError` if there is no such section, or it is invalid; `ClusterError` if the batch
    system is not here, refuses the job, or never starts it.
    """
    resolved = resolve(section, options)
    section, system = resolved.name, resolved.system
    submit = CLASSES[system].job_cls.submit_command.split()[0]
    if shutil.which(submit) is None:
        raise ClusterError(
            f"{submit} is not found here: run --cluster {section} where the batch system's "
            "commands are (a login node or a job), or use --cluster local"
        )
    with ExitStack() as stack:
        cluster = stack.enter_context(_cluster(resolved, options))
        refusal = refusal_of(submit, cluster.job_script())
        if refusal:
            raise ClusterError(
                f"{submit} refuses the worker's job: {refusal} "
                f"(jobqueue.{section} in the cluster configuration)"
            )
        least, most = adapt or (workers or 1, workers or 1)
        # Also for a fixed number: adapting is what replaces workers that have left.
        cluster.adapt(minimum=max(1, least), maximum=most)
        client = stack.enter_context(distributed.Client(cluster))
        report_dashboard(client, options)
        stack.enter_context(_resubmitting(cluster, system))
        await_first_job(client, cluster, system, options)
        yield client


@contextmanager
def _cluster(
    section: ResolvedSection, options: ClusterOptions
) -> Iterator[dask_jobqueue.JobQueueCluster]:
    with ExitStack() as stack:
        security = _security(section, stack)
        # The section's options of the dashboard hold, unless the caller named an address.
        configured, ours = section["scheduler-options"] or {}, options.scheduler_options
        scheduler = {**configured, **ours} if options.dashboard else {**ours, **configured}
        config = job_settings(section, options)
        stack.enter_context(dask.config.set({f"jobqueue.{section.name}": config}))
        try:
            cluster = stack.enter_context(
                CLASSES[section.system](
                    config_name=section.name,
                    security=security,
                    scheduler_options=scheduler,
                    silence_logs=logging.CRITICAL,  # else it shows errors that our callers silence
                    **{name: config[name] for name in ("cores", "processes", "memory")},
                )
            )
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise UsageError(_one_line(section.name, error, scheduler)) from error
        stack.callback(_mark_refused, cluster)
        yield cluster


def _mark_refused(cluster: dask_jobqueue.JobQueueCluster) -> None:
    """Mark jobs that were never submitted as failed: else Dask cannot close the cluster."""
    for job in cluster.workers.values():
        if job.status == Status.created:
            job.status = Status.failed


def _security(section: ResolvedSection, stack: ExitStack) -> Security:
    """Return certificates of the configuration, else temporary ones that `stack` removes.

    Connections are always encrypted: who reaches an open scheduler can run anything as its owner.
    """
    configured = Security()
    if configured.tls_ca_file is not None:
        return configured
    parent = section["shared-temp-directory"] or Path("~/.cache/zml-dask").expanduser()
    folder = Path(parent) / "tls"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its mode is 0700, which keeps the key from other users of the shared disk.
        mine = Path(stack.enter_context(TemporaryDirectory(prefix="run-", dir=folder)))
        return Security.in_files(mine)
    except OSError as error:
        raise UsageError(
            f"no folder for the cluster's certificates at {folder} ({error.strerror}): set "
            f"jobqueue.{section.name}.shared-temp-directory to one that all nodes see"
        ) from error


def job_script(section: ResolvedSection, options: ClusterOptions) -> str:
    """Return the script that a worker's job would run; nothing is submitted."""
    config = job_settings(section, options)
    # dask-jobqueue makes the folder of the logs; to look is not to change.
    logs = Path(config["log-directory"] or ".")
    missing = [each for each in (logs, *logs.parents) if not each.exists()]
    with dask.config.set({f"jobqueue.{section.name}": config}):
        job = CLASSES[section.system].job_cls(
            scheduler="tls://DRIVER:PORT",
            name="WORKER",
            config_name=section.name,
            protocol="tls://",
            **{name: config[name] for name in ("cores", "processes", "memory")},
        )
    for folder in missing:
        folder.rmdir()
    return str(job.job_script())


def _one_line(section: str, error: Exception, scheduler: Mapping[str, Any]) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            return (
                f"--cluster {section}: port {scheduler.get('port')} of this host is in use, by "
                f"another scheduler perhaps; leave jobqueue.{section}.scheduler-options.port out "
                "for any free one"
            )
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    if "network interface" in text:
        text += f"; set jobqueue.{section}.interface (see `ip address` on a compute node)"
    return f"--cluster {section}: {text}"


def job_settings(section: ResolvedSection, options: ClusterOptions) -> dict[str, Any]:
    """Return the section's settings for dask-jobqueue, with defaults that suit a build."""
    extra = list(section["worker-extra-args"] or ())
    # Workers' own dashboards would listen on every interface of their nodes.
    if not any(word.startswith(("--dashboard", "--no-dashboard")) for word in extra):
        extra += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    walltime = parse_walltime(section["walltime"], section.system) if section["walltime"] else None
    lifetime = lifetime_within(walltime) if walltime else None
    if lifetime and not any(word.startswith("--lifetime") for word in extra):
        extra += ["--lifetime", f"{lifetime.duration}s"]
        extra += ["--lifetime-stagger", f"{lifetime.stagger}s"]
    cores = section["cores"] or 1
    name = section["name"]
    if name in (None, _DEFAULT_NAME):
        name = options.job_name or _DEFAULT_NAME
    settings = {
        "name": name,
        "cores": cores,
        "processes": section["processes"] or cores,
        "memory": section["memory"] or _DEFAULT_MEMORY,
        "local-directory": _for_the_shell(section["local-directory"] or _NODE_LOCAL),
        "worker-extra-args": extra,
        # A job begins with a configuration of its own; what it says for itself comes last.
        "job-script-prologue": [
            *exported_settings(options),
            *(section["job-script-prologue"] or ()),
        ],
        "job-directives-skip": section["job-directives-skip"] or [],
        "job-extra-directives": section["job-extra-directives"] or [],
    }
    if section.system == "htcondor":
        if not section["disk"]:
            raise UsageError(
                f"jobqueue.{section.name}.disk is not given, and HTCondor needs it: twice the "
                "largest archive (--max-archive-size), such as 10GiB"
            )
        settings["job-extra-directives"] = section["job-extra-directives"] or {}
        settings |= {n: section[n] or [] for n in ("submit-command-extra", "cancel-command-extra")}
    if section["mem"]:
        settings["mem"] = parse_bytes(section["mem"])
    if settings["processes"] > cores:
        raise UsageError(
            f"jobqueue.{section.name}.processes: {settings['processes']} workers do not share "
            f"{cores} cores, for each has one thread at least; ask for as many cores"
        )
    each = parse_bytes(settings["memory"]) / settings["processes"]
    if each < _LEAST_MEMORY:
        raise UsageError(
            f"jobqueue.{section.name}.memory: {settings['memory']} for {settings['processes']} "
            f"processes is {format_bytes(int(each))} each, and Python with its libraries takes "
            "260 MiB: give each process 512MiB or more"
        )
    unset = dict.fromkeys((*setting_names(section.system), *OLD_NAMES))
    given = {name: setting.value for name, setting in section.given.items()}
    return {**unset, **given, **settings}


def _for_the_shell(path: str) -> str:
    """Quote a path whose variables the node's own shell expands.

    One that is not set there ends the job, with its name in the job's log.
    """
    if path.startswith("~/"):
        path = "$HOME" + path[1:]
    path = re.sub(r"\$(\w+)", r"${\1:?}", path)
    return f'"{path}"' if re.search(r"\s", path) else path


@contextmanager
def _resubmitting(cluster: dask_jobqueue.JobQueueCluster, system: str) -> Iterator[None]:
    """Submit jobs again that ended before their worker ever connected.

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

    callback = PeriodicCallback(look, _RESUBMIT_SECONDS * 1000)
    cluster.loop.add_callback(callback.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(callback.stop)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long workers stay, in whole seconds.

    Each worker's time is drawn from ``duration - stagger`` to ``duration + stagger``, so that they
    do not all leave at once.
    """

    duration: int
    stagger: int


def parse_walltime(text: str, system: str = "slurm") -> float | None:
    """Return the seconds of a batch system's walltime; None for no limit or an unknown form.

    `text` is in the system's own notation: ``"2-12:00:00"``, ``"23:59:00"``, ``"90"``. Two parts
    are minutes and seconds for SLURM, but hours and minutes for LSF; a plain number is minutes for
    both, seconds elsewhere.

    Examples
    --------
    >>> parse_walltime("1-06:00:00"), parse_walltime("00:30:00", "pbs")
    (108000.0, 1800.0)
    >>> parse_walltime("02:00", "slurm"), parse_walltime("02:00", "lsf")
    (120.0, 7200.0)
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    days = int(match[1] or 0)
    parts = [int(part) for part in match.groups()[1:] if part is not None]
    units: tuple[int, ...]
    if match[1] is not None or (system == "lsf" and len(parts) > 1):
        units = (3600, 60, 1)
    elif len(parts) == 1:
        units = (60,) if system in {"slurm", "lsf"} else (1,)
    else:
        units = (3600, 60, 1)[-len(parts) :]
    return float(days * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False)))


def lifetime_within(walltime: float) -> Lifetime | None:
    """Return when workers leave before this walltime; None if it is too short.

    Examples
    --------
    >>> lifetime_within(86_400.0)
    Lifetime(duration=85320, stagger=480)
    """
    margin = min(max(_SHORTEST_MARGIN, walltime * _MARGIN_SHARE), _LONGEST_MARGIN)
    stagger = margin * 0.8
    duration = walltime - margin - stagger
    if duration < margin:
        return None
    return Lifetime(int(duration), int(stagger))
