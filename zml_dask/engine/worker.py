"""Run a task on its worker: open the context, prove the shared storage, run the task."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zml_dask.allocator import keep_freed_buffers
from zml_dask.engine.activity import running, tell_driver, worker_name
from zml_dask.engine.job import Job
from zml_dask.engine.objects import SharedProof
from zml_dask.errors import ClusterError, UsageError, ZmlError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Done(Generic[ResultT]):
    """The result of a task, or an error that no retry would change."""

    worker: str
    result: ResultT | None = None
    error: ZmlError | None = None


@dataclass(frozen=True)
class TaskRunner(Generic[TaskT, ResultT]):
    """Runs a job's tasks on a worker; travels with each of them.

    So the job is as `Job.for_workers` returns it; the token is that of this run.
    """

    job: Job[TaskT, Any, ResultT, Any]
    token: str
    proof: SharedProof | None = None

    def __call__(self, numbered: tuple[int, TaskT]) -> Done[ResultT]:
        """Run one task of a Dask cluster; the worker keeps what was opened for the next."""
        keep_freed_buffers()
        number, task = numbered
        worker = worker_name()
        if self.proof is not None and not _contexts.is_proved(worker, self.token):
            try:
                self.proof.answer(worker)
            except ClusterError as error:
                return Done(worker, error=error)
            _contexts.prove(worker, self.token)
        try:
            context = _contexts.get(self, worker)
            with running(self.token, number, tell_driver):
                return Done(worker, self.job.run(task, context))
        except UsageError as error:  # would be the same on any worker
            return Done(worker, error=error)

    def probe(self) -> None:
        """Do nothing for a while with everything open, to see whether the worker survives."""
        _contexts.get(self, worker_name())
        threading.Event().wait(_PROBE_SECONDS)


_PROBE_SECONDS = 2.0
"""A nanny looks at its worker's memory ten times a second."""


def close_contexts(token: str) -> None:
    """Close what this worker has opened for a job that has ended."""
    _contexts.close(token)


class _Contexts:
    """What this process's workers have opened for their jobs: one context for each thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, int, str], tuple[ExitStack, Any]] = {}
        self._proved: set[tuple[str, str]] = set()

    def is_proved(self, worker: str, token: str) -> bool:
        """Whether this worker has proved that it sees the job's storage."""
        with self._lock:
            return (worker, token) in self._proved

    def prove(self, worker: str, token: str) -> None:
        with self._lock:
            self._proved.add((worker, token))

    def get(self, runner: TaskRunner[Any, Any], worker: str) -> Any:
        """Return this thread's context, opened where it is not yet.

        What the thread has of other jobs is closed: their driver may have died.
        """
        thread = (worker, threading.get_ident())
        with self._lock:
            known = self._opened.get((*thread, runner.token))
            others = [key for key in self._opened if key[:2] == thread] if known is None else []
            stacks = [self._opened.pop(key)[0] for key in others]
        for stack in stacks:
            stack.close()
        if known is None:
            stack = ExitStack()
            known = stack, stack.enter_context(runner.job.open())
            with self._lock:
                self._opened[(*thread, runner.token)] = known
        return known[1]

    def close(self, token: str) -> None:
        with self._lock:
            ended = [key for key in self._opened if key[2] == token]
            stacks = [self._opened.pop(key)[0] for key in ended]
            self._proved = {key for key in self._proved if key[1] != token}
        for stack in stacks:
            stack.close()


_contexts = _Contexts()
