"""Plugins on the scheduler, and how a worker talks to them."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import distributed
from distributed.protocol.pickle import dumps
from distributed.utils import sync

_installed: set[tuple[str, str]] = set()
_lock = threading.Lock()


class NamedPlugin(Protocol):
    """A `distributed.SchedulerPlugin` that is known by one name on every cluster."""

    name: str


def install(client: distributed.Client, plugin: NamedPlugin) -> None:
    """Install a plugin on the scheduler from the driver, once."""
    client.register_plugin(plugin, name=plugin.name)


def install_from_worker(worker: distributed.Worker, plugin: NamedPlugin) -> None:
    """Install a plugin on the scheduler from a worker's task, once.

    So a user's own bag on their own cluster is as polite and as robust as a build.
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
