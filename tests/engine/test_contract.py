"""What every executor does with tasks that fail, hang, or kill their worker on the n-th try."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import pytest

from zml_dask.engine import executors
from zml_dask.engine.clusters import ClusterOptions, open_cluster
from zml_dask.engine.executors import RETRIES, DaskExecutor, SerialExecutor, ThreadsExecutor
from zml_dask.engine.job import Executor, run_job
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.log import build_log
from zml_dask.engine.objects import LOCK, LOG, SharedProof
from zml_dask.engine.progress import ProgressCounts, SilentProgress
from zml_dask.errors import ClusterError, LockLostError, UsageError, ZmlError
from zml_dask.store.storage import Storage

from .jobs import Numbers

TASKS = tuple(tuple(range(start, start + 5)) for start in range(0, 20, 5))


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    with open_cluster("local", 2, options=ClusterOptions(dashboard="off")) as client:
        yield DaskExecutor(client)


@pytest.fixture(params=["serial", "threads", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "dask":
        made: Executor = request.getfixturevalue("cluster")
        return made
    return SerialExecutor() if request.param == "serial" else ThreadsExecutor(3)


class Noting(SilentProgress):
    def __init__(self) -> None:
        self.counts: list[ProgressCounts] = []

    def update(self, stage: str, counts: ProgressCounts) -> None:
        assert stage == "numbers"
        self.counts.append(counts)


def test_all_tasks_are_done_counted_and_logged(executor: Executor, tmp_path: Path) -> None:
    job, noting = Numbers(tmp_path, TASKS), Noting()
    storage = Storage.open(tmp_path / "ds")
    with dataset_lock(storage) as lock, build_log(storage) as log:
        result = run_job(job, executor, lock=lock, log=log, progress=noting)
    assert result == dict.fromkeys(range(20), "done")
    assert [job.tries(number) for number in range(20)] == [1] * 20
    assert (noting.counts[0].done, noting.counts[0].total) == (0, 20)
    assert (noting.counts[-1].done, noting.counts[-1].total) == (20, 20)
    assert all(a.done <= b.done for a, b in zip(noting.counts, noting.counts[1:], strict=False))
    log_lines = [json.loads(line) for line in storage.read(LOG).splitlines()]
    assert [line["of"] for line in log_lines] == [5] * 4
    opened = list((tmp_path / "opened").iterdir())
    assert 1 <= len(opened) <= 3
    assert all(path.suffix == ".closed" for path in opened)


def test_nothing_to_do_opens_nothing(executor: Executor, tmp_path: Path) -> None:
    assert run_job(Numbers(tmp_path, ()), executor) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_fails_is_tried_again(executor: Executor, tmp_path: Path) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("fail", RETRIES)})
    assert len(run_job(job, executor)) == 20
    assert job.tries(7) == RETRIES + 1


def test_what_fails_again_and_again_is_raised_and_the_next_run_goes_on(
    executor: Executor, tmp_path: Path
) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("fail", RETRIES + 1)})
    with pytest.raises((OSError, ClusterError), match="number 7 fails"):
        run_job(job, executor)
    done = run_job(job, executor)
    assert set(done) | {int(path.name) for path in (tmp_path / "done").iterdir()} == set(range(20))
    assert 7 in done


def test_a_wrong_request_is_not_tried_again(executor: Executor, tmp_path: Path) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("usage", 99)})
    with pytest.raises(UsageError, match="number 7 is wrong"):
        run_job(job, executor)
    assert job.tries(7) == 1


def test_nobody_waits_for_a_task_that_hangs(cluster: DaskExecutor, tmp_path: Path) -> None:
    for number, executor in enumerate((ThreadsExecutor(2), cluster)):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = Numbers(folder, ((1,), (2,)), {1: ("hang", 1), 2: ("usage", 99)})
        with pytest.raises(UsageError, match="number 2"):
            run_job(job, executor)
    # The worker that hangs is of no use to the next test.
    cluster.client.restart(timeout=1500)


def test_a_job_that_lost_its_lock_takes_no_result_and_finishes_nothing(
    executor: Executor, tmp_path: Path
) -> None:
    storage = Storage.open(tmp_path / "ds")
    finished = threading.Event()

    class Finishing(Numbers):
        def plan(self, workers: int) -> list[tuple[int, ...]]:
            theirs = json.loads(storage.read(LOCK)) | {"token": "another's"}
            storage.write(LOCK, json.dumps(theirs).encode())
            return list(super().plan(workers))

        def for_workers(self) -> Numbers:
            return Numbers(self.folder, ())

        def finish(self, results: Iterator[dict[int, str]]) -> dict[int, str]:
            total = super().finish(results)
            finished.set()
            return total

    for tasks in (TASKS, ()):
        job = Finishing(tmp_path, tasks)
        with pytest.raises(LockLostError), dataset_lock(storage) as lock:
            run_job(job, executor, lock=lock)
        assert not finished.is_set()
        storage.remove(LOCK)


def test_a_record_that_kills_its_workers_is_given_up_and_its_neighbours_are_done(
    cluster: DaskExecutor, tmp_path: Path
) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("kill", 99)})
    result = run_job(job, cluster)
    assert result == dict.fromkeys(range(20), "done") | {7: "worker_killed"}


def test_a_record_that_kills_twice_by_chance_is_done(cluster: DaskExecutor, tmp_path: Path) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("kill", 2)})
    assert run_job(job, cluster) == dict.fromkeys(range(20), "done")


def test_a_lone_record_that_kills_is_given_up_where_the_cluster_is_sound(
    cluster: DaskExecutor, tmp_path: Path
) -> None:
    job = Numbers(tmp_path, ((7,),), {7: ("kill", 99)})
    assert run_job(job, cluster) == {7: "worker_killed"}


def test_deaths_without_one_success_are_the_cluster_s_fault(
    cluster: DaskExecutor, tmp_path: Path
) -> None:
    deeds = dict.fromkeys(range(20), ("kill", 99))
    job = Numbers(tmp_path, tuple((number,) for number in range(20)), deeds)
    with pytest.raises(ClusterError, match=r"walltime.*no record is marked as failed"):
        run_job(job, cluster)


def test_a_task_of_one_piece_that_kills_stops_the_job(
    cluster: DaskExecutor, tmp_path: Path
) -> None:
    job = Numbers(tmp_path, TASKS, {7: ("kill", 99)}, divisible=False)
    with pytest.raises(ClusterError, match="give workers more memory"):
        run_job(job, cluster)


@pytest.mark.parametrize("executor", ["SerialExecutor()", "ThreadsExecutor(2)"])
def test_what_kills_this_process_is_resumed_by_the_next(executor: str, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from zml_dask.engine.executors import SerialExecutor, ThreadsExecutor\n"
        "from zml_dask.engine.job import run_job\n"
        "from tests.engine.jobs import Numbers\n"
        "job = Numbers(Path(sys.argv[1]), ((1,), (2,), (3,)), {2: ('kill', 1)})\n"
        f"print(sorted(run_job(job, {executor})))\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(words, check=False).returncode == 1
    again = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "2" in again.stdout
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["1", "2", "3"]


def test_a_worker_that_sees_another_folder_stops_the_job(
    cluster: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.engine.objects._PATIENCE", 0.0)
    here, there = Storage.open(tmp_path / "here"), tmp_path / "there"

    with SharedProof.given((here,)) as proof:
        blind = SharedProof((Storage.open(there),), proof.word)
        with pytest.raises(ClusterError, match="does not see what the driver wrote"):
            blind.answer("tcp://worker")
        with pytest.raises(ClusterError, match="does not see what worker tcp://worker wrote"):
            proof.check("tcp://worker")
        proof.answer("tcp://worker")
        proof.check("tcp://worker")
    assert here.list() == []
    job = Numbers(tmp_path, TASKS, storage=here)
    assert len(run_job(job, cluster)) == 20
    assert here.list() == []


def test_workers_that_cannot_hold_python_are_refused(
    cluster: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_limits", lambda _: [1024])
    with pytest.raises(ZmlError, match=r"1.00 kiB of memory each.*a number without a unit"):
        run_job(Numbers(tmp_path, TASKS), cluster)


def test_a_worker_that_a_local_cluster_no_longer_waits_for_is_started_again(tmp_path: Path) -> None:
    """On a busy machine a worker takes longer to come back than the cluster waits: 15 s."""
    job = Numbers(tmp_path, ((1, 2),), {1: ("kill", 1)})
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        first = list(cluster.workers.values())
        assert run_job(job, DaskExecutor(client)) == {1: "done", 2: "done"}
        assert not set(cluster.workers.values()) & set(first)


def test_a_local_cluster_that_has_lost_all_its_workers_is_not_waited_for(tmp_path: Path) -> None:
    job = Numbers(tmp_path, ((1, 2),), {1: ("hang", 1)})
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def close_workers() -> None:
            while not job.tries(1):
                time.sleep(0.05)
            for nanny in list(cluster.workers.values()):
                cluster.sync(nanny.close, timeout=5)

        closing = threading.Thread(target=close_workers)
        closing.start()
        with pytest.raises(ClusterError, match=r"no worker of the LocalCluster is left.*scale"):
            run_job(job, DaskExecutor(client))
        closing.join()
