"""The whole build with workers as jobs of a real SLURM that loses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from serving import Faults, Sandbox

from zml_dask.sandbox.corpus import make_record
from zml_dask.sandbox.distributions import installed_corpus

from .conftest import write_config
from .runs import content, finish, run, started, until
from .slurm_lab import NODES, SlurmLab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

POISON = 17_000_001
RESTRICTED, WITHOUT_FILES = 16_000_001, 16_000_003


@pytest.fixture(scope="module")
def zenodo() -> Iterator[Sandbox]:
    corpus = installed_corpus(16, most_bytes=600_000)
    corpus.add(make_record(POISON, {"poison.py": b"print('harmless to read')\n"}))
    with Sandbox(corpus) as served:
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
    words = ("--cluster", "local", "--workers", 2, "--dashboard", "off")
    run("build", catalogue, folder / "dataset", *words, log=folder / "log")
    return folder / "dataset"


def _slurm(config: Path, workers: int = 4) -> tuple[object, ...]:
    return ("--cluster", "slurm", "--workers", workers, "--cluster-config", config)


def test_killed_and_departing_workers_change_no_byte(
    slurm: SlurmLab, zenodo: Sandbox, catalogue: Path, built_locally: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, extra=["--lifetime", "14s", "--lifetime-stagger", "6s"])
    zenodo.requests.clear()
    zenodo.faults = Faults(delay=6)
    dataset, log = tmp_path / "dataset", tmp_path / "log"
    with started("build", catalogue, dataset, *_slurm(config), log=log) as build:
        until(lambda: len(zenodo.requests.downloads) >= 3, "three downloads")
        until(slurm.kill_job, "a worker is killed")
        until(lambda: _left_in_time(tmp_path / "logs"), "a worker has left at its lifetime's end")
        assert build.poll() is None
        zenodo.faults = Faults()
        said = finish(build, log)
    assert "worker_killed" not in said
    assert content(dataset) == content(built_locally)


def _left_in_time(logs: Path) -> bool:
    return any("worker-lifetime-reached" in log.read_text() for log in logs.glob("*.err"))


def test_preempted_workers_come_back_and_are_no_more_than_asked(
    slurm: SlurmLab, zenodo: Sandbox, catalogue: Path, built_locally: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path)
    zenodo.requests.clear()
    zenodo.faults = Faults(delay=2)
    dataset, log = tmp_path / "dataset", tmp_path / "log"
    with started("build", catalogue, dataset, *_slurm(config, 2), log=log) as build:
        until(lambda: len(zenodo.requests.downloads) >= 2, "two downloads")
        preempted = slurm.jobs()
        whole = ("--partition=urgent", f"--nodes={len(NODES)}", "--exclusive", "--output=/dev/null")
        urgent = slurm.run("sbatch", "--parsable", *whole, "--wrap=sleep 600").strip()
        until(lambda: slurm.jobs() == [urgent], "every node is taken")
        # SLURM requeues them by itself; Dask's cluster asks for others in their place.
        until(
            lambda: not {*preempted} & {*slurm.jobs("PENDING")}, "the requeued ones are taken back"
        )
        slurm.run("scancel", urgent)
        zenodo.faults = Faults()
        jobs = [slurm.jobs("PENDING,RUNNING")]
        until(
            lambda: jobs.append(slurm.jobs("PENDING,RUNNING")) or build.poll() is not None,
            "its end",
        )
        assert "worker_killed" not in finish(build, log)
    assert max(len({*each} - {urgent}) for each in jobs) <= 2
    assert content(dataset) == content(built_locally)


def test_a_node_that_dies_during_the_commit_changes_no_byte(
    slurm: SlurmLab,
    zenodo: Sandbox,
    catalogue: Path,
    built_locally: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(tmp_path, extra=["--preload", "cluster.standstill"])
    zenodo.faults = Faults()
    dataset, log, writing = tmp_path / "dataset", tmp_path / "log", tmp_path / "writing"
    monkeypatch.setenv("ZML_TEST_STANDSTILL", str(writing))
    with started("build", catalogue, dataset, *_slurm(config, 2), log=log) as build:
        until(lambda: writing.exists() and bool(writing.read_text()), "a shard is to be written")
        with slurm.without(slurm.node_of(writing.read_text())):
            finish(build, log)
    assert content(dataset) == content(built_locally)


def test_a_poison_record_is_one_failure_and_all_others_are_in(
    slurm: SlurmLab, zenodo: Sandbox, catalogue: Path, built_locally: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, extra=["--preload", "cluster.poison"])
    zenodo.faults = Faults()
    dataset = tmp_path / "dataset"
    run("build", catalogue, dataset, *_slurm(config, 2), log=tmp_path / "log")
    failures = pq.read_table(dataset / "failures.parquet").to_pylist()
    by_kind = {row["record_id"]: (row["kind"], row["stage"], row["permanent"]) for row in failures}
    assert by_kind.pop(POISON) == ("worker_killed", "worker", True)
    assert set(by_kind) == {RESTRICTED, WITHOUT_FILES}
    built = set(pq.read_table(dataset / "records.parquet")["record_id"].to_pylist())
    everything = set(pq.read_table(built_locally / "records.parquet")["record_id"].to_pylist())
    assert built == everything - {POISON}
    assert json.loads((dataset / "dataset.json").read_text())["counts"]["records"] == len(built)
