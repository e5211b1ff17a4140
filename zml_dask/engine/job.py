"""What every long task has in common: a job is planned, run in tasks anywhere, and finished.

`plan` on the driver cuts the work into small picklable tasks. `run` does one of them on
any worker, in any order, perhaps twice. `finish` puts the results together on the driver.
What a job does not see is written once, in `run_job` and the executors: retries, the
isolation of a record that kills workers, progress, the log, and the lock, which is checked
between results and before anything is finished.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from zml_dask.engine.lock import DatasetLock
from zml_dask.engine.log import BuildLog
from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.errors import RecordError
from zml_dask.text_safety import escape_text

if TYPE_CHECKING:
    from zml_dask.store.storage import Storage

TaskT = TypeVar("TaskT")
ContextT = TypeVar("ContextT")
ResultT = TypeVar("ResultT")
FinalT = TypeVar("FinalT")

_TICK = 1.0
"""Seconds between two looks at the progress of tasks that run, and between checks of the lock."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What one result means for the progress and the log.

    The task was `done` with so many items (records, shards), of which some `failed`; `n_files` and
    `n_images` are what it added. `lines` are for the person who waits, `events`, each a name and
    its details, for the log.
    """

    done: int = 1
    failed: int = 0
    n_files: int = 0
    n_images: int = 0
    lines: Sequence[str] = ()
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()


class Job(ABC, Generic[TaskT, ContextT, ResultT, FinalT]):
    """One kind of work. Only `plan`, `run` and `finish` must be written.

    A job whose tasks hold several records overrides `items` to `give_up` as well: then a
    record that kills its workers is found and given up, and its neighbours are done.

    Attributes
    ----------
    name : str
        What the progress calls it (``"records"``, ``"commit"``).
    """

    name: ClassVar[str]

    @abstractmethod
    def plan(self, workers: int) -> Sequence[TaskT]:
        """Cut the work that is not done yet into tasks, in the order in which to start them.

        The number of workers is for an even share.
        """

    @abstractmethod
    def run(self, task: TaskT, context: ContextT) -> ResultT:
        """Do one task on any worker. It may run twice, also at the same time."""

    @abstractmethod
    def finish(self, results: Iterator[ResultT]) -> FinalT:
        """Put the results of all tasks together on the driver.

        They come in any order, as the tasks complete. When they end, all are done and the lock
        has just been checked.
        """

    def open(self) -> AbstractContextManager[ContextT]:
        """Open what `run` needs: once for each thread of a worker, closed when the job ends."""
        return nullcontext()  # type: ignore[return-value]  # a job without a context

    def for_workers(self) -> Job[TaskT, ContextT, ResultT, FinalT]:
        """Return the job as it travels with each task: without what only the driver needs."""
        return self

    def shared(self) -> Sequence[Storage]:
        """Return storages that driver and workers must share; this is checked before any task."""
        return ()

    def items(self, task: TaskT) -> Sequence[int]:
        """Return the ids of the records in a task; none for a task that is one piece of work."""
        return ()

    def size(self, task: TaskT) -> int:
        """Return how much a task counts in the progress: its records, or one."""
        return len(self.items(task)) or 1

    def recover(self, task: TaskT) -> tuple[ResultT | None, TaskT | None]:
        """Return what is done of a task whose workers died, and what is left of it."""
        return None, task

    def select(self, task: TaskT, items: Sequence[int]) -> TaskT:
        """Return the task of some of a task's records only."""
        raise NotImplementedError

    def give_up(self, task: TaskT, item: int, error: RecordError) -> ResultT:
        """Return the result of a record that kills every worker that takes it."""
        raise error

    def report(self, result: ResultT) -> TaskReport:
        """Return what a result means for progress and log."""
        return TaskReport()


@dataclass(frozen=True)
class Each(Job[tuple[int, tuple[Any, ...]], None, tuple[int, ResultT], list[ResultT]]):
    """Applies one function to each of some items, as ``map`` does, and gives a list.

    Attributes
    ----------
    arguments : sequence of tuple
        Those of each call.

    Examples
    --------
    >>> from zml_dask.engine.executors import ThreadsExecutor
    >>> run_job(Each(pow, [(2, 3), (3, 2)]), ThreadsExecutor(2))
    [8, 9]
    """

    name: ClassVar[str] = "tasks"

    function: Callable[..., ResultT]
    arguments: Sequence[tuple[Any, ...]]

    def plan(self, workers: int) -> list[tuple[int, tuple[Any, ...]]]:
        """Return one task per item."""
        return list(enumerate(self.arguments))

    def for_workers(self) -> Each[ResultT]:
        """Return the job without its items."""
        return replace(self, arguments=())

    def run(self, task: tuple[int, tuple[Any, ...]], context: None) -> tuple[int, ResultT]:
        """Call the function."""
        number, arguments = task
        return number, self.function(*arguments)

    def finish(self, results: Iterator[tuple[int, ResultT]]) -> list[ResultT]:
        """Put the results into the items' order."""
        found = dict(results)
        return [found[number] for number in range(len(found))]


