"""The options of a cluster."""

from __future__ import annotations

import getpass
import logging
import os
import re
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import distributed

from zml_dask.errors import UsageError

logger = logging.getLogger(__name__)

LOOPBACK_DASHBOARD: Final = "127.0.0.1:8787"
"""Where the dashboard listens unless asked otherwise: reachable through ssh alone."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Further options of a cluster, beside its kind and size.

    Attributes
    ----------
    config : Path or None
        A Dask configuration file (``dask-jobqueue.yaml``), read over what
        ``DASK_CONFIG`` and ``~/.config/dask`` say.
    dashboard : str or None
        Address of the dashboard; ``"off"`` for none; None for the loopback
        device, which only this machine reaches.
    start_timeout : float or None
        Seconds until the first worker, on a job queue since its job was submitted;
        None for 120 on this machine, 300 on a cluster that stands and, on a job
        queue, as long as jobs are waiting there.
    job_name : str or None
        Name of the jobs on a job queue where the section sets none: of the dataset's
        own, so that ``scancel --name`` ends nobody else's. See :func:`job_name_of`.
    say : callable
        Takes a line for the person who waits (a job is pending, and why).
    http_prefix : str
        What the paths of the dashboard and of the scheduler's other pages begin with.
    """

    config: Path | None = None
    dashboard: str | None = None
    start_timeout: float | None = None
    job_name: str | None = None
    say: Callable[[str], None] = logger.info

    http_prefix: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(16)}/")

    @property
    def scheduler_options(self) -> dict[str, Any]:
        """The dashboard, as arguments of Dask's scheduler.

        Its HTTP server listens in any case, if only to say that it is well; without
        a dashboard it is to be on the loopback device too, and in any case below an
        address that nobody can guess.
        """
        if self.dashboard == "off":
            shown = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        else:
            shown = {"dashboard": True, "dashboard_address": self.dashboard or LOOPBACK_DASHBOARD}
        return {**shown, "http_prefix": self.http_prefix}


Opener: TypeAlias = Callable[
    [str, int | None, tuple[int, int] | None, ClusterOptions],
    AbstractContextManager[distributed.Client],
]
"""Opens the clusters of one kind."""


def report_dashboard(client: distributed.Client, options: ClusterOptions) -> None:
    """Tell the user where the dashboard is, with the secret part of its address."""
    if options.dashboard == "off" or find_spec("bokeh") is None:
        return
    port = client.scheduler_info(n_workers=0)["services"].get("dashboard")
    if port is not None:
        host = urlsplit(client.dashboard_link).hostname
        url = f"http://{host}:{port}{options.http_prefix}status"
        options.say(f"dashboard: {url} (on {gethostname()})")


def job_name_of(dataset: str) -> str:
    """Return the name of jobs that work on a dataset: ``zml-<dataset>-<user>``.

    Examples
    --------
    >>> import getpass
    >>> name = job_name_of("s3://bucket/all of zenodo/")
    >>> name == f"zml-all_of_zenodo-{getpass.getuser()}"
    True
    """
    *_, folder = dataset.rstrip("/").replace("\\", "/").split("/")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user is known, as in some containers
        user = str(os.getuid())
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder).strip("._-") or "dataset"
    return f"zml-{plain[:60]}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', user)}"


def parse_adapt(text: str) -> tuple[int, int]:
    """Read ``MIN:MAX``, the bounds of a cluster that grows and shrinks.

    Raises `UsageError` where the text is not of this form, or MAX is below MIN or 1.

    Examples
    --------
    >>> parse_adapt("0:40")
    (0, 40)
    """
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", text)
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) < 1:
        raise UsageError(
            f"--adapt {text!r} is not MIN:MAX; give two numbers of workers such as 2:40"
        )
    return int(match[1]), int(match[2])
