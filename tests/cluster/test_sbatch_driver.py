"""deploy/build.sbatch on a real SLURM: the driver as a job that requeues itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from serving import Faults, Sandbox

from zml_dask.sandbox.distributions import installed_corpus

from .runs import content, records_of, run, staged, until
from .slurm_lab import SlurmLab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "deploy" / "build.sbatch"


@pytest.fixture(scope="module")
def zenodo() -> Iterator[Sandbox]:
    with Sandbox(installed_corpus(8, most_bytes=300_000, troubles=False)) as served:
        yield served


@pytest.fixture(scope="module")
def catalogue(zenodo: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    path = folder / "catalogue.jsonl"
    run("harvest", path, "--api-url", zenodo.api_url, log=folder / "log")
    return path


@pytest.fixture(scope="module")
def built_locally(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    run("build", catalogue, folder / "dataset", "--workers", 1, log=folder / "log")
    return folder / "dataset"


@pytest.fixture
def activate(tmp_path: Path) -> str:
    """What ``ZML_ACTIVATE`` names: here, nothing but the environment of the tests."""
    path = tmp_path / "activate"
    path.write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    return f"--export=ALL,ZML_ACTIVATE={path}"


@dataclass(frozen=True)
class Underway:
    """A driver's job, its log, and the dataset that it builds."""

    job: str
    log: Path
    dataset: Path


@pytest.fixture
def underway(
    slurm: SlurmLab,
    slurm_config: Path,
    zenodo: Sandbox,
    catalogue: Path,
    activate: str,
    tmp_path: Path,
) -> Underway:
    """A driver that has staged a record, and has more to do."""
    zenodo.faults = Faults(delay=2)
    dataset = tmp_path / "dataset"
    words = ["--workers", "1", "--cluster-config", str(slurm_config)]
    job, log = _submit(slurm, activate, tmp_path, str(catalogue), str(dataset), *words)
    until(lambda: len(staged(dataset)) >= 1, "a record is staged")
    return Underway(job, log, dataset)


def test_slurm_accepts_the_script(slurm: SlurmLab) -> None:
    slurm.run("sbatch", "--test-only", str(SCRIPT), "catalogue.jsonl", "dataset")


def test_a_wrong_call_ends_and_is_not_repeated(
    slurm: SlurmLab, activate: str, tmp_path: Path
) -> None:
    words = ["nowhere.jsonl", str(tmp_path / "dataset"), "--cluster", "local"]
    job, log = _submit(slurm, activate, tmp_path, *words)
    until(lambda: job not in slurm.jobs("RUNNING,PENDING"), "the job has ended")
    assert "nowhere.jsonl" in log.read_text()
    assert "it is not repeated" in log.read_text()


def test_the_driver_requeues_itself_and_goes_on(
    slurm: SlurmLab,
    slurm_config: Path,
    zenodo: Sandbox,
    catalogue: Path,
    activate: str,
    built_locally: Path,
    tmp_path: Path,
) -> None:
    zenodo.requests.clear()
    zenodo.faults = Faults(delay=1)
    dataset = tmp_path / "dataset"
    words = ["--workers", "2", "--cluster-config", str(slurm_config)]
    job, log = _submit(slurm, activate, tmp_path, str(catalogue), str(dataset), *words)
    until(lambda: len(staged(dataset)) >= 2, "two records are staged")
    # What SLURM sends five minutes before the job's time is over.
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: "puts itself back" in log.read_text(), "it asks to be requeued")
    until(lambda: job in slurm.jobs("PENDING"), "it is back in the queue")
    before = staged(dataset)
    zenodo.requests.clear()
    zenodo.faults = Faults()
    until(lambda: _begun_at_once(slurm, job), "it runs again")
    until(lambda: "restart 1: done" in log.read_text(), "the build is done")
    assert not before & set(records_of(zenodo.requests.downloads))
    assert content(dataset) == content(built_locally)


def test_a_cancelled_driver_stays_cancelled(slurm: SlurmLab, underway: Underway) -> None:
    slurm.run("scancel", underway.job)
    until(lambda: not slurm.jobs("RUNNING,PENDING,COMPLETING"), "job and workers have ended")
    assert "JobState=CANCELLED" in slurm.run("scontrol", "show", "job", underway.job)
    assert "is cancelled" in underway.log.read_text()
    assert "puts itself back" not in underway.log.read_text()
    assert not (underway.dataset / "build.lock").exists()


def test_a_driver_that_is_told_of_its_preemption_requeues_itself(
    slurm: SlurmLab, underway: Underway
) -> None:
    # What SLURM sends where a partition has a GraceTime; the job still runs.
    slurm.run("scancel", "--signal=TERM", "--batch", underway.job)
    until(lambda: "puts itself back" in underway.log.read_text(), "it asks to be requeued")
    until(lambda: underway.job in slurm.jobs("PENDING"), "it is back in the queue")


def test_a_driver_whose_node_dies_goes_on_elsewhere(
    slurm: SlurmLab, zenodo: Sandbox, built_locally: Path, underway: Underway
) -> None:
    with slurm.without(slurm.node_of(underway.job)):
        until(lambda: underway.job in slurm.jobs("PENDING"), "SLURM puts it back")
        before = staged(underway.dataset)
        zenodo.requests.clear()
        zenodo.faults = Faults()
        until(lambda: _begun_at_once(slurm, underway.job), "it runs again")
        until(lambda: "restart 1: done" in underway.log.read_text(), "the build is done")
    assert not before & set(records_of(zenodo.requests.downloads))
    assert content(underway.dataset) == content(built_locally)


def _begun_at_once(slurm: SlurmLab, job: str) -> bool:
    """SLURM lets a requeued job wait for two minutes, set anew until its end is cleaned up."""
    reason = slurm.run("squeue", "--noheader", "--format=%r", f"--jobs={job}", check=False)
    if "BeginTime" in reason:
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    return job in slurm.jobs("RUNNING")


def _submit(slurm: SlurmLab, activate: str, folder: Path, *words: str) -> tuple[str, Path]:
    log = folder / "driver.log"
    options = ["--parsable", "--mem=1G", "--cpus-per-task=1", f"--output={log}", activate]
    return slurm.run("sbatch", *options, str(SCRIPT), *words).strip(), log
