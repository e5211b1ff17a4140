"""A real SLURM of four nodes on one machine, for as long as a test session lasts.

It is as sites have it: partitions of which one preempts the other's jobs, a database of
accounts and limits, and, where the machine allows it, control groups that track what a job
starts and hold it to the memory it asked for. Node daemons on ports of the loopback device pose
as machines of two cores each. Everything (keys, sockets, database, spool, logs) lies in one
temporary folder, and the daemons are children of the test process: nothing of the machine's own
SLURM or munge is touched.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sacctmgr"),
    "slurmdbd": ("slurmdbd",),
    "munge": ("munged",),
    "mariadb-server-core": ("mariadbd",),
}
NODES = ("n1", "n2", "n3", "n4")
CORES = 2
"""Of each node, to SLURM; they share the machine's real ones."""

ACCOUNT = "science"
_SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
_CGROUPS = Path("/sys/fs/cgroup")
_KINDS = ("freezer", "memory")
_SYSTEM_PATH = "/usr/sbin:/usr/local/sbin"
_SECONDS = 500.0  # at most, for anything: a busy machine is slow


class SlurmLabError(RuntimeError):
    """The SLURM of the tests did not come up."""


def missing_programs() -> str | None:
    """What is not installed, and how to install it; None where all is there."""
    path = os.environ["PATH"] + ":" + _SYSTEM_PATH
    packages = [
        package
        for package, programs in PROGRAMS.items()
        if any(shutil.which(program, path=path) is None for program in programs)
    ]
    if not packages:
        return None
    return f"SLURM is not installed whole: apt-get install {' '.join(packages)}"


def has_cgroups() -> bool:
    """Whether control groups of the first version, which need no systemd, may be made here."""
    return all(
        os.access(_CGROUPS / each, os.W_OK) and (_CGROUPS / each / "cgroup.procs").exists()
        for each in _KINDS
    )


