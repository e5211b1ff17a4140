"""Batch systems other than SLURM, played by scripts that start a job's script at once.

What is tested is ours (the section's options, TLS, the waiting); how dask-jobqueue speaks to
each system, it tests against the real ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zml_dask.engine.clusters import ClusterOptions, open_cluster
from zml_dask.engine.clusters.jobqueue import Lifetime, lifetime_within, parse_walltime
from zml_dask.errors import ClusterError

from .runs import until

SUBMIT = """#!/bin/bash
cat "$@" > {folder}/job.$$
setsid bash {folder}/job.$$ > {folder}/job.$$.log 2>&1 < /dev/null &
echo "{answer}"
"""
CANCEL = """#!/bin/bash
kill -TERM -- "-${1%%.*}" 2>/dev/null
"""
SYSTEMS = [
    ("pbs", "qsub", "qdel", "$!.server", "00:30:00"),
    ("sge", "qsub", "qdel", "Your job $! has been submitted", "00:30:00"),
    ("lsf", "bsub", "bkill", "Job <$!> is submitted to queue <normal>.", "00:30"),
]


@pytest.mark.parametrize(("system", "submit", "cancel", "answer", "walltime"), SYSTEMS)
def test_any_section_of_dask_jobqueue(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    submit: str,
    cancel: str,
    answer: str,
    walltime: str,
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / submit).write_text(SUBMIT.format(folder=tmp_path, answer=answer))
    (commands / cancel).write_text(CANCEL)
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "dask.yaml"
    config.write_text(f"""
jobqueue:
  {system}:
    memory: 1GiB
    interface: lo
    walltime: "{walltime}"
    local-directory: {tmp_path}
    shared-temp-directory: {tmp_path}
""")
    with open_cluster(system, 1, None, ClusterOptions(config=config)) as client:
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3
        assert "--lifetime 1476s --lifetime-stagger 144s" in client.cluster.job_script()
        (worker,) = client.scheduler_info()["workers"].values()
        assert worker["nthreads"] == 1


def test_a_cluster_whose_batch_system_went_away_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qdel").write_text("#!/bin/sh\n")
    submit = tmp_path / "qsub"
    submit.write_text(SUBMIT.format(folder=tmp_path, answer="$!.server"))
    for command in (submit, tmp_path / "qdel"):
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "dask.yaml"
    config.write_text(f"""
jobqueue:
  pbs:
    memory: 1GiB
    interface: lo
    local-directory: {tmp_path}
    shared-temp-directory: {tmp_path}
""")
    with open_cluster("pbs", 1, None, ClusterOptions(config=config)) as client:
        submit.write_text("#!/bin/sh\nexit 1\n")
        client.cluster.adapt(minimum=2, maximum=2)
        until(lambda: len(client.cluster.workers) == 2, "a second job is refused")


def test_a_queue_that_tells_nothing_is_waited_for_so_long_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qsub", "qdel"):
        (tmp_path / name).write_text("#!/bin/sh\necho 17.server\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "dask.yaml"
    config.write_text(f"jobqueue: {{pbs: {{interface: lo, shared-temp-directory: {tmp_path}}}}}")
    monkeypatch.setattr("zml_dask.engine.clusters.queue._SAY_SECONDS", 0.0)
    said: list[str] = []
    options = ClusterOptions(config=config, start_timeout=2, say=said.append)
    with (
        pytest.raises(ClusterError, match=r"no worker arrived within \d+ s; qstat"),
        open_cluster("pbs", 1, None, options),
    ):
        pass
    assert "waiting for workers: qstat says how job 17 is" in said


def test_a_job_that_is_refused_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qsub").write_text("#!/bin/sh\necho 'qsub: Unknown queue nowhere' >&2\nexit 1\n")
    (tmp_path / "qsub").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "dask.yaml"
    config.write_text(f"jobqueue: {{pbs: {{interface: lo, shared-temp-directory: {tmp_path}}}}}")
    with (
        pytest.raises(
            ClusterError, match=r"^qsub refuses the worker's job: .*Unknown queue"
        ) as raised,
        open_cluster("pbs", 1, None, ClusterOptions(config=config)),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "system", "seconds"),
    [
        ("60", "slurm", 3600),
        ("10:30", "slurm", 630),
        ("04:00:00", "slurm", 14_400),
        ("1-0", "slurm", 86_400),
        ("2-12:30", "slurm", 217_800),
        ("2-12:30:15", "slurm", 217_815),
        ("90", "lsf", 5400),
        ("1:30", "lsf", 5400),
        ("5400", "sge", 5400),
        ("UNLIMITED", "slurm", None),
        ("", "slurm", None),
    ],
)
def test_walltimes_as_each_queue_writes_them(text: str, system: str, seconds: float | None) -> None:
    assert parse_walltime(text, system) == seconds


@pytest.mark.parametrize("walltime", [120.0, 1800.0, 14_400.0, 86_400.0, 1e6])
def test_every_worker_leaves_before_its_walltime(walltime: float) -> None:
    lifetime = lifetime_within(walltime)
    assert isinstance(lifetime, Lifetime)
    latest = lifetime.duration + lifetime.stagger
    assert latest < walltime
    assert lifetime.duration - lifetime.stagger > 0.6 * walltime


def test_a_walltime_too_short_to_leave_early() -> None:
    assert lifetime_within(20.0) is None
