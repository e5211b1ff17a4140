"""What a batch system says of its jobs, in words that help."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

# Reasons for which SLURM never starts a job by itself: waiting would be for nothing.
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


@dataclass(frozen=True, slots=True)
class JobState:
    """One job as the queue sees it.

    Attributes
    ----------
    job_id : str
    state : str
        SLURM's word (``PENDING``, ``RUNNING``, ...).
    reason : str
        Why it is pending, in SLURM's word; ``"None"`` where there is no reason.
    """

    job_id: str
    state: str
    reason: str

    @property
    def hopeless(self) -> bool:
        """Whether it would wait for ever."""
        return self.state == "PENDING" and self.reason in _HOPELESS


def queue_command(system: str) -> str:
    """The command that lists jobs, for messages that say where to look."""
    return _QUEUE_COMMANDS.get(system, "the queue's own command")


def job_states(system: str, job_ids: list[str]) -> list[JobState] | None:
    """Ask the queue after jobs.

    Returns
    -------
    list of JobState or None
        The jobs still in the queue; those that ended are left out. None where
        the system cannot be asked (only SLURM's answer has a form that is the
        same everywhere) or does not answer at the moment.
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
    """Have SLURM check a job script without queueing it.

    Parameters
    ----------
    submit_command : str
        Only ``sbatch`` knows such a check; others pass.
    script : str
        The job script's text.

    Returns
    -------
    str or None
        The reason of the refusal, on one line; None where the job is welcome.
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
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    return "; ".join(line.removeprefix("allocation failure: ") for line in lines[-2:])
