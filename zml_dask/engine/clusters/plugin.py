"""Plugins on the scheduler, and what a task asks of its worker."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

import distributed
from distributed.core import Status
from distributed.protocol.pickle import dumps
from distributed.utils import sync

_installed: set[tuple[str, str]] = set()
_lock = threading.Lock()


class NamedPlugin(Protocol):
    """A `distributed.SchedulerPlugin` that is known by one name on every cluster."""

    name: str


def install(client: distributed.Client, plugin: NamedPlugin) -> None:
    """Put a plugin on the scheduler from the driver, unless it is there."""
    client.register_plugin(plugin, name=plugin.name)


def install_from_worker(worker: distributed.Worker, plugin: NamedPlugin) -> None:
    """Put a plugin on the scheduler from a worker's task, unless it is there.

    So a bag of the user's own, on a cluster of the user's own, is as polite and as
    robust as a build.
    """
    key = (str(worker.scheduler.address), plugin.name)
    with _lock:
        if key in _installed:
            return
        call(
            worker,
            "register_scheduler_plugin",
            plugin=dumps(plugin),
            name=plugin.name,
            idempotent=True,
        )
        _installed.add(key)


def call(worker: distributed.Worker, operation: str, /, **arguments: Any) -> Any:
    """Call the scheduler from any thread of a worker but its event loop; wait for the answer."""
    return sync(worker.loop, getattr(worker.scheduler, operation), **arguments)


def tell(worker: distributed.Worker, operation: str, /, **arguments: Any) -> None:
    """Tell the scheduler something, from any thread, and go on at once."""
    worker.loop.add_callback(worker.batched_send, {"op": operation, **arguments})


def is_leaving() -> bool:
    """Whether the Dask worker whose task this is closes: its tasks are given to others."""
    worker = this_worker()
    return worker is not None and worker.status in (Status.closing, Status.closed)


def this_worker() -> distributed.Worker | None:
    """The Dask worker whose task this is; None outside of tasks."""
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def worker_scratch() -> Path:
    """Directory for temporary files of whoever asks.

    Returns
    -------
    Path
        On a Dask worker, a folder inside the worker's own local directory: on
        the node's own disk (``local-directory`` says where), and removed by Dask
        when the worker ends, or by the next worker on that node where it was
        killed. Elsewhere, the system's directory for temporary files.

    Examples
    --------
    >>> worker_scratch() == Path(tempfile.gettempdir())
    True
    """
    worker = this_worker()
    if worker is None:
        return Path(tempfile.gettempdir())
    scratch = Path(worker.local_directory) / "records"
    scratch.mkdir(exist_ok=True)
    return scratch
