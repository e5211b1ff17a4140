"""Workers as jobs of a real SLURM."""

from __future__ import annotations

import getpass
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import dask
import pytest
import yaml
from distributed import Client

from zml_dask.engine.activity import worker_folder
from zml_dask.engine.clusters import ClusterOptions, job_name_of, open_cluster
from zml_dask.errors import ClusterError, UsageError

from .conftest import write_config
from .runs import need, until
from .slurm_lab import ACCOUNT, NODES, SlurmLab, has_cgroups

pytestmark = pytest.mark.slurm


def _job_of_worker() -> str:
    return os.environ["SLURM_JOB_ID"]


def _settings_of_worker() -> tuple[bool, str]:
    memory = "distributed.worker.memory.spill"
    return dask.config.get(memory), dask.config.get("distributed.worker.profile.interval")


def test_workers_are_jobs_that_speak_tls(slurm: SlurmLab, slurm_config: Path) -> None:
    with open_cluster("slurm", 2, options=ClusterOptions(config=slurm_config)) as client:
        client.wait_for_workers(2)
        assert client.scheduler.address.startswith("tls://")
        jobs = client.run(_job_of_worker)
        assert all(address.startswith("tls://") for address in jobs)
        assert sorted(jobs.values()) == sorted(slurm.jobs())
        with pytest.raises(OSError, match=r"reset|timed out"):
            Client(client.scheduler.address.replace("tls://", "tcp://"), timeout="2s")
        keys = list((slurm_config.parent / "shared").rglob("*.key"))
        assert len(keys) == 1
        assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
        assert stat.S_IMODE(keys[0].parent.stat().st_mode) == 0o700
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        script = client.cluster.job_script()
        assert "--lifetime 984s --lifetime-stagger 96s" in script  # of a walltime of 20 min
        assert "--no-dashboard" in script
        settings = client.run(_settings_of_worker).values()
        assert list(settings) == [(False, "100ms")] * 2  # the driver's, not Dask's own
    assert not list((slurm_config.parent / "shared").rglob("*.key"))
    until(lambda: not slurm.jobs(), "the workers' jobs are cancelled")


def test_killed_and_cancelled_jobs_are_replaced_and_their_scratch_removed(
    slurm: SlurmLab, slurm_config: Path
) -> None:
    scratch = slurm_config.parent / "scratch"
    with open_cluster("slurm", 1, options=ClusterOptions(config=slurm_config)) as client:
        left = client.submit(_leave_a_file).result()
        assert left.is_relative_to(scratch)
        first = slurm.jobs()[0]
        slurm.run("scancel", "--signal=KILL", "--full", first)
        until(lambda: first not in slurm.jobs() and bool(slurm.jobs()), "another job runs")
        assert client.submit(os.getpid, pure=False).result()
        until(lambda: not left.exists(), "the dead worker's scratch is removed")


def _leave_a_file() -> Path:
    folder = worker_folder()
    assert folder is not None
    path = folder / "archive.zip"
    path.write_bytes(b"PK")
    return path


