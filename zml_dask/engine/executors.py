"""Executors, which run the tasks of a job in this process, in threads, or on a Dask cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import dask
import dask.bag as db
import distributed
from dask.base import annotate
from dask.utils import format_bytes, parse_timedelta
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.core import Status

from zml_dask.engine.activity import DONE_TOPIC, running
from zml_dask.engine.cluster_throttle import throttle_waiting
from zml_dask.engine.isolation import DEATHS_TO_GIVE_UP, DeathWatch, deaths_of, retries
from zml_dask.engine.job import Executor, Job, LiveCounts, ResultT, TaskT
from zml_dask.engine.objects import SharedProof
from zml_dask.engine.worker import Done, TaskRunner, close_contexts
from zml_dask.errors import ClusterError, RecordError, UsageError, ZmlError

RETRIES = 2
"""Times a task is tried again after an error, of the storage say, which may pass."""

DEATHS_IN_A_ROW = 5
"""Records that may be given up one after the other; more without one success between them
are the cluster's fault: too little memory for any, a walltime too short for any."""

_LOST = (FutureCancelledError, CommClosedError, TimeoutError, ConnectionError)
"""What a lost cluster looks like; another OSError is some worker's own."""

_ENDED = (Status.closed, Status.closing, Status.failed)
"""Of a worker or a nanny that does not come back."""

_DESERTED = (
    "no worker of the LocalCluster is left, and it starts no other: most likely they "
    "died while they started, or were closed; what is staged is kept: start workers "
    "(cluster.scale(2), or a new cluster) and run the same command again"
)
_SMALLEST_WORKER = 200 * 2**20
"""Bytes that Python with NumPy, Arrow and Dask takes before it does anything."""

_LOOK_SECONDS = 2.0
"""Between two looks whether a cluster still has what could do anything."""

_ENDING_SECONDS = 10.0
"""After which a worker that does not answer is left alone: it closes what it holds later."""


class SerialExecutor(Executor):
    """Runs one task after the other in this thread."""

    workers = 1

    def run(
        self, job: Job[TaskT, Any, ResultT, Any], tasks: Sequence[TaskT], live: LiveCounts
    ) -> Generator[ResultT, None, None]:
        """Run tasks; see `zml_dask.engine.job.Executor`."""
        if not tasks:
            return
        with job.open() as context:
            for number, task in enumerate(tasks):
                result = _tried(job, number, task, context, live)
                live.finish(number)
                yield result


@dataclass(frozen=True, slots=True)
class ThreadsExecutor(Executor):
    """Runs tasks in daemon threads of this process: who interrupts it need not wait for them.

    The process would wait for the threads of `concurrent.futures` before it ends, and a download
    may take hours. An unfinished task leaves what a killed process leaves.
    """

    workers: int = 4

    def run(
        self, job: Job[TaskT, Any, ResultT, Any], tasks: Sequence[TaskT], live: LiveCounts
    ) -> Generator[ResultT, None, None]:
        """Run tasks; see `zml_dask.engine.job.Executor`."""
        waiting: Iterator[tuple[int, TaskT]] = iter(enumerate(tasks))
        lock, stopped = threading.Lock(), threading.Event()
        arrived: SimpleQueue[tuple[int, ResultT | None, BaseException | None]] = SimpleQueue()

        def work() -> None:
            number = -1
            try:
                with job.open() as context:
                    while not stopped.is_set():
                        with lock:
                            number, task = next(waiting, (-1, None))
                        if task is None:
                            return
                        arrived.put((number, _tried(job, number, task, context, live), None))
            except BaseException as error:  # noqa: BLE001 - raised where the results are taken
                arrived.put((number, None, error))

        try:
            for _ in range(min(self.workers, len(tasks))):
                threading.Thread(target=work, name=f"zml-{job.name}", daemon=True).start()
            for _ in tasks:
                number, result, error = arrived.get()
                if error is not None:
                    raise error
                live.finish(number)
                yield result  # type: ignore[misc]  # a result, since there is no error
        finally:
            stopped.set()


@dataclass(frozen=True, slots=True)
class DaskExecutor(Executor):
    """Runs tasks as a Dask bag on any Dask cluster, its partitions taken as they complete."""

    client: distributed.Client

    @property
    def workers(self) -> int:
        """The cluster's current number of workers; at least one, since some may be starting."""
        return max(1, len(_workers(self.client)))

    @property
    def memory_limits(self) -> list[int]:
        """Bytes that each worker may fill, of those that have a limit."""
        return _limits(self.client)

    def run(
        self, job: Job[TaskT, Any, ResultT, Any], tasks: Sequence[TaskT], live: LiveCounts
    ) -> Generator[ResultT, None, None]:
        """Run tasks; see `zml_dask.engine.job.Executor`.

        Raises `ClusterError` if the cluster is lost, does not share the storage, or kills every
        task.
        """
        if not tasks:
            return
        _check_memory(self.client)
        self.client.register_plugin(DeathWatch())
        token = uuid4().hex
        shared = job.shared()
        with (
            SharedProof.given(shared) if shared else nullcontext() as proof,
            _listening(self.client, token, live),
        ):
            runner = TaskRunner(job.for_workers(), token, proof)
            yield from _DaskRun(self.client, job, runner, live).results(tasks)
            _end_job(self.client, token)

    def waiting(self) -> tuple[float, str]:
        """Seconds until a server's limit lets the workers go on; also which server fails."""
        return throttle_waiting(self.client)


