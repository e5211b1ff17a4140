"""What building records needs: the dataset, a client, scratch space and the catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

from zml_dask.engine.activity import dask_worker
from zml_dask.errors import UsageError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.net.client import HttpClient
from zml_dask.net.options import Token
from zml_dask.net.throttle import LocalThrottle, Throttle
from zml_dask.pipeline.options import BuildOptions
from zml_dask.records.catalogue import Catalogue
from zml_dask.store.storage import Storage

_PROCESS_THROTTLE = LocalThrottle()
"""Shared by all records of a process: a throttle for each would limit nothing."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker holds while it builds records into the dataset's storage.

    The scratch folder is this worker's alone, and removed when it is done.
    """

    storage: Storage
    client: HttpClient
    scratch: Path
    options: BuildOptions
    catalogue: Catalogue

    @property
    def fetch_options(self) -> FetchOptions:
        """Those of the options that matter for fetching."""
        return FetchOptions(
            limits=self.options.limits,
            github_url=self.options.github_url,
            cache=self.options.cache,
            offline=self.options.offline,
            trusted=self.catalogue.trusted,
        )


@contextmanager
def open_context(
    storage: Storage,
    options: BuildOptions,
    catalogue: Catalogue | None = None,
    *,
    client: HttpClient | None = None,
) -> Iterator[WorkerContext]:
    """Open what building records needs, and close it in every case.

    Records come from the catalogue; without one, none is trusted. The default client has the token
    of the options and, in a Dask task, the cluster's throttle. Raises `UsageError` if no scratch
    folder can be made on this machine.
    """
    catalogue = catalogue or Catalogue("")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(_scratch_folder(options.scratch)))
        if client is None:
            token = Token.load(options.token_file, options.api_url or catalogue.token_url)
            client = stack.enter_context(HttpClient(throttle=default_throttle(), token=token))
        yield WorkerContext(storage, client, scratch, options, catalogue)


def _scratch_folder(parent: str | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="zml-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            f"no folder for downloaded archives can be made in {parent or tempfile.gettempdir()!r} "
            f"of {gethostname()}: {error.strerror}; name another with --scratch"
        ) from error


def default_throttle() -> Throttle:
    """Return the throttle of the cluster whose task this is, or that of the process."""
    worker = dask_worker()
    if worker is None:
        return _PROCESS_THROTTLE
    from zml_dask.engine.throttle import ClusterThrottle

    return ClusterThrottle(worker)
