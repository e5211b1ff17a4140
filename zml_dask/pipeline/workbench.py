"""What a worker holds while it builds records: the dataset, a client, scratch, the catalogue."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

from zml_dask.net.client import HttpClient
from zml_dask.net.options import Token
from zml_dask.net.throttle import LocalThrottle, Throttle
from zml_dask.pipeline.errors import ScratchFolderError
from zml_dask.pipeline.options import BuildOptions
from zml_dask.records.catalogue import Catalogue, read_record
from zml_dask.records.parse import ZENODO_API
from zml_dask.records.record import Record
from zml_dask.records.refs import RecordRef
from zml_dask.store.storage import Storage

_PROCESS_THROTTLE = LocalThrottle()
"""Shared by all records of a process: a throttle for each would limit nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where records are read: what a worker must know of the catalogue.

    Attributes
    ----------
    path : str
        Of the catalogue.
    api_url : str
        Root of the API that the files' URLs are built on.
    trusted : bool
        Whether its records may name file systems: only the user's own catalogue.
    """

    path: str
    api_url: str = ZENODO_API
    trusted: bool = False

    @classmethod
    def of(cls, catalogue: Catalogue) -> Source:
        """Return the source that an open catalogue is."""
        return cls(catalogue.path, catalogue.api_url, catalogue.trusted)

    def read(self, ref: RecordRef) -> Record:
        """Read one record."""
        return read_record(self.path, ref, api_url=self.api_url, trusted=self.trusted)


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a worker holds while it builds records.

    Attributes
    ----------
    storage : Storage
        The dataset.
    client : HttpClient
    scratch : Path
        A folder of this worker alone, removed when it is done.
    options : BuildOptions
    trusted : bool
        Whether the records come from the user's own catalogue.
    """

    storage: Storage
    client: HttpClient
    scratch: Path
    options: BuildOptions
    trusted: bool = False


@contextmanager
def workbench(
    storage: Storage,
    options: BuildOptions,
    source: Source | None = None,
    *,
    client: HttpClient | None = None,
    throttle: Throttle | None = None,
) -> Iterator[Workbench]:
    """Set up what building records needs, and clear it away in every case.

    Parameters
    ----------
    storage : Storage
    options : BuildOptions
    source : Source, optional
        Where the records come from; none is trusted where it is not given.
    client : HttpClient, optional
        Default: one of our own, with the token of the options.
    throttle : Throttle, optional
        For that client. Default: in a Dask task the cluster's, else the process's.

    Yields
    ------
    Workbench

    Raises
    ------
    ScratchFolderError
        If no scratch folder can be made on this machine.
    """
    source = source or Source("")
    with ExitStack() as stack:
        folder = _scratch_folder(options.scratch)
        scratch = Path(stack.enter_context(folder))
        if client is None:
            token_file = Path(options.token_file) if options.token_file else None
            token = Token.load(token_file, options.api_url or source.api_url)
            throttle = throttle or _default_throttle()
            client = stack.enter_context(HttpClient(throttle=throttle, token=token))
        yield Workbench(storage, client, scratch, options, source.trusted)


def _scratch_folder(parent: str | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="zml-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise ScratchFolderError(
            f"no folder for archives at work can be made in {parent or tempfile.gettempdir()!r} "
            f"of {gethostname()}: {error.strerror}; name another with --scratch"
        ) from error


def _default_throttle() -> Throttle:
    """Return the throttle of the cluster that this runs on, or of the process."""
    if "distributed" not in sys.modules:  # then this is no Dask task
        return _PROCESS_THROTTLE
    from zml_dask.pipeline.throttle import ClusterThrottle

    return ClusterThrottle()
