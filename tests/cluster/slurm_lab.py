"""A real SLURM of two nodes on one machine, for as long as a test session lasts.

Two node daemons on ports of the loopback device pose as machines of four cores each.
Everything (keys, sockets, spool, logs) lies in one temporary folder, and the daemons
are children of the test process: nothing of the machine's own SLURM or munge is touched.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged")
NODES = ("n1", "n2")
_SYSTEM_PATH = "/usr/sbin:/usr/local/sbin"
_START_SECONDS = 30.0


class SlurmLabError(RuntimeError):
    """The SLURM of the tests did not come up."""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    path = os.environ["PATH"] + ":" + _SYSTEM_PATH
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


@dataclass(frozen=True)
class SlurmLab:
    """A SLURM that runs: its folder and the environment that its commands need."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.environ["PATH"] + ":" + _SYSTEM_PATH,
        }

    def run(self, *words: str, check: bool = True) -> str:
        """Run one of SLURM's commands; its output."""
        done = subprocess.run(
            words,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if check and done.returncode != 0:
            raise SlurmLabError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def jobs(self, state: str = "RUNNING", name: str | None = None) -> list[str]:
        """Ids of the jobs in a state, oldest first."""
        words = ["squeue", "--noheader", "--format=%A", "--sort=i", f"--states={state}"]
        if name is not None:
            words.append(f"--name={name}")
        return self.run(*words).split()

    def clear(self) -> None:
        """Cancel every job and wait until the nodes are free of them."""
        self.run("scancel", "--state=PENDING", "--full", f"--user={getpass.getuser()}")
        self.run("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}", check=False)
        self.run("scancel", f"--user={getpass.getuser()}")
        deadline = time.monotonic() + 40
        while self.run("squeue", "--noheader").strip():
            if time.monotonic() > deadline:
                raise SlurmLabError("jobs do not end: " + self.run("squeue"))
            time.sleep(0.2)


@contextmanager
def running_slurm() -> Iterator[SlurmLab]:
    """Start the daemons, wait for the nodes, and end them all afterwards."""
    with ExitStack() as stack:
        # Not pytest's own folder, whose mode 0700 munge takes for a misconfiguration.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-lab-")))
        folder.chmod(0o755)
        lab = SlurmLab(folder)
        _write_configuration(folder)
        logs = stack.enter_context((folder / "daemons.log").open("wb"))

        def start(*words: str) -> None:
            daemon = subprocess.Popen(
                words, env=os.environ | lab.environment, stdout=logs, stderr=logs
            )
            stack.callback(_end, daemon)

        start(
            "munged",
            "--foreground",
            f"--key-file={folder / 'munge.key'}",
            f"--socket={folder / 'munge.socket'}",
            f"--pid-file={folder / 'munged.pid'}",
            f"--log-file={folder / 'munged.log'}",
            f"--seed-file={folder / 'munged.seed'}",
        )
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        _wait(lambda: _idle_nodes(lab) == len(NODES), folder)
        yield lab


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _idle_nodes(lab: SlurmLab) -> int:
    return int(lab.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() or 0)


def _wait(ready, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            log = (folder / "daemons.log").read_text(errors="replace")[-2000:]
            raise SlurmLabError(f"SLURM did not come up within {_START_SECONDS:.0f} s: {log}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_configuration(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    user = getpass.getuser()
    controller, *ports = _free_ports(1 + len(NODES))
    settings = {
        "ClusterName": "tests",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge.socket'}",
        "CryptoType": "crypto/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool.%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.%n.pid",
        # No cgroups in a container: processes are found by their parents.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        # Believe the sizes given below, not the machine's.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        # A test does not wait the minute that a real queue takes to look again.
        "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
        "MinJobAge": 30,
        "KillWait": 2,
        "JobRequeue": 1,
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    for node, port in zip(NODES, ports, strict=True):
        (folder / f"spool.{node}").mkdir()
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=4 RealMemory=16000 State=UNKNOWN"
        )
    lines.append(f"PartitionName=normal Nodes={','.join(NODES)} Default=YES State=UP")
    lines.append(f"PartitionName=short Nodes={NODES[0]} MaxTime=1 State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
