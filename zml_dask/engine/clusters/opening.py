"""Open a cluster of any kind, and check that its workers have the driver's versions.

One call, `open_cluster`, gives a `distributed.Client` for any of them, so that the
build itself does not know the difference. A worker without this package cannot even read
its tasks, and Dask would send them to it forever; one with another NumPy may build other bytes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeAlias

import dask
import distributed
from dask.utils import parse_timedelta
from distributed import Client
from distributed.core import Status
from distributed.deploy import Cluster
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import silence_logging_cmgr
from distributed.versions import VersionMismatchWarning, get_versions

from zml_dask.engine.clusters.cluster_options import ClusterOptions, Opener
from zml_dask.engine.clusters.local import names_scheduler, open_existing, open_local
from zml_dask.engine.clusters.settings import resolve, settings_of
from zml_dask.engine.clusters.tls import separate_connections
from zml_dask.errors import ClusterError, UsageError
from zml_dask.text_safety import brief_repr

logger = logging.getLogger(__name__)

_LEAST_TIMEOUT: Final = 11
"""Seconds of silence after which Dask can give up a connection at the earliest."""


@contextmanager
def open_cluster(
    spec: str = "local",
    workers: int | None = None,
    adapt: tuple[int, int] | None = None,
    options: ClusterOptions | None = None,
) -> Iterator[distributed.Client]:
    """Open a cluster, and close what was opened.

    Parameters
    ----------
    spec : str
        ``"local"``; a section of dask-jobqueue's configuration (``"slurm"``,
        ``"pbs"``, ``"sge"``, ``"lsf"``, ...); the address of a scheduler
        (``"tcp://..."``, ``"tls://..."``); or the path of a scheduler file. The
        last two are left standing afterwards.
    workers : int, optional
        How many workers. Default: locally one a core; on a job queue one.
    adapt : tuple of int, optional
        Fewest and most workers, in place of `workers`; the number follows the
        work that waits.
    options : ClusterOptions, optional

    Yields
    ------
    distributed.Client
        With at least one worker.

    Raises
    ------
    UsageError
        Where the options do not fit together or the configuration is wrong.
    ClusterError
        Where the cluster cannot be reached or its workers do not arrive; the
        message says what the queue says.

    Examples
    --------
    >>> with open_cluster("local", workers=1) as client:
    ...     client.submit(sum, [1, 2, 3]).result()
    6
    """
    options = ClusterOptions() if options is None else options
    _check_sizes(workers, adapt)
    # Chosen before the settings are made: what is imported on the way registers
    # defaults, which would be forgotten with the settings.
    opener = _opener(spec)
    with (
        dask.config.set(settings_of(options)),
        _quiet(),
        # Our own errors say what went wrong; Dask logs a screen of tracebacks for a
        # scheduler that was ended.
        silence_logging_cmgr(logging.CRITICAL),
    ):
        _check_timeout()
        with opener(spec, workers, adapt, options) as client:
            if opener is not open_local:  # its workers are this very Python
                check_versions(client, options.say)
            yield client


def check_cluster(spec: str, options: ClusterOptions) -> None:
    """Refuse an unknown cluster before anything is made for it.

    Raises `UsageError` where `spec` is no section of the configuration, or the section is wrong.

    Examples
    --------
    >>> check_cluster("local", ClusterOptions())
    """
    if spec != "local" and not names_scheduler(spec):
        resolve(spec, options)


def check_client(given: object) -> None:
    """Refuse what :func:`use_client` cannot use.

    Raises `UsageError` where it is neither a client, a cluster nor text, is closed, or is
    asynchronous.

    Examples
    --------
    >>> check_client(4)
    Traceback (most recent call last):
        ...
    zml_dask.errors.UsageError: client=4 is no Dask client but int; \