class LiveCounts:
    """Items done within tasks that still run, as workers report them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[int, dict[int, int]] = {}
        self._finished: set[int] = set()
        self.any = False

    def note(self, task: int, item: int, count: int) -> None:
        """Note that an item is done, and how much it counts."""
        with self._lock:
            self.any = True
            if task not in self._finished:
                # Noted again where a task begins anew after a death.
                self._done.setdefault(task, {})[item] = count

    def finish(self, task: int) -> None:
        """Forget a task whose result has arrived."""
        with self._lock:
            self._finished.add(task)
            self._done.pop(task, None)

    def total(self) -> int:
        """Items done in tasks without a result."""
        with self._lock:
            return sum(sum(counts.values()) for counts in self._done.values())


@runtime_checkable
class Executor(Protocol):
    """Runs the tasks of a job: in this process one by one, in threads, or on a Dask cluster."""

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def run(
        self, job: Job[TaskT, Any, ResultT, Any], tasks: Sequence[TaskT], live: LiveCounts
    ) -> Generator[ResultT, None, None]:
        """Run tasks; yield their results as they complete, in any order.

        A task that raises is tried again; what it raises at last is raised here. Closed
        early, it cancels what has not begun and waits for nobody.
        """

    def waiting(self) -> tuple[float, str]:
        """Seconds until a server's limit lets the workers go on; also which server fails.

        Where tasks run in this process, each waits by itself.
        """
        return 0.0, ""


OpenExecutor = Callable[[], AbstractContextManager[Executor]]
"""Opens an executor when there is something for it to do."""


def run_job(
    job: Job[TaskT, ContextT, ResultT, FinalT],
    executor: Executor,
    *,
    lock: DatasetLock | None = None,
    log: BuildLog | None = None,
    progress: BuildProgress | None = None,
) -> FinalT:
    """Plan a job, run its tasks and finish it.

    `lock` is that of the dataset that the job changes. If another process took it over, the job
    stops with `LockLostError`: no result is taken and nothing is finished. `ClusterError` if the
    cluster is lost, or its workers die whatever they are given; otherwise the `ZmlError` that a
    task raised on purpose, such as for a full disk.
    """
    progress = progress or SilentProgress()
    tasks = job.plan(executor.workers)
    total = sum(job.size(task) for task in tasks)
    state = _State(ProgressCounts(total=total))
    live = LiveCounts()
    with (
        closing(executor.run(job, tasks, live)) as arriving,
        _ticking(job.name, executor, live, state, progress),
        closing(_checked(job, arriving, state, lock, log, progress)) as results,
    ):
        return job.finish(results)


@dataclass(slots=True)
class _State:
    """What is done, and what was shown as done, by two threads."""

    counts: ProgressCounts
    shown: int = 0
    showing: threading.Lock = field(default_factory=threading.Lock)


def _show(
    name: str, state: _State, progress: BuildProgress, live: int = 0, waiting: float = 0.0
) -> None:
    """Show what is done, also in running tasks; never less than before."""
    with state.showing:
        counts = state.counts
        state.shown = max(state.shown, min(counts.total, counts.done + live))
        progress.update(name, replace(counts, done=state.shown, waiting=waiting))


def _checked(
    job: Job[Any, Any, ResultT, Any],
    arriving: Iterator[ResultT],
    state: _State,
    lock: DatasetLock | None,
    log: BuildLog | None,
    progress: BuildProgress,
) -> Generator[ResultT, None, None]:
    """Pass results on while the lock is held; count, log and show each."""
    if state.counts.total:
        _show(job.name, state, progress)
    for result in arriving:
        if lock is not None:
            lock.check(max_age=_TICK)
        report = job.report(result)
        counts = state.counts
        state.counts = replace(
            counts,
            done=counts.done + report.done,
            failed=counts.failed + report.failed,
            n_files=counts.n_files + report.n_files,
            n_images=counts.n_images + report.n_images,
        )
        for event, details in report.events:
            if log is not None:
                log.write(event, **details)
        for line in report.lines:
            progress.say(line)
        _show(job.name, state, progress)
        yield result
    if lock is not None:
        lock.check()


@contextmanager
def _ticking(
    name: str, executor: Executor, live: LiveCounts, state: _State, progress: BuildProgress
) -> Iterator[None]:
    """Show progress while tasks run, since one may take long."""
    stopped = threading.Event()

    def tick() -> None:
        shown = ""
        while not stopped.wait(_TICK):
            try:
                waiting, trouble = executor.waiting()
            except OSError:  # the cluster is lost: the executor is about to say so
                return
            if trouble and trouble != shown:
                progress.say(f"{escape_text(trouble)}; trying again")
            shown = trouble
            if not stopped.is_set():
                _show(name, state, progress, live.total(), waiting)

    thread = threading.Thread(target=tick, name="zml-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
