"""What a task reports while it runs, and how its worker talks to the scheduler.

Outside of Dask nothing here does anything, and Dask is not loaded for it. A forked process
is outside of what Dask ran before.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import distributed
    from distributed.diagnostics.plugin import SchedulerPlugin

DONE_TOPIC = "zml-done"
"""Under which workers tell the driver, through the scheduler, of each record they are done with."""


@dataclass(frozen=True, slots=True)
class _Running:
    """The task that this thread runs."""

    job: str
    task: int
    note: Callable[[int, int, int], None]


_running: ContextVar[_Running | None] = ContextVar("zml_running", default=None)
_installed: set[tuple[str, str]] = set()
"""Address of a scheduler, and the name of a plugin that a task of this process installed there."""


@contextmanager
def running(job: str, task: int, note: Callable[[int, int, int], None]) -> Iterator[None]:
    """Mark which task this thread runs, and where it reports its progress."""
    token = _running.set(_Running(job, task, note))
    try:
        yield
    finally:
        _running.reset(token)


@contextmanager
def active(item: int) -> Iterator[None]:
    """Mark a record as active on this worker within the block.

    If the worker dies meanwhile, the record is one of those that may have killed it.

    Examples
    --------
    >>> with active(1234567):
    ...     pass
    """
    worker = dask_worker()
    if worker is None:
        yield
        return
    from zml_dask.engine.isolation import DeathWatch

    current = _running.get()
    job = "" if current is None else current.job
    install_from_worker(worker, DeathWatch())
    tell(worker, "zml-active", job=job, item=item)
    try:
        yield
    finally:
        tell(worker, "zml-inactive", job=job, item=item)


def note_done(item: int, count: int = 1) -> None:
    """Report to the progress that an item of the running task is done.

    Where an item stands for many small ones, `count` says how many of them are done so far.
    """
    current = _running.get()
    if current is not None:
        current.note(current.task, item, count)


def tell_driver(task: int, item: int, count: int) -> None:
    """Send what `note_done` was given to the driver of a Dask cluster."""
    worker, current = dask_worker(), _running.get()
    if worker is not None and current is not None:
        done = {"job": current.job, "task": task, "item": item, "count": count}
        worker.log_event(DONE_TOPIC, done)


def check_staying() -> None:
    """Give the task back if this worker is closing, so that another one runs it.

    Raises `distributed.Reschedule` then.
    """
    worker = dask_worker()
    if worker is not None:
        import distributed

        if worker.status in (distributed.Status.closing, distributed.Status.closed):
            raise distributed.Reschedule


def dask_worker() -> distributed.Worker | None:
    """Return the Dask worker that runs this task; None outside of tasks."""
    if "distributed" not in sys.modules:
        return None
    import distributed

    try:
        return distributed.get_worker()
    except ValueError:
        return None


def _reset_dask() -> None:
    """Let a forked process compute by threads of its own: its parent's do not exist in it.

    PyTorch's `DataLoader` and `multiprocessing` fork, and Dask would wait forever for the threads
    or the client that it still knows of.
    """
    threaded: Any = sys.modules.get("dask.threaded")
    client: Any = sys.modules.get("distributed.client")
    if threaded is not None:
        threaded.default_pool, threaded.main_thread = None, threading.main_thread()
        threaded.pools_lock = threading.Lock()
        threaded.pools.clear()
    if client is not None and client._get_global_client() is not None:  # noqa: SLF001
        import dask

        client._global_clients.clear()  # noqa: SLF001 - there is no other way
        client._current_client.set(None)  # noqa: SLF001
        dask.config.set(scheduler=None)


os.register_at_fork(after_in_child=_reset_dask)


def worker_name() -> str:
    """Return this Dask worker's address, or ``"local"``."""
    worker = dask_worker()
    return "local" if worker is None else str(worker.address)


def worker_folder() -> Path | None:
    """Return the folder for temporary files of this Dask worker; None outside of tasks.

    It is in the worker's local directory, on the node's own disk (``local-directory`` says
    where). Dask removes it when the worker ends, or the next worker on that node does where it
    was killed.
    """
    worker = dask_worker()
    if worker is None:
        return None
    folder = Path(worker.local_directory) / "records"
    folder.mkdir(exist_ok=True)
    return folder


def install_from_worker(worker: distributed.Worker, plugin: SchedulerPlugin) -> None:
    """Install a plugin on the scheduler from a worker's task, unless it is there.

    So a user's own bag on their own cluster is as polite and as robust as a build.
    """
    from distributed.protocol.pickle import dumps

    key = (str(worker.scheduler.address), plugin.name)
    if key not in _installed:
        pickled = dumps(plugin)
        call(worker, "register_scheduler_plugin", plugin=pickled, name=plugin.name, idempotent=True)
        _installed.add(key)


def call(worker: distributed.Worker, operation: str, /, **arguments: Any) -> Any:
    """Call the scheduler from any thread of a worker but its event loop; wait for the answer."""
    from distributed.utils import sync

    return sync(worker.loop, getattr(worker.scheduler, operation), **arguments)


def tell(worker: distributed.Worker, operation: str, /, **arguments: Any) -> None:
    """Tell the scheduler something, from any thread, and go on at once."""
    worker.loop.add_callback(worker.batched_send, {"op": operation, **arguments})
