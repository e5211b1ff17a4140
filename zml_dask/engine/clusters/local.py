"""Workers as processes of this machine, and existing clusters."""

from __future__ import annotations

import ast
import logging
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import current_process, resource_tracker
from pathlib import Path
from types import FrameType
from typing import Final

import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from zml_dask.engine.clusters.cluster_options import ClusterOptions, report_dashboard
from zml_dask.engine.clusters.tls import Security
from zml_dask.errors import ClusterError, UsageError

# The share of the machine that local workers may fill; the rest is the driver's,
# the scheduler's and the page cache's.
_LOCAL_MEMORY_SHARE: Final = 0.8

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://")


@contextmanager
def open_local(
    _spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    """Start a cluster here; see `zml_dask.engine.clusters.open_cluster`.

    Raises `UsageError` if the program has no main guard, so that its workers would run it again,
    or if this process may start no others; `ClusterError` if the scheduler cannot start, or no
    worker does in time.
    """
    _require_main_guard()
    if current_process().daemon:
        raise UsageError(
            "this is a daemon process (of a pool of multiprocessing, of Celery or of a Dask "
            "worker), which may start no other: run it in the main process, or give it a client"
        )
    # Processes of one thread each: rasterising holds the interpreter's lock, and a
    # record that kills its worker then kills nothing else.
    count = workers or (adapt[1] if adapt else CPU_COUNT)
    options.say(
        f"starting {'up to ' if adapt else ''}{count} worker{'s' if count > 1 else ''} "
        "on this machine"
    )
    try:
        started = distributed.LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(MEMORY_LIMIT * _LOCAL_MEMORY_SHARE / count),
            # Any user of this machine reaches its loopback device; the key pair is in memory.
            security=Security.temporary(),
            scheduler_kwargs=options.scheduler_options,
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    except (RuntimeError, ValueError, OSError) as error:
        asked = f" with --dashboard {options.dashboard!r}" if options.dashboard else ""
        why = " ".join(str(error).split())
        raise ClusterError(
            f"Dask's scheduler cannot start on this machine{asked}: {why}"
        ) from error
    with started as cluster, distributed.Client(cluster) as client:
        report_dashboard(client, options)
        cluster.sync(_leave_interrupts_to_the_driver)
        cluster.scale(max(1, adapt[0]) if adapt else count)
        # Also for a fixed number: a worker that dies while it starts ends its nanny,
        # and adapting is what puts another in its place.
        least = max(1, adapt[0]) if adapt else count
        cluster.adapt(minimum=least, maximum=count)
        await_worker(client, options.start_timeout or 120.0, "look at --debug's output")
        yield client


async def _leave_interrupts_to_the_driver() -> None:
    """Block Ctrl-C in worker processes that are started from here on.

    The terminal sends it to every process. The driver stops the build and closes its
    workers; they would otherwise each print a traceback first, most of all while they
    start. What blocks it in the thread that starts them is what they inherit.
    """
    resource_tracker.ensure_running()  # the first process would start it, and lift the block
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _require_main_guard() -> None:
    """Refuse to start processes from a script that each of them would run again.

    Raises `UsageError`, with the line of the script that lacks the guard.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the caller's script is in it
    while frame is not None and not _is_script(frame):
        frame = frame.f_back
    if frame is None:
        return
    path = Path(frame.f_code.co_filename)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # not a file, as in a notebook
        return
    line = frame.f_lineno
    for node in ast.walk(tree):
        test = node if isinstance(node, ast.BoolOp) else getattr(node, "test", None)
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", None) or 0
        if test is None or not first <= line <= last:
            continue
        if any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(test)):
            return
    raise UsageError(
        f"{path}, line {line}: each worker process would run this script again; put what it "
        'does under: if __name__ == "__main__":'
    )


def _is_script(frame: FrameType) -> bool:
    return frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"


def names_scheduler(spec: str) -> bool:
    """Whether this is the address of a scheduler, or an existing scheduler file."""
    return bool(_ADDRESS.match(spec)) or Path(spec).is_file()


@contextmanager
def open_existing(
    spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    """Connect to a cluster; see `zml_dask.engine.clusters.open_cluster`.

    Raises `UsageError` if a size is asked for, or certificates are missing; `ClusterError` if
    nothing answers there, or it has no worker.
    """
    if workers is not None or adapt is not None:
        raise UsageError(
            f"--cluster {spec} is an existing cluster, whose size is set elsewhere; "
            "leave out --workers and --adapt"
        )
    security = Security()
    if spec.startswith("tls://") and security.tls_ca_file is None:
        raise UsageError(
            f"--cluster {spec} needs certificates: set distributed.comm.tls in --cluster-config"
        )
    target = {"address": spec} if _ADDRESS.match(spec) else {"scheduler_file": spec}
    timeout = options.start_timeout or 60.0
    try:
        client = distributed.Client(**target, security=security, timeout=timeout)
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {spec} ({error.__class__.__name__}): check that it "
            "runs, that this machine may reach its port, and that both ends use TLS or neither"
        ) from error
    with client:
        # Longer: a node may have to fetch their image first.
        await_worker(client, options.start_timeout or 300.0, "start workers that connect to it")
        yield client


def await_worker(client: distributed.Client, seconds: float, advice: str) -> None:
    """Wait at most `seconds` for a worker of a cluster whose workers start at once.

    Raises `ClusterError`, with `advice`, where none arrives.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.wait_for_workers(1, timeout=max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            break
        except OSError:  # a connection was cut, as on a busy machine; the next is a new one
            if time.monotonic() > deadline:
                break
        else:
            return
    raise ClusterError(f"no worker arrived within {seconds:.0f} s; {advice}")
