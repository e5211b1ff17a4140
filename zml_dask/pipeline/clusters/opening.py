"""Where a build runs: this machine, a job queue, or a Dask cluster that stands already.

One call, `open_cluster`, gives a `distributed.Client` for any of them, so that the
build itself does not know the difference.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import dask
import distributed
import yaml
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from zml_dask.errors import UsageError, ZmlError

logger = logging.getLogger(__name__)

LOOPBACK_DASHBOARD: Final = "127.0.0.1:8787"
"""Where the dashboard listens unless asked otherwise: reachable through ssh alone."""

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://")

# The share of the machine that local workers may fill; the rest is the driver's,
# the scheduler's and the page cache's.
_LOCAL_MEMORY_SHARE: Final = 0.8

# What holds on every cluster that this package starts. Three deaths condemn a
# record, one by chance (preemption) does not, see `zml_dask.pipeline.isolation`.
# Results are counts, never worth spilling; a worker near its limit should stop
# taking work and then die with the one record that fills it.
_CLUSTER_CONFIG: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.deploy.lost-worker-timeout": "5s",
    # 40 bytes a record: 20 MiB for half a million, and no reason to warn.
    "distributed.admin.large-graph-warning-threshold": "200MiB",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
}


class ClusterOptionError(UsageError):
    """What was asked of the cluster cannot be: an option or a configuration file."""


class ClusterUnavailableError(ZmlError):
    """The cluster could not be reached, or none of its workers arrived."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How to open a cluster, beyond which one and how large.

    Attributes
    ----------
    config : Path or None
        A Dask configuration file (``dask-jobqueue.yaml``), read over what
        ``DASK_CONFIG`` and ``~/.config/dask`` say.
    dashboard : str or None
        Address of the dashboard; ``"off"`` for none; None for the loopback
        device, which only this machine reaches.
    tls : bool
        Whether a job-queue cluster that names no certificates of its own gets
        temporary ones. Who reaches an open scheduler can run anything.
    start_timeout : float or None
        Seconds until the first worker; None for 120 on this machine and, on a
        job queue, as long as jobs are waiting there.
    say : callable
        Takes a line for the person who waits (a job is pending, and why).
    """

    config: Path | None = None
    dashboard: str | None = None
    tls: bool = True
    start_timeout: float | None = None
    say: Callable[[str], None] = logger.info

    @property
    def scheduler_options(self) -> dict[str, Any]:
        """The dashboard in the scheduler's words.

        Its HTTP server listens in any case, if only to say that it is well; without
        a dashboard it is to be on the loopback device too.
        """
        if self.dashboard == "off":
            return {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        return {"dashboard": True, "dashboard_address": self.dashboard or LOOPBACK_DASHBOARD}


Opener: TypeAlias = Callable[
    [str, int | None, tuple[int, int] | None, ClusterOptions],
    AbstractContextManager[distributed.Client],
]
"""Opens the clusters of one kind."""


def parse_adapt(text: str) -> tuple[int, int]:
    """Read ``MIN:MAX``, the bounds of a cluster that grows and shrinks.

    Raises
    ------
    ClusterOptionError
        Where the text is not of this form, or MAX is below MIN or 1.

    Examples
    --------
    >>> parse_adapt("0:40")
    (0, 40)
    """
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", text)
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) < 1:
        raise ClusterOptionError(
            f"--adapt {text!r} is not MIN:MAX; give two numbers of workers such as 2:40"
        )
    return int(match[1]), int(match[2])


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
    ClusterOptionError
        Where the options do not fit together or the configuration is wrong.
    ClusterUnavailableError
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
        dask.config.set(_settings(options)),
        _any_port_will_do(),
        # What goes wrong is said by our own errors; Dask's log is a screen of
        # tracebacks for a scheduler that was ended.
        silence_logging_cmgr(logging.CRITICAL),
        opener(spec, workers, adapt, options) as client,
    ):
        yield client


@contextmanager
def _any_port_will_do() -> Iterator[None]:
    """Dask takes another port where the dashboard's is taken; no reason for three lines."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
        yield


def _opener(spec: str) -> Opener:
    if spec == "local":
        return _local
    if _ADDRESS.match(spec) or Path(spec).is_file():
        return _standing
    # Imported here: a laptop's build need not load dask-jobqueue.
    from zml_dask.pipeline.clusters.jobqueue import open_jobqueue

    return open_jobqueue


def _check_sizes(workers: int | None, adapt: tuple[int, int] | None) -> None:
    if workers is not None and adapt is not None:
        raise ClusterOptionError("--workers and --adapt exclude each other; give one of them")
    if workers is not None and workers < 1:
        raise ClusterOptionError(f"--workers {workers} is too few; give 1 or more")


def _settings(options: ClusterOptions) -> dict[str, Any]:
    """Ours, which the file the user names may overrule."""
    settings: dict[str, Any] = dict(_CLUSTER_CONFIG)
    if options.config is not None:
        settings.update(_flattened(read_config(options.config)))
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """Read a Dask configuration file.

    Raises
    ------
    ClusterOptionError
        Where it cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterOptionError(
            f"--cluster-config {path} cannot be read: {error.__class__.__name__}; "
            "copy dask-jobqueue.yaml and fill it in"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f", line {where.line + 1}"
        raise ClusterOptionError(f"--cluster-config {path}{line} is not YAML") from None
    if not isinstance(content, dict):
        raise ClusterOptionError(f"--cluster-config {path} holds no settings")
    return content


def _flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted ones, so that setting one leaves its neighbours."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flattened(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextmanager
def _local(
    _spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    # Processes of one thread each: rasterising holds the interpreter's lock, and a
    # record that kills its worker then kills nothing else.
    count = workers or (adapt[1] if adapt else CPU_COUNT)
    with (
        distributed.LocalCluster(
            n_workers=0 if adapt else count,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(MEMORY_LIMIT * _LOCAL_MEMORY_SHARE / count),
            scheduler_kwargs=options.scheduler_options,
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload=["zml_dask.pipeline.worker_signals"],
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        # Also for a fixed number: a worker that dies while it starts ends its nanny,
        # and adapting is what puts another in its place.
        least = max(1, adapt[0]) if adapt else count
        cluster.adapt(minimum=least, maximum=count)
        _await_worker(client, options.start_timeout or 120.0, "look at --debug's output")
        yield client


@contextmanager
def _standing(
    spec: str, workers: int | None, adapt: tuple[int, int] | None, options: ClusterOptions
) -> Iterator[distributed.Client]:
    if workers is not None or adapt is not None:
        raise ClusterOptionError(
            f"--cluster {spec} stands already and its size is not ours; "
            "leave out --workers and --adapt"
        )
    security = distributed.Security()
    if spec.startswith("tls://") and security.tls_ca_file is None:
        raise ClusterOptionError(
            f"--cluster {spec} needs certificates: set distributed.comm.tls in --cluster-config"
        )
    target = {"address": spec} if _ADDRESS.match(spec) else {"scheduler_file": spec}
    timeout = options.start_timeout or 60.0
    try:
        client = distributed.Client(**target, security=security, timeout=timeout)
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        raise ClusterUnavailableError(
            f"no Dask scheduler answers at {spec} ({error.__class__.__name__}): check that it "
            "runs, that this machine may reach its port, and that both ends use TLS or neither"
        ) from error
    with client:
        _await_worker(client, timeout, "start workers that connect to it")
        yield client


def _await_worker(client: distributed.Client, seconds: float, advice: str) -> None:
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        raise ClusterUnavailableError(
            f"no worker arrived within {seconds:.0f} s; {advice}"
        ) from None
