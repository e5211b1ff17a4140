"""Clusters that stand already: by address, by scheduler file, with TLS; and when one is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from serving import Faults, Sandbox

from zml_dask.engine.clusters import ClusterOptions, open_cluster, parse_adapt
from zml_dask.engine.clusters.settings import resolve, settings_of
from zml_dask.errors import ClusterError, UsageError
from zml_dask.sandbox.distributions import installed_corpus

from .runs import COMMAND, PATIENT, content, records_of, run, staged, started, until

ROOT = Path(__file__).parents[2]


@contextmanager
def standing(
    folder: Path, *words: str, workers: int = 1, **environment: str
) -> Iterator[tuple[Path, list]]:
    """A scheduler and a worker as processes of their own; the scheduler file, and both."""
    file = folder / "scheduler.json"
    listen = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    here = {**os.environ, **environment}
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack, (folder / "dask.log").open("wb") as log:

        def begin(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*dask, *command], env=here, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        scheduler = begin("scheduler", *listen, "--no-dashboard", *words)
        until(lambda: file.exists() and file.read_text().endswith("}"), "a scheduler file")
        local = ["--local-directory", str(folder), "--nthreads", "1", "--death-timeout", "20"]
        command = ("worker", "--scheduler-file", str(file), "--no-dashboard", *local, *words)
        yield file, [scheduler, *(begin(*command) for _ in range(workers))]


def test_a_scheduler_file_and_an_address(tmp_path: Path) -> None:
    with standing(tmp_path) as (file, (scheduler, _)):
        for spec in (str(file), json.loads(file.read_text())["address"]):
            with open_cluster(spec, options=PATIENT) as client:
                assert client.submit(sum, [1, 2]).result() == 3
            assert scheduler.poll() is None
        with pytest.raises(UsageError, match="set elsewhere"), open_cluster(str(file), 4):
            pass


def test_certificates_of_ones_own(tmp_path: Path) -> None:
    made = subprocess.run(
        [ROOT / "deploy" / "make-certificates.sh", tmp_path / "tls"],
        check=True,
        capture_output=True,
        text=True,
    )
    config = Path(made.stdout.strip())
    assert (config.parent / "cluster.key").stat().st_mode & 0o077 == 0
    with standing(tmp_path, "--protocol", "tls", DASK_CONFIG=str(config)) as (file, _):
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        with (
            pytest.raises(UsageError, match=r"certificates.*distributed\.comm\.tls"),
            open_cluster(address),
        ):
            pass
        with open_cluster(address, options=replace(PATIENT, config=config)) as client:
            assert client.submit(sum, [1, 2]).result() == 3


def test_nobody_answers() -> None:
    options = ClusterOptions(start_timeout=2)
    with (
        pytest.raises(ClusterError, match="no Dask scheduler answers") as raised,
        open_cluster("tcp://127.0.0.1:9", None, None, options),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_a_lost_scheduler_is_one_line_and_nothing_staged_is_lost(tmp_path: Path) -> None:
    corpus = installed_corpus(8, most_bytes=300_000)
    with Sandbox(corpus) as zenodo:
        catalogue, log = tmp_path / "catalogue.jsonl", tmp_path / "log"
        run("harvest", catalogue, "--api-url", zenodo.api_url, log=tmp_path / "harvest")
        zenodo.faults = Faults(delay=0.5)
        zenodo.requests.clear()
        dataset = tmp_path / "dataset"
        with (
            standing(tmp_path) as (file, (scheduler, worker)),
            started("build", catalogue, dataset, "--cluster", file, log=log) as build,
        ):
            until(lambda: len(staged(dataset)) >= 2, "two records staged")
            scheduler.kill()
            assert build.wait() == 1
            worker.kill()
            worker.wait()
        (line,) = [each for each in log.read_text().splitlines() if "zml-dask:" in each]
        assert "run the same command again" in line
        assert "Traceback" not in log.read_text()
        before = staged(dataset)
        assert len(before) >= 2
        zenodo.faults = Faults()
        zenodo.requests.clear()
        local = ("--workers", 1, "--dashboard", "off")
        run("build", catalogue, dataset, *local, log=tmp_path / "again")
        assert not before & set(records_of(zenodo.requests.downloads))
        run("build", catalogue, tmp_path / "whole", *local, log=tmp_path / "again")
    assert content(dataset) == content(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "3", "5:2", "0:0", "-1:4", "1:2:3", "a:b"])
def test_bounds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="MIN:MAX"):
        parse_adapt(text)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slrum", "did you mean 'slurm'.*scheduler file"),
        ("/nowhere/scheduler.json", "scheduler file"),
        ("htcondor", "condor_submit is not found here"),
        ("pbs", "qsub is not found here"),
    ],
)
def test_clusters_that_are_none(spec: str, message: str) -> None:
    with (
        pytest.raises((UsageError, ClusterError), match=message),
        open_cluster(spec, 1),
    ):
        pass


@pytest.mark.parametrize(
    ("content_", "message"),
    [("- 1", "no settings"), ("a: [", "is not YAML"), (None, "read")],
)
def test_configurations_that_are_none(tmp_path: Path, content_: str | None, message: str) -> None:
    path = tmp_path / "dask.yaml"
    if content_ is not None:
        path.write_text(content_)
    options = ClusterOptions(config=path)
    with pytest.raises(UsageError, match=message), open_cluster("local", 1, None, options):
        pass


@pytest.mark.parametrize("content_", ["jobqueue:", "jobqueue:\n  slurm:", "distributed:"])
def test_an_empty_section_says_nothing(tmp_path: Path, content_: str) -> None:
    import zml_dask.engine.clusters.jobqueue  # noqa: F401 - dask-jobqueue's defaults are to stay

    path = tmp_path / "dask.yaml"
    path.write_text(content_)
    before = {name: dask.config.get(name) for name in ("jobqueue", "distributed")}
    with dask.config.set(settings_of(ClusterOptions(config=path))):
        assert dask.config.get("jobqueue") == before["jobqueue"]
        assert set(dask.config.get("distributed")) == set(before["distributed"])
        assert dask.config.get("jobqueue.slurm.name")


def test_an_empty_section_of_ones_own_is_its_systems(tmp_path: Path) -> None:
    path = tmp_path / "dask.yaml"
    path.write_text("jobqueue:\n  slurm:\n    queue: long\n  slurm-highmem:\n")
    resolved = resolve("slurm-highmem", ClusterOptions(config=path))
    assert resolved["queue"] == "long"


def test_an_adaptive_cluster_grows_with_the_work() -> None:
    options = ClusterOptions(dashboard="off")
    with open_cluster("local", None, (1, 2), options) as client:
        futures = client.map(_dawdle, range(40))
        until(lambda: len(client.scheduler_info()["workers"]) == 2, "a second worker")
        client.cancel(futures)
        assert client.scheduler.address.startswith("tls://127.0.0.1:")


def _dawdle(number: int) -> int:
    import time

    time.sleep(0.5)
    return number


def test_a_timeout_that_dask_cannot_keep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dask.yaml"
    path.write_text("distributed: {comm: {timeouts: {tcp: 5s}}}")
    with (
        pytest.raises(UsageError, match=r"timeouts\.tcp: 5s is too short.*11s or more"),
        open_cluster("local", 1, None, ClusterOptions(config=path)),
    ):
        pass


def test_workers_and_adapt_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude"), open_cluster("local", 2, (1, 2)):
        pass


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    words = ["build", str(tmp_path / "none.jsonl"), str(tmp_path / "d"), "--adapt", "9:1"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
