"""Zenodo's monthly metadata dumps, ``/api/exporter``: all records, and the list of deleted ones.

A version holds the records as they were when it was made; the last three are
kept. Unless its user makes them, a sandbox makes a new one whenever somebody
asks after its records have changed.
"""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final

from zml_dask.sandbox.answers import Content
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.serialise import native_json

JSON_DUMP: Final = "records-json.tar.gz"
DELETED_LIST: Final = "records-deleted.csv.gz"

_KEPT: Final = 3
_COLUMNS: Final = (
    "record_id",
    "doi",
    "parent_id",
    "parent_doi",
    "removal_note",
    "removal_reason",
    "removal_date",
    "citation_text",
)


@dataclass(frozen=True)
class DumpVersion:
    """One version of the dumps: contents by key, such as `JSON_DUMP`, under a UUID."""

    version_id: str
    created: datetime
    contents: Mapping[str, Content]


class Exporter:
    """The dumps of a sandbox: of its current records, until a version is made by hand."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._versions: list[DumpVersion] = []
        self._seen: list[SandboxRecord] | None = None
        self._is_live = True
        self._lock = threading.Lock()

    def make(
        self,
        api_url: str,
        created: datetime | None = None,
        contents: Mapping[str, bytes | Path] | None = None,
    ) -> None:
        """Make a version; from now on none is made automatically.

        The records' links begin with `api_url`. Given `contents` replace a key's own.
        """
        with self._lock:
            self._is_live = False
            self._add(api_url, created, contents or {})

    def find(self, api_url: str, version_id: str = "") -> DumpVersion | None:
        """Return a version, the newest where none is named."""
        versions = self.versions(api_url)
        return next((one for one in versions if version_id in {"", one.version_id}), None)

    def versions(self, api_url: str) -> list[DumpVersion]:
        """Return the versions that are kept, the newest first."""
        with self._lock:
            if self._is_live and self._seen != (records := list(self._corpus)):
                self._add(api_url, None, {})
                self._seen = records
            return self._versions[::-1]

    def listing(self, api_url: str) -> dict[str, list[dict[str, Any]]]:
        """Return the answer to ``/api/exporter``."""
        listed: dict[str, list[dict[str, Any]]] = {JSON_DUMP: [], DELETED_LIST: []}
        for number, version in enumerate(self.versions(api_url)):
            for key, rows in listed.items():
                url, content = f"{api_url}/exporter/{key}", version.contents[key]
                head = {"self_head": url} if number == 0 else {}
                row = {
                    "version_id": version.version_id,
                    "created": version.created.isoformat(),
                    "is_head": number == 0,
                    "size": content.size,
                    "checksum": f"md5:{content.md5}",
                    "links": {"self": f"{url}/{version.version_id}", **head},
                }
                rows.append(row)
        return listed

    def _add(
        self, api_url: str, created: datetime | None, given: Mapping[str, bytes | Path]
    ) -> None:
        records = list(self._corpus)
        made: dict[str, bytes | Path | Callable[[], bytes]] = {
            JSON_DUMP: lambda: json_dump(records, api_url),
            DELETED_LIST: lambda: deleted_list(records),
            **given,
        }
        contents = {key: Content(content) for key, content in made.items()}
        version = DumpVersion(str(uuid.uuid4()), created or datetime.now(UTC), contents)
        self._versions = [*self._versions, version][-_KEPT:]


def json_dump(records: Iterable[SandboxRecord], api_url: str) -> bytes:
    """Write the dump of all existing records, all versions, in InvenioRDM's own JSON."""
    target = BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for one in records:
            if one.withdrawal is None:
                data = json.dumps(native_json(one, api_url)).encode()
                entry = tarfile.TarInfo(f"{one.record_id}.json")
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))
    return target.getvalue()


def deleted_list(records: Iterable[SandboxRecord]) -> bytes:
    """Write the list of withdrawn records, a gzipped CSV."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for one in records:
        if one.withdrawal is not None:
            gone = one.withdrawal
            row = [one.record_id, one.doi, one.concept, one.concept_doi, gone.note]
            writer.writerow([*row, gone.reason, gone.date, f"{one.title}. {one.doi}"])
    return gzip.compress(text.getvalue().encode(), mtime=0)