@dataclass(frozen=True)
class SlurmLab:
    """A SLURM that runs: its folder and the environment that its commands need."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.environ["PATH"] + ":" + _SYSTEM_PATH,
        }

    def run(self, *words: str, check: bool = True, given: str | None = None) -> str:
        """Run one of SLURM's commands; its output."""
        done = subprocess.run(
            words,
            input=given,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if check and done.returncode != 0:
            raise SlurmLabError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self, state: str = "RUNNING", name: str | None = None) -> list[str]:
        """Ids of the jobs in a state, oldest first."""
        words = ["squeue", "--noheader", "--format=%A", "--sort=i", f"--states={state}"]
        if name is not None:
            words.append(f"--name={name}")
        return self.run(*words).split()

    def node_of(self, job: str) -> str:
        """The node on which a job runs."""
        return self.run("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()

    def kill_job(self) -> bool:
        """Kill everything that the oldest job runs; False where no job could be killed."""
        for job in self.jobs():
            with suppress(SlurmLabError):  # it ended by itself meanwhile
                self.run("scancel", "--signal=KILL", "--full", job)
                return True
        return False

    def update(self, nodes: str, state: str) -> None:
        """Set the state of nodes, as an administrator would or SLURM itself does."""
        words = ["reason=test"] if state in {"down", "drain"} else []
        self.run("scontrol", "update", f"nodename={nodes}", f"state={state}", *words)

    def daemon(self, *words: str, **environment: str) -> None:
        """Start a daemon; it is ended with the lab."""
        log = (self.folder / "daemons.log").open("ab")
        variables = os.environ | self.environment | environment
        process = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
        log.close()
        self.stack.callback(_end, process)

    def start_node(self, node: str) -> None:
        # What a node runs is known by this variable, which SLURM sets for jobs too.
        self.daemon("slurmd", "-D", "-N", node, SLURMD_NODENAME=node)

    def kill_node(self, node: str) -> None:
        """End everything on a node at once, as when its power fails; then SLURM finds out."""
        ours = {"SLURMD_NODENAME": node, "SLURM_CONF": self.environment["SLURM_CONF"]}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if ours.items() <= process.environ().items():
                    process.kill()
        self.update(node, "down")

    @contextmanager
    def without(self, node: str) -> Iterator[None]:
        """Have a node die; afterwards it is started again."""
        self.kill_node(node)
        try:
            yield
        finally:
            self.clear()
            self.start_node(node)
            self.update(node, "resume")
            self.wait(self.idle, "the node is back")

    def clear(self) -> None:
        """Cancel every job and wait until the nodes are free of them."""
        user = f"--user={getpass.getuser()}"
        self.run("scancel", "--state=PENDING", "--full", user)
        self.run("scancel", "--signal=KILL", "--full", user, check=False)
        self.run("scancel", user)
        self.wait(lambda: not self.run("squeue", "--noheader").strip(), "jobs end")

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not ready():
            if time.monotonic() > deadline:
                logs = sorted(self.folder.glob("*.log"))
                said = "\n".join(log.read_text(errors="replace")[-2000:] for log in logs)
                raise SlurmLabError(f"not within {_SECONDS:.0f} s: {what}\n{said}")
            time.sleep(0.1)

    def idle(self) -> bool:
        """Whether all nodes are up and free."""
        words = ("sinfo", "--noheader", "--states=idle", "--partition=normal", "--format=%D")
        return self.run(*words, check=False).strip() == str(len(NODES))


@contextmanager
def running_slurm() -> Iterator[SlurmLab]:
    """Start the daemons, wait for the nodes, and end them all afterwards."""
    # Not pytest's own folder, whose mode 0700 munge takes for a misconfiguration.
    with tempfile.TemporaryDirectory(prefix="slurm-lab-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        lab = SlurmLab(folder)
        with lab.stack:
            lab.stack.callback(_remove_control_groups)
            _write_configuration(folder)
            _start_munge(lab)
            _start_accounting(lab)
            lab.daemon("slurmctld", "-D")
            for node in NODES:
                lab.start_node(node)
            lab.wait(lab.idle, "the nodes are idle")
            yield lab


def _start_munge(lab: SlurmLab) -> None:
    folder = lab.folder
    lab.daemon(
        "munged",
        "--foreground",
        f"--key-file={folder / 'munge.key'}",
        f"--socket={folder / 'munge.socket'}",
        f"--pid-file={folder / 'munged.pid'}",
        f"--log-file={folder / 'munged.log'}",
        f"--seed-file={folder / 'munged.seed'}",
    )
    lab.wait((folder / "munge.socket").exists, "munge")


def _start_accounting(lab: SlurmLab) -> None:
    """A database, SLURM's daemon for it, and accounts and limits in it."""
    database = lab.folder / "database"
    database.mkdir()
    server = [
        "mariadbd",
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={database}",
        # Nobody else reaches its socket, so that it need not know users.
        f"--socket={database / 'socket'}",
        f"--pid-file={database / 'pid'}",
        "--skip-networking",
        "--skip-grant-tables",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=4M",
        "--innodb-flush-log-at-trx-commit=0",
    ]
    # The tables of its own that stored procedures need, and no more.
    tables = "create database mysql;\nuse mysql;\n" + _SYSTEM_TABLES.read_text()
    lab.run(*server, "--bootstrap", given=tables)
    database.chmod(0o700)
    lab.daemon(*server)
    lab.wait((database / "socket").exists, "the database")
    lab.daemon("slurmdbd", "-D", MYSQL_UNIX_PORT=str(database / "socket"))
    add = ("sacctmgr", "--immediate", "add")
    lab.wait(lambda: "Cluster" in lab.run("sacctmgr", "show", "cluster", check=False), "slurmdbd")
    lab.run(*add, "cluster", "tests")
    lab.run(*add, "account", ACCOUNT)
    # One job at a time; and jobs of five minutes at most, which longer ones wait for in vain.
    lab.run(*add, "qos", "single", "set", "MaxJobsPerUser=1")
    lab.run(*add, "qos", "brief", "set", "MaxWall=5")
    lab.run(
        *add,
        "user",
        getpass.getuser(),
        f"account={ACCOUNT}",
        f"defaultaccount={ACCOUNT}",
        "qos=normal,single,brief",
    )


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _remove_control_groups() -> None:
    """Those of our nodes, which SLURM leaves behind."""
    for top in (_CGROUPS / kind / f"slurm_{node}" for kind in _KINDS for node in NODES):
        groups = [path for path in top.rglob("*") if path.is_dir()]
        for group in [*sorted(groups, reverse=True), top]:  # the innermost first
            with suppress(OSError):
                group.rmdir()


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
    controller, accounting, *ports = _free_ports(2 + len(NODES))
    munge = {"AuthType": "auth/munge", "AuthInfo": f"socket={folder / 'munge.socket'}"}
    processes = {
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectTypeParameters": "CR_Core",
    }
    if has_cgroups():
        processes = {
            "ProctrackType": "proctrack/cgroup",
            "TaskPlugin": "task/cgroup",
            "SelectTypeParameters": "CR_Core_Memory",
        }
        control = {
            "CgroupPlugin": "cgroup/v1",
            "CgroupMountpoint": _CGROUPS,
            "ConstrainRAMSpace": "yes",
        }
        _write(folder / "cgroup.conf", control)
    settings = {
        "ClusterName": "tests",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmUser": user,
        "SlurmdUser": user,
        **munge,
        "CryptoType": "crypto/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool.%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.%n.pid",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": accounting,
        "AccountingStoragePass": folder / "munge.socket",  # where to ask munge, for the database
        "AccountingStorageEnforce": "limits,qos",
        **processes,
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "DefMemPerCPU": 500,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        # Believe the sizes given below, not the machine's.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        # A test does not wait the minute that a real queue takes to look again.
        "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
        "MinJobAge": 30,
        "KillWait": 2,
        "JobRequeue": 1,
    }
    _write(folder / "slurm.conf", settings)
    lines = []
    for node, port in zip(NODES, ports, strict=True):
        (folder / f"spool.{node}").mkdir()
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={CORES} RealMemory=16000 State=UNKNOWN"
        )
    everywhere = f"Nodes={','.join(NODES)} State=UP"
    lines.append(f"PartitionName=normal {everywhere} Default=YES PriorityTier=1")
    lines.append(f"PartitionName=urgent {everywhere} PriorityTier=2 PreemptMode=OFF")
    lines.append(f"PartitionName=short Nodes={NODES[0]} MaxTime=1 State=UP")
    lines.append(f"PartitionName=closed Nodes={NODES[0]} AllowAccounts=others State=UP")
    with (folder / "slurm.conf").open("a") as file:
        file.write("\n".join(lines) + "\n")
    database = {
        **munge,
        "DbdHost": "localhost",
        "DbdPort": accounting,
        "SlurmUser": user,
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": user,
        "PidFile": folder / "slurmdbd.pid",
    }
    _write(folder / "slurmdbd.conf", database)
    (folder / "slurmdbd.conf").chmod(0o600)


def _write(path: Path, settings: dict[str, object]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
