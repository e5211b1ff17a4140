"""Drivers and workers that are killed: nothing is lost, and nothing fetched twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import distributed
import psutil
import pytest
from serving import Faults, Sandbox

from zml_dask.engine.clusters import ClusterOptions, open_cluster
from zml_dask.engine.progress import ProgressCounts
from zml_dask.pipeline import stage
from zml_dask.pipeline.build import build
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.store.staging import StagingIndex
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify

from .datasets import archive, array_bytes, harvested, small_records, tables
from .fetch_poison import POISON, READ_MEANWHILE

COMMAND = Path(sys.executable).with_name("zml-dask")


@pytest.fixture(scope="module")
def served() -> Iterator[Sandbox]:
    with Sandbox(Corpus(small_records(30))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def reference(
    catalogue: Path, client: distributed.Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    dataset = tmp_path_factory.mktemp("reference") / "ds"
    build(catalogue, dataset, client=client)
    return dataset


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something is so; the tests do not depend on how long it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


class Lines:
    """Keeps what a build tells of its records."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, int, int]] = []

    def say(self, line: str) -> None:
        pass

    def update(self, stage: str, counts: ProgressCounts) -> None:
        if stage == "records":
            self.records.append((counts.done, counts.failed, counts.n_files, counts.n_images))


def staged_ids(dataset: Path) -> set[int]:
    return set(StagingIndex.load(Storage.open(dataset)).record_id.tolist())


def test_a_killed_driver_fetches_nothing_twice(
    reference: Path, catalogue: Path, served: Sandbox, tmp_path: Path
) -> None:
    dataset = tmp_path / "ds"
    command = [COMMAND, "build", catalogue, dataset, "--workers", "2", "--dashboard", "off"]
    served.faults = Faults(delay=0.1)
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(staged_ids(dataset)) >= 5)
    finally:
        workers = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    psutil.wait_procs(workers, timeout=100)
    assert (dataset / "build.lock").exists()
    assert not (dataset / "dataset.json").exists()
    staged = staged_ids(dataset)
    assert 5 <= len(staged) < 30

    served.faults = Faults()
    served.requests.clear()
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    fetched = {int(seen.path.split("/")[3]) for seen in served.requests.downloads}
    assert fetched == set(range(1000, 1030)) - staged
    assert array_bytes(dataset) == array_bytes(reference)
    assert tables(dataset) == tables(reference)


def test_killed_workers_lose_nothing(
    reference: Path, catalogue: Path, served: Sandbox, tmp_path: Path
) -> None:
    dataset = tmp_path / "ds"
    killed: list[int] = []

    class KillOnce:
        """Kills a worker whenever some more records are done, three times in all."""

        def __init__(self, client: distributed.Client) -> None:
            self.client = client

        def say(self, line: str) -> None:
            pass

        def update(self, stage: str, counts: object) -> None:
            done = counts.done  # type: ignore[attr-defined]
            if stage == "records" and len(killed) < 3 and done > 5 * len(killed):
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                pids = self.client.run(os.getpid, on_error="ignore") if workers else {}
                if pids:
                    killed.append(next(iter(pids.values())))
                    os.kill(killed[-1], signal.SIGKILL)

    served.faults = Faults(delay=0.1)
    try:
        with open_cluster("local", 2, options=ClusterOptions(dashboard="off")) as client:
            options = BuildOptions(partition_records=4)
            result = build(
                catalogue, dataset, client=client, options=options, progress=KillOnce(client)
            )
    finally:
        served.faults = Faults()
    assert killed
    assert (result.n_failed, result.n_records) == (0, 30)
    assert array_bytes(dataset) == array_bytes(reference)
    assert tables(dataset) == tables(reference)


def test_a_record_that_kills_while_it_is_fetched_is_condemned_and_nobody_else(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One partition, in this order: the largest archives are built first.
    numbers = [1001, READ_MEANWHILE, POISON, 1004]
    served = make_sandbox(
        [
            make_record(number, {"o/r.zip": archive({"a.py": os.urandom(size).hex().encode()})})
            for number, size in zip(numbers, (4000, 3000, 2000, 1000), strict=True)
        ]
    )
    monkeypatch.setattr(stage, "_SHARES", 1)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 2}),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=50,
            preload=[str(Path(__file__).with_name("fetch_poison.py"))],
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lines = Lines()
        result = build(harvested(served, tmp_path), tmp_path / "ds", client=client, progress=lines)
    assert dict(result.failures) == {"worker_killed": 1}
    there = tables(tmp_path / "ds")
    assert [row["record_id"] for row in there["failures"]] == [POISON]
    assert [row["record_id"] for row in there["records"]] == [1001, READ_MEANWHILE, 1004]
    # The dead workers' own share is told and logged like the rest.
    assert (result.n_staged, result.n_failed) == (3, 1)
    assert lines.records[-1] == (4, 1, 3, 3)
    events = [json.loads(line) for line in (tmp_path / "ds/build.log.jsonl").open()]
    logged = [event["record"] for event in events if event["event"] == "record"]
    assert sorted(logged) == numbers


def _peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.slow
def test_a_record_of_20_000_images_fits_into_a_worker_of_1_gib(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    lines = b"".join(
        b"line %07d of a file that is no two times the same\n" % n for n in range(1600)
    )
    files = {
        f"part{number // 100}/file{number}.py": lines.replace(b"two", b"%d" % number)
        for number in range(1000)
    }
    served = make_sandbox([make_record(7, {"o/r.zip": archive(files)})])
    catalogue = harvested(served, tmp_path)
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="1GiB",
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        result = build(catalogue, tmp_path / "ds", client=client)
        peak = max(client.run(_peak_memory).values())
    assert result.n_images == 20_000
    assert peak < 2**30
    assert verify(str(tmp_path / "ds"), deep=False).ok