give a distributed.Client, a cluster such as LocalCluster(n_workers=4), or an address
    """
    if isinstance(given, str):
        return
    kind = type(given).__name__
    if not isinstance(given, Client | Cluster):
        raise UsageError(
            f"client={brief_repr(given)} is no Dask client but {kind}; give a distributed.Client, "
            "a cluster such as LocalCluster(n_workers=4), or an address"
        )
    if given.asynchronous:
        raise UsageError(
            f"the {kind} is asynchronous, and a build waits; make it without asynchronous=True, "
            "and within a coroutine call the build by asyncio.to_thread"
        )
    if given.status in ("closed", "closing", Status.closed, Status.closing):
        raise UsageError(f"the {kind} is closed; give one that is open")


@contextmanager
def use_client(given: Client | Cluster | str) -> Iterator[distributed.Client]:
    """Use the caller's own client or cluster, and leave it open.

    Text is what :func:`open_cluster` takes, such as an address. `UsageError` as
    :func:`check_client`; `ClusterError` where a worker lacks this package or has other versions.
    """
    check_client(given)
    if isinstance(given, str):
        with open_cluster(given) as client:
            yield client
        return
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        client = given
        if isinstance(given, Cluster):
            client = stack.enter_context(Client(given))
        check_versions(client, logger.info)
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore Dask's warnings where our own message is better, or where nothing is wrong.

    It takes another port where the dashboard's is in use; our own handshake names versions that
    differ.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        warnings.filterwarnings("ignore", category=VersionMismatchWarning)
        yield


def _opener(spec: str) -> Opener:
    if spec == "local":
        return open_local
    if names_scheduler(spec):
        return open_existing
    # Imported here: a laptop's build need not load dask-jobqueue.
    from zml_dask.engine.clusters.jobqueue import open_jobqueue

    return open_jobqueue


def _check_timeout() -> None:
    """Refuse a timeout that is too short for Dask's connections."""
    name = "distributed.comm.timeouts.tcp"
    timeout = dask.config.get(name)
    if parse_timedelta(timeout) < _LEAST_TIMEOUT:
        raise UsageError(
            f"{name}: {timeout} is too short: Dask asks a silent connection ten times, a second "
            f"apart; give {_LEAST_TIMEOUT}s or more"
        )


def _check_sizes(workers: int | None, adapt: tuple[int, int] | None) -> None:
    if workers is not None and adapt is not None:
        raise UsageError("--workers and --adapt exclude each other; give one of them")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} is too few; give 1 or more")


Versions: TypeAlias = Mapping[str, str | None]
"""Name of what must agree -> its version, None where it is missing."""

_PACKAGES: Final = ("zml_dask", "dask", "distributed", "numpy")


def own_versions() -> Versions:
    """Return the driver's versions.

    Examples
    --------
    >>> sorted(own_versions())
    ['Python', 'dask', 'distributed', 'numpy', 'zml_dask']
    """
    return _versions_in(get_versions(_PACKAGES))


def _versions_in(answer: Mapping[str, Any]) -> Versions:
    """Select the versions that must agree from Dask's description of an interpreter."""
    python = ".".join(answer["host"]["python"].split(".")[:2])
    return {"Python": python, **{name: answer["packages"][name] for name in _PACKAGES}}


class SameVersions(WorkerPlugin):
    """Closes a worker that joins later and has other versions; one without this class ends too."""

    name = "zml-same-versions"

    def __init__(self, versions: Versions) -> None:
        self.versions = versions

    def setup(self, worker: distributed.Worker) -> None:
        """Compare versions when the worker joins."""
        separate_connections(worker)
        wrong = difference(self.versions, own_versions())
        if wrong is not None:
            worker.log_event(self.name, f"worker {worker.address} {wrong} and was closed")
            # Not at once: the worker is in the middle of joining.
            worker.loop.call_later(0.1, worker.close, nanny=True)


def difference(wanted: Versions, found: Versions) -> str | None:
    """Say how another interpreter differs; None where it does not.

    Examples
    --------
    >>> difference({"zml_dask": "1.0"}, {"zml_dask": None})
    'has no zml_dask'
    >>> difference({"Python": "3.12", "numpy": "2.1.0"}, {"Python": "3.11", "numpy": "2.1.0"})
    'has Python 3.11 where the driver has 3.12'
    """
    for name, version in wanted.items():
        other = found.get(name)
        if other != version:
            if other is None:
                return f"has no {name}"
            return f"has {name} {other} where the driver has {version}"
    return None


def check_versions(client: distributed.Client, say: Callable[[str], None]) -> None:
    """Compare scheduler and workers with the driver, now and whenever a worker joins.

    `say` takes a line for the user, where a worker that joins later is closed. Raises
    `ClusterError` if one differs, which names it and says how.
    """
    wanted = own_versions()
    answers = client.get_versions(packages=list(_PACKAGES))
    found = {**answers["workers"], "scheduler": answers["scheduler"]}
    workers = client.scheduler_info(n_workers=-1)["workers"]
    wrong = []
    for address, answer in found.items():
        problem = difference(wanted, _versions_in(answer))
        if problem:
            wrong.append(f"{_described(address, workers)} {problem}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ClusterError(
            f"{min(wrong)}{more}: scheduler and workers need the driver's own environment; "
            "install the same there, or name the right python"
        )
    separate_connections(client)
    client.run_on_scheduler(_separate_scheduler)
    client.subscribe_topic(SameVersions.name, lambda event: say(str(event[1])))
    client.register_plugin(SameVersions(wanted), name=SameVersions.name)


def _separate_scheduler(dask_scheduler: distributed.Scheduler) -> None:
    separate_connections(dask_scheduler)


def _described(address: str, workers: Mapping[str, Any]) -> str:
    if address not in workers:
        return f"the {address}"
    name = workers[address].get("name")
    also = f" ({name})" if name not in (None, address) else ""
    return f"worker {address}{also}"
