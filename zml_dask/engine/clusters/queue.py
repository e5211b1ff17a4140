"""The state of a batch system's jobs, and the wait for the first of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import distributed

from zml_dask.engine.clusters.cluster_options import ClusterOptions
from zml_dask.errors import ClusterError

if TYPE_CHECKING:
    # For its name alone: a laptop's build need not load it.
    import dask_jobqueue

# Reasons for which SLURM never starts a job by itself. Of a partition that is not for everyone, it
# says in words: "Job's account not permitted to use this partition (gpu allows physics not bio)".
_HOPELESS: Final = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "JobHeldAdmin",
        "JobHeldUser",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "AssocMaxWallDurationPerJobLimit",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
    }
)
_NOT_PERMITTED: Final = "not permitted to use this partition"

_QUEUE_COMMANDS: Final = {
    "slurm": "squeue",
    "pbs": "qstat",
    "sge": "qstat",
    "moab": "showq",
    "lsf": "bjobs",
    "oar": "oarstat",
    "htcondor": "condor_q",
}
_PATIENCE = 30.0
_UNAVAILABLE: Final = "Requested node configuration is not available"

_POLL_SECONDS: Final = 1.0
_SAY_SECONDS: Final = 60.0
# The first time, for somebody who looks at the terminal.
_SAY_FIRST_SECONDS: Final = 5.0
# Once its job runs, a worker needs this long at most to import and to connect.
_RUNNING_PATIENCE: Final = 300.0
_UNKNOWN_QUEUE_PATIENCE: Final = 3600.0


@dataclass(frozen=True, slots=True)
class JobState:
    """A job, its state (``PENDING``, ``RUNNING``, ...), and the reason why it is pending.

    Both are SLURM's words; the reason is ``"None"`` where there is none.
    """

    job_id: str
    state: str
    reason: str

    @property
    def hopeless(self) -> bool:
        """Whether it would wait forever."""
        return self.state == "PENDING" and (
            self.reason in _HOPELESS or _NOT_PERMITTED in self.reason
        )


def job_states(system: str, job_ids: list[str]) -> list[JobState] | None:
    """Ask the batch system for jobs by their ids; those that have ended are left out.

    Returns None where it cannot be asked (only SLURM's answer has a form that is the same
    everywhere) or does not answer at the moment.
    """
    if system != "slurm" or not job_ids or shutil.which("squeue") is None:
        return None
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--format=%A|%T|%r", "--jobs=" + ",".join(job_ids)],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode != 0:
        # SLURM forgets ended jobs, and then calls a lone forgotten id an error.
        return [] if "Invalid job id" in answer.stderr else None
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
    return [JobState(*row) for row in rows if len(row) == 3 and row[1] not in ended]


def refusal_of(submit_command: str, script: str) -> str | None:
    """Have SLURM check a job script without queueing it; return the reason of a refusal.

    Returns None where the job is accepted. Only ``sbatch`` knows such a check; others pass.
    """
    if submit_command != "sbatch":
        return None
    try:
        answer = subprocess.run(
            ["sbatch", "--test-only"],
            input=script,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"sbatch does not answer within {_PATIENCE:.0f} s; is the SLURM controller up?"
    if answer.returncode == 0:
        return None
    refusal = _last_lines(answer.stderr)
    if _UNAVAILABLE in refusal:
        # The check says this also while the nodes are drained or down; submitted, the
        # job would wait for them. Only sbatch itself knows which it is.
        refusal = _refusal_of_probe(script)
    return refusal or None


def _refusal_of_probe(script: str) -> str:
    """Submit a job with the script's directives that does nothing, and cancel it."""
    directives = [line for line in script.splitlines() if line.startswith(("#!", "#SBATCH"))]
    options = ["--parsable", "--output=/dev/null", "--error=/dev/null", "--mail-type=NONE"]
    answer = subprocess.run(
        ["sbatch", *options],
        input="\n".join([*directives, "exit 0", ""]),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if answer.returncode != 0:
        return _last_lines(answer.stderr)
    job_id = answer.stdout.split(";")[0].strip()
    subprocess.run(["scancel", job_id], capture_output=True, timeout=_PATIENCE, check=False)
    return ""


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    known = ("allocation failure: ", "sbatch: error: ")
    for prefix in known:
        lines = [line.removeprefix(prefix) for line in lines]
    return "; ".join(lines[-2:])


def await_first_job(
    client: distributed.Client,
    cluster: dask_jobqueue.JobQueueCluster,
    system: str,
    options: ClusterOptions,
) -> None:
    """Wait for the worker of a queued job while one can come, and report why it waits.

    Raises `ClusterError` where the batch system says that none will come, or none came within
    `options.start_timeout`.
    """
    began = time.monotonic()
    say_at = began + min(_SAY_FIRST_SECONDS, _SAY_SECONDS)
    submitted: float | None = None
    running_since: float | None = None
    while not client.scheduler_info(n_workers=0)["n_workers"]:
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        job_ids = [str(job.job_id) for job in cluster.workers.values() if job.job_id]
        states = job_states(system, job_ids)
        if submitted is None:
            if not job_ids:
                _submit_again(cluster)
                continue
            submitted = now
        limit = options.start_timeout or (_UNKNOWN_QUEUE_PATIENCE if states is None else None)
        if limit is not None and now - submitted > limit:
            raise ClusterError(_hint(system, states, now - began))
        if states is not None:
            if any(state.hopeless for state in states) or not states:
                raise ClusterError(_hint(system, states, now - began))
            running = any(state.state == "RUNNING" for state in states)
            running_since = (running_since or now) if running else None
            if running_since is not None and now - running_since > _RUNNING_PATIENCE:
                raise ClusterError(_hint(system, states, now - began))
        if now > say_at and not running_since:
            say_at = now + _SAY_SECONDS
            asked = f"{_QUEUE_COMMANDS[system]} says how job {job_ids[0]} is"
            options.say(f"waiting for workers: {_summary(states) if states else asked}")


def _submit_again(cluster: dask_jobqueue.JobQueueCluster) -> None:
    """Submit a job that Dask could not, and would wait for without a word.

    Raises `ClusterError`, with what the batch system says, if it is refused again.
    """
    for job in list(cluster.workers.values())[:1]:
        try:
            cluster.sync(job.start)
        except (RuntimeError, ValueError, OSError) as error:
            command = job.submit_command.split()[0]
            refusal = _last_lines(str(error).rpartition("stderr:")[2])
            raise ClusterError(f"{command} refuses the worker's job: {refusal}") from error


def _summary(states: list[JobState]) -> str:
    first = states[0]
    reason = "" if first.reason in {"None", ""} else f" ({first.reason})"
    others = f", the first of {len(states)}," if len(states) > 1 else ""
    return f"job {first.job_id}{others} is {first.state}{reason}"


def _hint(system: str, states: list[JobState] | None, seconds: float) -> str:
    start = f"no worker arrived within {seconds:.0f} s"
    if states is None:
        return f"{start}; {_QUEUE_COMMANDS[system]} and the job's log say why"
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