@dataclass(slots=True)
class _DaskRun:
    """One run of a job on a cluster."""

    client: distributed.Client
    job: Job[Any, Any, Any, Any]
    runner: TaskRunner[Any, Any]
    live: LiveCounts
    numbers: Iterator[int] = field(default_factory=count)
    submitted: dict[distributed.Future, tuple[int, Any]] = field(default_factory=dict)
    proved: set[str] = field(default_factory=set)
    given_up: list[tuple[Any, int, RecordError]] = field(default_factory=list)
    succeeded: bool = False

    def results(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield results as tasks complete; those of records given up when others succeed."""
        completed = distributed.as_completed(self.submit(tasks))
        try:
            for future in self.completing(completed):
                number, task = self.submitted.pop(future)
                try:
                    done = _result(future)
                except distributed.KilledWorker:
                    result, again = self.after_death(task)
                    completed.update(self.submit(again))
                else:
                    result = self.checked(done)
                finally:
                    future.release()
                self.live.finish(number)
                if result is not None:
                    yield result
                if self.succeeded or self.live.any:
                    self.succeeded = self.live.any = False
                    yield from self.released()
            if self.given_up:
                # Nothing else was done since: are they to blame, or the cluster?
                self.check_cluster()
                yield from self.released()
        finally:
            self.client.cancel(list(self.submitted), reason="the job has stopped")

    def completing(self, completed: distributed.as_completed) -> Iterator[distributed.Future]:
        """Yield futures as they complete.

        Raises `ClusterError` if the cluster's workers are gone and nothing will start others.
        """
        looked = served = time.monotonic()
        while not completed.is_empty():
            ready = completed.next_batch(block=False)
            if not ready:
                with completed.thread_condition:
                    completed.thread_condition.wait(timeout=0.1)
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    looked = time.monotonic()
                    if not _is_deserted(self.client):
                        served = looked
                    elif looked - served >= _patience(self.client):
                        raise ClusterError(_DESERTED)
            yield from ready

    def submit(self, tasks: Sequence[Any]) -> list[distributed.Future]:
        """Start tasks; those that come first have priority."""
        if not tasks:
            return []
        numbered = [(next(self.numbers), task) for task in tasks]
        # Dask would begin with the last; a priority for each key says otherwise, and
        # optimising would lose it, for nothing: each partition is one task.
        bag: Any = db
        with annotate(priority=lambda key: -key[1]):
            mapped = bag.from_sequence(numbered, npartitions=len(numbered)).map(self.runner)
        partitions = mapped.to_delayed(optimize_graph=False)
        futures = self.client.compute(partitions, retries=RETRIES, optimize_graph=False)
        self.submitted.update(zip(futures, numbered, strict=True))
        return list(futures)

    def checked(self, done: Done[Any]) -> Any:
        """Return a task's result, once its worker is known to share the storage."""
        if done.error is not None:
            raise done.error
        if self.runner.proof is not None and done.worker not in self.proved:
            self.runner.proof.check(done.worker)
            self.proved.add(done.worker)
        self.succeeded = True
        return done.result

    def after_death(self, task: Any) -> tuple[Any, list[Any]]:
        """Return what is done of a task whose workers died, and what to try again."""
        result, left = self.job.recover(task)
        self.succeeded = self.succeeded or result is not None
        if left is None:
            return result, []
        items = self.job.items(left)
        if not items:
            raise ClusterError(
                f"{self.job.name}: workers died {DEATHS_TO_GIVE_UP} times at the same task, most "
                f"likely because they ran out of memory{_memory(self.client)}; what is done is "
                "kept: give workers more memory and run the same command again"
            )
        groups = retries(items, deaths_of(self.client, self.runner.token, items))
        if not groups:
            self.given_up.append((left, items[0], _killed(self.client, items[0])))
        if len(self.given_up) >= DEATHS_IN_A_ROW:
            raise _cluster_at_fault(self.client, len(self.given_up))
        return result, [self.job.select(left, group) for group in groups]

    def released(self) -> Iterator[Any]:
        """Yield the results of records that were given up: others have succeeded since."""
        for task, item, error in self.given_up:
            yield self.job.give_up(task, item, error)
        self.given_up.clear()

    def check_cluster(self) -> None:
        """Raise `ClusterError` unless a worker survives a task that does nothing."""
        try:
            self.client.submit(self.runner.probe, pure=False).result()
        except distributed.KilledWorker as error:
            raise _cluster_at_fault(self.client, len(self.given_up)) from error


def _tried(
    job: Job[TaskT, Any, ResultT, Any], number: int, task: TaskT, context: Any, live: LiveCounts
) -> ResultT:
    """Run a task in this process, again after an error that may pass."""
    with running(job.name, number, live.note):
        for _ in range(RETRIES):
            try:
                return job.run(task, context)
            except UsageError:
                raise
            except Exception:  # noqa: BLE001, S112 - the last one is raised
                continue
        return job.run(task, context)


def _end_job(client: distributed.Client, token: str) -> None:
    """Have workers close what they opened for a job; one that does not answer is left alone."""

    def end() -> None:
        with suppress(Exception):
            client.sync(client.scheduler.zml_forget, job=token)
            client.run(close_contexts, token, on_error="ignore")

    thread = threading.Thread(target=end, name="zml-end-job", daemon=True)
    thread.start()
    thread.join(_ENDING_SECONDS)


@contextmanager
def _listening(client: distributed.Client, token: str, live: LiveCounts) -> Iterator[None]:
    """Receive the workers' reports on their records within the block."""

    def note(event: tuple[float, Any]) -> None:
        _, done = event
        if done["job"] == token:
            live.note(done["task"], done["item"], done["count"])

    client.subscribe_topic(DONE_TOPIC, note)
    try:
        yield
    finally:
        client.unsubscribe_topic(DONE_TOPIC)


def _result(future: distributed.Future) -> Done[Any]:
    """Return the result of a completed task, or raise an error that says why there is none."""
    try:
        (done,) = future.result()
    except (distributed.KilledWorker, ZmlError):
        raise
    except _LOST as error:
        raise ClusterError(
            f"the Dask cluster was lost ({type(error).__name__}); what is staged is kept: "
            "run the same command again"
        ) from error
    except Exception as error:
        raise ClusterError(
            f"a worker failed with {type(error).__name__}: {error}; what is staged is kept: "
            "run the same command again, with --debug for the traceback"
        ) from error
    else:
        result: Done[Any] = done
        return result


def _check_memory(client: distributed.Client) -> None:
    """Refuse a cluster whose workers cannot even hold Python."""
    limits = _limits(client)
    if limits and max(limits) < _SMALLEST_WORKER:
        raise ClusterError(
            f"the workers have {format_bytes(max(limits))} of memory each, and Python alone takes "
            f"{format_bytes(_SMALLEST_WORKER)}: give them more (a number without a unit, such as "
            "memory: 1024, means bytes)"
        )


def _is_deserted(client: distributed.Client) -> bool:
    """Whether no worker is left, and nothing would start another.

    Queues start the next job, an adaptive cluster the next worker, and at an address
    somebody else does; a plain cluster on this machine has only its nannies. It
    drops those whose worker has not come back in 15 seconds, as on a busy machine, and
    is asked to start them again.
    """
    cluster = client.cluster
    adapts = getattr(cluster, "_adaptive", None) is not None
    if not isinstance(cluster, distributed.LocalCluster) or adapts:
        return False
    workers, wanted = dict(cluster.workers), set(cluster.worker_spec)
    if wanted - set(workers) and cluster.status == Status.running:
        cluster.scale(len(wanted))
        return False
    ended = all(name in workers and workers[name].status in _ENDED for name in wanted)
    return ended and not _workers(client)


def _patience(client: distributed.Client) -> float:
    """Return the seconds after which a deserted cluster is given up; none if workers were closed.

    A worker that failed to start, since the name of the lost one was still taken, is dropped
    by the cluster as well, and then another is asked for.
    """
    workers: Any = dict(client.cluster.workers)
    if all(each.status != Status.failed for each in workers.values()):
        return 0
    return 2 * float(parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")))


def _killed(client: distributed.Client, item: int) -> RecordError:
    return RecordError(
        "worker_killed",
        f"record {item} killed {DEATHS_TO_GIVE_UP} workers, most likely by needing more memory "
        f"than they have{_memory(client)}; give workers more and build with --retry-failed",
    )


def _cluster_at_fault(client: distributed.Client, records: int) -> ClusterError:
    return ClusterError(
        f"every worker died that took one of {records} records, and none was done meanwhile: "
        f"the workers' memory{_memory(client)} or their walltime is too small for any; no record "
        "is marked as failed, and what is staged is kept: correct the cluster's settings (the "
        "jobs' logs say more) and run the same command again"
    )


def _memory(client: distributed.Client) -> str:
    limits = _limits(client)
    return f" ({format_bytes(min(limits))} each)" if limits else ""


def _limits(client: distributed.Client) -> list[int]:
    return [each["memory_limit"] for each in _workers(client) if each["memory_limit"]]


def _workers(client: distributed.Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())
