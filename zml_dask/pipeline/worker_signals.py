"""Preloaded by workers on this machine: a Ctrl-C is for the driver alone.

The terminal sends it to every process. The driver stops the build and closes its
workers; they would otherwise each print a traceback first.
"""

from __future__ import annotations

import signal

import distributed


def dask_setup(_worker: distributed.Worker) -> None:
    """Ignore interrupts; Dask calls this in a worker process's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
