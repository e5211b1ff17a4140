"""Before work starts: every worker has what the driver has, or is named.

A worker without this package cannot even read its tasks, and Dask would send them to it for
ever. One with another NumPy may build other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import distributed
from distributed.diagnostics.plugin import WorkerPlugin

from zml_dask.engine.clusters.tls import separate_connections
from zml_dask.errors import ClusterError

Versions: TypeAlias = Mapping[str, str | None]
"""Name of what must agree -> its version, None where it is missing."""

_NAMES: Final = ("zml_dask", "dask", "distributed", "numpy")

# Text, so that a worker that lacks all of it can answer: the built-in `eval` is everywhere.
_QUESTION: Final = f"""
(lambda sys, util, importlib: {{
    "Python": "%d.%d" % sys.version_info[:2],
    **{{
        name: getattr(importlib.import_module(name), "__version__", "?")
        if util.find_spec(name) else None
        for name in {_NAMES!r}
    }},
}})(__import__("sys"), __import__("importlib.util", fromlist=["util"]), __import__("importlib"))
""".strip()


def own_versions() -> Versions:
    """Return what the driver has.

    Examples
    --------
    >>> sorted(own_versions())
    ['Python', 'dask', 'distributed', 'numpy', 'zml_dask']
    """
    versions: Versions = eval(_QUESTION)  # noqa: S307 - our own text, above
    return versions


class SameVersions(WorkerPlugin):
    """Closes a worker that joins later and has other versions; one without this class ends too."""

    name = "zml-same-versions"

    def __init__(self, versions: Versions) -> None:
        self.versions = versions

    def setup(self, worker: distributed.Worker) -> None:
        """Compare, as the worker joins."""
        separate_connections(worker)
        wrong = difference(self.versions, own_versions())
        if wrong is not None:
            worker.log_event(self.name, f"worker {worker.address} {wrong} and was let go")
            # Not at once: the worker is in the middle of joining.
            worker.loop.call_later(0.1, worker.close, nanny=True)


def difference(wanted: Versions, found: Versions) -> str | None:
    """Say in what another interpreter differs; None where it does not.

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

    Parameters
    ----------
    client : distributed.Client
    say : callable
        Takes a line for the person who waits, where a worker that joins later is let go.

    Raises
    ------
    ClusterError
        If one differs; the message names it and says in what.
    """
    wanted = own_versions()
    answers: dict[str, Any] = client.run(eval, _QUESTION, on_error="return")
    answers["scheduler"] = client.run_on_scheduler(eval, _QUESTION)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    wrong = []
    for address, found in answers.items():
        if isinstance(found, OSError):  # it has gone in the meantime
            continue
        if isinstance(found, Exception):
            problem: str | None = f"cannot import the same: {type(found).__name__}: {found}"
        else:
            problem = difference(wanted, found)
        if problem:
            wrong.append(f"{_called(address, workers)} {problem}")
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


def _called(address: str, workers: Mapping[str, Any]) -> str:
    if address not in workers:
        return f"the {address}"
    name = workers[address].get("name")
    also = f" ({name})" if name not in (None, address) else ""
    return f"worker {address}{also}"
