"""Archives fetched ahead of a build, from a node that has a network into a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Thread

from zml_dask.errors import RecordError
from zml_dask.fetch.cache import CachedRecord, cache_record
from zml_dask.fetch.errors import CacheError
from zml_dask.fetch.origins import FetchOptions
from zml_dask.net.client import HttpClient
from zml_dask.pipeline.progress import BuildProgress, Counts, SilentProgress
from zml_dask.pipeline.workbench import Source
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.refs import RecordRef
from zml_dask.text_safety import escape_text

THREADS = 4
"""Downloads at once: the server's limits, not the connections, set the pace."""


@dataclass(frozen=True, slots=True)
class CachingResult:
    """What caching a catalogue came to.

    Attributes
    ----------
    fetched, already : int
        Records that were fetched now, and that were there before.
    bytes : int
        Fetched now.
    failures : mapping of str to int
        Kind -> records.
    """

    fetched: int = 0
    already: int = 0
    bytes: int = 0
    failures: dict[str, int] = field(default_factory=dict)


def cache_catalogue(
    catalogue: Catalogue,
    cache: str,
    client: HttpClient,
    scratch: Path,
    *,
    options: FetchOptions | None = None,
    limit: int | None = None,
    progress: BuildProgress | None = None,
) -> CachingResult:
    """Fetch the archives of a catalogue's records into a cache.

    May be interrupted; the same call goes on where it stopped, also within a file,
    as long as `scratch` is the same.

    Parameters
    ----------
    catalogue : Catalogue
    cache : str
        Folder or any fsspec URL.
    client : HttpClient
    scratch : Path
        Folder on a local disk for what is under way.
    options : FetchOptions, optional
    limit : int, optional
        Only the catalogue's first so many records.
    progress : BuildProgress, optional

    Returns
    -------
    CachingResult

    Raises
    ------
    CacheError
        If the cache cannot be written: no fault of a record.
    CatalogueChangedError
        If the catalogue is replaced meanwhile.
    """
    progress = progress or SilentProgress()
    options = options or FetchOptions(trusted=catalogue.trusted)
    source = Source.of(catalogue)
    refs = catalogue.refs if limit is None else catalogue.refs[:limit]
    kinds: Counter[str] = Counter()
    fetched = already = size = 0

    def cache_one(ref: RecordRef) -> CachedRecord:
        return cache_record(source.read(ref), client, cache, scratch, options)

    waiting = iter(refs)
    running = {_begin(cache_one, ref): ref for ref in islice(waiting, THREADS)}
    try:
        for future, ref in _completed(running):
            try:
                done = future.result()
                already += done.already
                fetched += not done.already
                size += 0 if done.already else done.bytes
            except CacheError:
                raise
            except RecordError as error:
                kinds[error.kind] += 1
                progress.say(
                    f"record {ref.record_id} failed: {error.kind}: {escape_text(str(error))}"
                )
            for following in islice(waiting, 1):
                running[_begin(cache_one, following)] = following
            counts = Counts(already + fetched + kinds.total(), len(refs), kinds.total())
            progress.update("fetch", counts)
    except Exception:
        wait(running)
        raise
    return CachingResult(fetched, already, size, dict(sorted(kinds.items())))


def _begin(function: Callable[[RecordRef], CachedRecord], ref: RecordRef) -> Future[CachedRecord]:
    """Begin a download in a thread of its own, which nobody waits for who is interrupted.

    An executor's would be: at the end of the process at the latest, and a download may
    take hours. What one leaves behind is what a killed process leaves.
    """
    future: Future[CachedRecord] = Future()

    def download() -> None:
        try:
            future.set_result(function(ref))
        except BaseException as error:  # noqa: BLE001 - for who asks for the result
            future.set_exception(error)

    Thread(target=download, name=f"zml-cache-{ref.record_id}", daemon=True).start()
    return future


def _completed(
    running: dict[Future[CachedRecord], RecordRef],
) -> Iterator[tuple[Future[CachedRecord], RecordRef]]:
    """Yield futures as they complete, those that are added meanwhile too."""
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future, running.pop(future)
