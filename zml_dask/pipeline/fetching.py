"""The job that fetches archives into a cache, on a node with a network, before a build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from zml_dask.engine.job import Job, TaskReport
from zml_dask.errors import RecordError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.fetch.origins import cache_record
from zml_dask.net.client import HttpClient
from zml_dask.records.catalogue import Catalogue, RecordRef, RefTable
from zml_dask.text_safety import escape_text


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Records that were fetched now and before, the bytes fetched now, and failures by kind."""

    fetched: int = 0
    already: int = 0
    bytes: int = 0
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FetchArchives(Job[RecordRef, HttpClient, int | RecordError | None, FetchResult]):
    """Fetches the archives of a catalogue's records into a cache, a folder or any fsspec URL.

    May be interrupted; the same job goes on where it stopped, also within a file, as long as
    `scratch`, a folder on a local disk for unfinished downloads, is the same. All threads share
    the client: the server's limits, not the connections, set the pace.
    """

    name: ClassVar[str] = "fetch"

    catalogue: Catalogue
    cache: str
    client: HttpClient
    scratch: Path
    options: FetchOptions

    def plan(self, workers: int) -> RefTable:
        """Return one task per record."""
        return self.catalogue.refs

    def open(self) -> AbstractContextManager[HttpClient]:
        """Return the client."""
        return nullcontext(self.client)

    def run(self, task: RecordRef, context: HttpClient) -> int | RecordError | None:
        """Fetch one record.

        Raises `RecordError` if the cache cannot be written, which is no fault of the record;
        `ZmlError` if the catalogue is replaced meanwhile.
        """
        try:
            record = self.catalogue.read(task)
            return cache_record(record, context, self.cache, self.scratch, self.options)
        except RecordError as error:
            if error.kind == "cache":
                raise
            return error

    def finish(self, results: Iterator[int | RecordError | None]) -> FetchResult:
        """Add up what was fetched."""
        total = FetchResult()
        for result in results:
            if isinstance(result, RecordError):
                total.failures[result.kind] = total.failures.get(result.kind, 0) + 1
            elif result is None:
                total = replace(total, already=total.already + 1)
            else:
                total = replace(total, fetched=total.fetched + 1, bytes=total.bytes + result)
        return replace(total, failures=dict(sorted(total.failures.items())))

    def report(self, result: int | RecordError | None) -> TaskReport:
        """Report which record failed."""
        if not isinstance(result, RecordError):
            return TaskReport()
        return TaskReport(failed=1, lines=[f"failed: {result.kind}: {escape_text(str(result))}"])
