"""Check before the work starts that every worker has the driver's versions.

A worker without this package cannot even read its tasks, and Dask would send them to it
forever. One with another NumPy may build other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import distributed
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.versions import get_versions

from zml_dask.engine.clusters.tls import separate_connections
from zml_dask.errors import ClusterError

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