def test_a_section_of_ones_own_inherits_from_its_system(slurm: SlurmLab, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    settings = yaml.safe_load(path.read_text())
    settings["jobqueue"]["slurm-highmem"] = {"memory": "2GiB"}
    path.write_text(yaml.safe_dump(settings))
    with open_cluster("slurm-highmem", 1, options=ClusterOptions(config=path)) as client:
        (worker,) = client.scheduler_info()["workers"].values()
        assert worker["memory_limit"] == 2 * 2**30
        assert client.scheduler.address.startswith("tls://")


def _setting_of_worker() -> float:
    return dask.config.get("distributed.worker.memory.terminate")


def test_a_job_is_what_the_file_says(slurm: SlurmLab, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    text = path.read_text().replace('"00:20:00"', "2:00:00")
    path.write_text(text.replace("  deploy:", "  worker: {memory: {terminate: 0.99}}\n  deploy:"))
    options = ClusterOptions(config=path, job_name=job_name_of("/data/zenodo-ml"))
    with open_cluster("slurm", 1, options=options) as client:
        (job,) = slurm.jobs(name=f"zml-zenodo-ml-{getpass.getuser()}")
        assert "TimeLimit=02:00:00" in slurm.run("scontrol", "show", "job", job)
        assert list(client.run(_setting_of_worker).values()) == [0.99]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queue": "nowhere"}, ClusterError, r"sbatch refuses.*invalid partition"),
        ({"account": "nowhere"}, ClusterError, r"sbatch refuses.*[Ii]nvalid account"),
        ({"job-extra-directives": ["--qos=nowhere"]}, ClusterError, r"refuses.*[Ii]nvalid qos"),
        (
            {"job-extra-directives": ["--qos=brief"]},  # which takes no twenty minutes
            ClusterError,
            r"QOSMaxWallDurationPerJobLimit.*will never start as asked",
        ),
        ({"interface": "ib9"}, UsageError, r"ib9.*jobqueue\.slurm\.interface"),
        ({"memory": "900GiB"}, ClusterError, r"sbatch refuses"),
        (
            {"shared-temp-directory": "/proc/nowhere"},
            UsageError,
            r"certificates.*shared-temp-directory",
        ),
        ({"python": "/nowhere/python"}, ClusterError, r"job has ended.*log"),
        (
            {"queue": "short", "walltime": "00:05:00"},
            ClusterError,
            r"PartitionTimeLimit|refuses",
        ),
        ({"queue": "closed"}, ClusterError, r"not permitted.*will never start as asked"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    slurm: SlurmLab,
    tmp_path: Path,
    change: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    path = write_config(tmp_path)
    settings = yaml.safe_load(path.read_text())
    settings["jobqueue"]["slurm"] |= change
    path.write_text(yaml.safe_dump(settings))
    options = ClusterOptions(config=path)
    with pytest.raises(error, match=message) as raised, open_cluster("slurm", 1, None, options):
        pass
    assert "\n" not in str(raised.value)


def test_a_full_cluster_is_waited_for_and_said_why(
    slurm: SlurmLab, slurm_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.engine.clusters.queue._SAY_SECONDS", 0.0)
    said: list[str] = []
    script = slurm_config.parent / "busy.sh"
    script.write_text("#!/bin/sh\nsleep 300\n")
    for _ in range(8):
        slurm.run("sbatch", "--output=/dev/null", "--cpus-per-task=1", str(script))
    until(lambda: len(slurm.jobs()) == 8, "every core is taken")
    options = ClusterOptions(config=slurm_config, start_timeout=5, say=said.append)
    with (
        pytest.raises(ClusterError, match=r"no worker arrived.*PENDING.*squeue"),
        open_cluster("slurm", 1, None, options),
    ):
        pass
    assert any("waiting for workers" in line and "PENDING" in line for line in said)


def test_workers_within_the_limits_of_an_account_are_used(slurm: SlurmLab, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    text = path.read_text().replace("cores: 1", f"cores: 1\n    account: {ACCOUNT}")
    path.write_text(text.replace("cores: 1", 'job-extra-directives: ["--qos=single"]'))
    with open_cluster("slurm", 3, options=ClusterOptions(config=path)) as client:
        (running,) = client.run(_job_of_worker).values()
        until(lambda: len(slurm.jobs("PENDING")) == 2, "the others wait")
        assert slurm.jobs() == [running]
        assert f"Account={ACCOUNT} QOS=single" in slurm.run("scontrol", "show", "job", running)
        reasons = slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%r").split()
        assert set(reasons) <= {"QOSMaxJobsPerUserLimit", "Priority", "None"}
        slurm.run("scancel", running)
        until(
            lambda: client.submit(_job_of_worker, pure=False).result() != running,
            "the next takes its place",
        )


def test_a_maintenance_that_comes_too_soon_is_waited_for_and_said(
    slurm: SlurmLab, slurm_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "PENDING" in line:  # it may be said again when it is over
            slurm.run("scontrol", "delete", "ReservationName=maintenance", check=False)

    monkeypatch.setattr("zml_dask.engine.clusters.queue._SAY_SECONDS", 0.0)
    slurm.run(
        "scontrol",
        "create",
        "reservation",
        "ReservationName=maintenance",
        "StartTime=now+10minutes",  # jobs ask for twenty
        "Duration=60",
        "Nodes=ALL",
        "Users=root",
        "Flags=MAINT",
    )
    try:
        with open_cluster("slurm", 1, None, ClusterOptions(config=slurm_config, say=say)) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    finally:
        slurm.run("scontrol", "delete", "ReservationName=maintenance", check=False)
    assert any("maintenance" in line for line in said)


def test_memory_beyond_what_the_job_asked_for_is_refused_by_its_control_group(
    slurm: SlurmLab, tmp_path: Path
) -> None:
    need(None if has_cgroups() else "no control groups of the first version in /sys/fs/cgroup")
    log = tmp_path / "log"
    hoard = f"{sys.executable} -c 'x = bytearray(200_000_000); print(len(x))'"
    words = ("--wait", "--mem=100M", f"--output={log}", f"--wrap={hoard}")
    slurm.run("sbatch", *words, check=False)
    assert "oom-kill" in log.read_text()


def test_a_port_that_is_in_use_is_named(slurm: SlurmLab, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        path.write_text(
            path.read_text().replace("cores: 1", f"scheduler-options: {{port: {port}}}")
        )
        with (
            pytest.raises(UsageError, match=f"port {port} of this host is in use") as raised,
            open_cluster("slurm", 1, options=ClusterOptions(config=path)),
        ):
            pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", ["drain", "down"])
def test_nodes_that_come_back_are_waited_for(
    slurm: SlurmLab, slurm_config: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    nodes = f"nodename={','.join(NODES)}"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "PENDING" in line:  # it may be said again when they are back already
            slurm.run("scontrol", "update", nodes, "state=resume", check=False)

    monkeypatch.setattr("zml_dask.engine.clusters.queue._SAY_SECONDS", 0.0)
    slurm.run("scontrol", "update", nodes, f"state={state}", "reason=maintenance")
    try:
        with open_cluster(
            "slurm", 1, options=ClusterOptions(config=slurm_config, say=say)
        ) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    finally:
        slurm.run("scontrol", "update", nodes, "state=resume", check=False)
    assert any("waiting for workers" in line for line in said)


def test_a_job_that_no_node_can_take_is_refused_while_nodes_are_down(
    slurm: SlurmLab, tmp_path: Path
) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("memory: 1GiB", "memory: 900GiB"))
    slurm.run("scontrol", "update", f"nodename={NODES[0]}", "state=drain", "reason=maintenance")
    try:
        with (
            pytest.raises(ClusterError, match="sbatch refuses"),
            open_cluster("slurm", 1, options=ClusterOptions(config=path)),
        ):
            pass
    finally:
        slurm.run("scontrol", "update", f"nodename={NODES[0]}", "state=resume")
    assert not slurm.jobs("PENDING,RUNNING")


def test_a_worker_of_another_numpy_is_named(slurm: SlurmLab, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    installed = tmp_path / "numpy-1.0.dist-info"  # found before the real one
    installed.mkdir()
    (installed / "METADATA").write_text("Name: numpy\nVersion: 1.0\n")
    text = path.read_text().replace('"export PYTHONPATH=', f'"export PYTHONPATH={tmp_path}:')
    path.write_text(text)
    with (
        pytest.raises(ClusterError, match=r"worker tls://.* has numpy 1\.0 where"),
        open_cluster("slurm", 1, options=ClusterOptions(config=path)),
    ):
        pass
    until(lambda: not slurm.jobs(), "the workers' jobs are cancelled")


def test_a_cluster_whose_driver_was_killed_ends_by_itself(
    slurm: SlurmLab, slurm_config: Path
) -> None:
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(slurm_config)])
    try:
        until(lambda: (slurm_config.parent / "ready").exists(), "the driver has a worker")
    finally:
        driver.kill()
        driver.wait()
    until(lambda: not slurm.jobs(), "the orphaned jobs end")


_DRIVER = """
import pathlib, sys, time
from zml_dask.engine.clusters import ClusterOptions, open_cluster
config = pathlib.Path(sys.argv[1])
with open_cluster("slurm", 1, None, ClusterOptions(config=config)):
    (config.parent / "ready").touch()
    time.sleep(120)
"""
