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
from xml.etree import ElementTree as ET

from zml_dask.sandbox.answers import Content
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.serialise import native_json

JSON_DUMP: Final = "records-json.tar.gz"
XML_DUMP: Final = "records-xml.tar.gz"
DELETED_LIST: Final = "records-deleted.csv.gz"

_KEPT: Final = 3
_DATACITE: Final = "http://datacite.org/schema/kernel-4"
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
    """One version of the dumps.

    Attributes
    ----------
    version_id : str
        A UUID.
    contents : mapping of str to Content
        By key, such as `JSON_DUMP`.
    """

    version_id: str
    created: datetime
    contents: Mapping[str, Content]


class Exporter:
    """The dumps of a sandbox.

    Attributes
    ----------
    is_live : bool
        Whether a version is made whenever the records have changed.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.is_live = True
        self._corpus = corpus
        self._versions: list[DumpVersion] = []
        self._seen: list[SandboxRecord] | None = None
        self._lock = threading.Lock()

    def make(
        self,
        api_url: str,
        created: datetime | None = None,
        contents: Mapping[str, bytes | Path] | None = None,
    ) -> DumpVersion:
        """Make a version; from now on none is made without being asked for.

        Parameters
        ----------
        api_url : str
            Root of the API, for the records' links.
        created : datetime, optional
            Default: now.
        contents : mapping of str to bytes or Path, optional
            What takes the place of a key's own content.
        """
        self.is_live = False
        with self._lock:
            return self._add(api_url, created, contents or {})

    def find(self, api_url: str, version_id: str = "") -> DumpVersion | None:
        """Give a version, the newest where none is named."""
        versions = self.versions(api_url)
        return next((one for one in versions if version_id in {"", one.version_id}), None)

    def versions(self, api_url: str) -> list[DumpVersion]:
        """Give the versions that are kept, the newest first."""
        with self._lock:
            if self.is_live and self._seen != (records := list(self._corpus)):
                self._add(api_url, None, {})
                self._seen = records
            return self._versions[::-1]

    def listing(self, api_url: str) -> dict[str, list[dict[str, Any]]]:
        """Give the answer to ``/api/exporter``."""
        versions = self.versions(api_url)
        return {
            key: [
                _described(f"{api_url}/exporter/{key}", key, one, is_head=one is versions[0])
                for one in versions
            ]
            for key in (XML_DUMP, JSON_DUMP, DELETED_LIST)
        }

    def _add(
        self, api_url: str, created: datetime | None, given: Mapping[str, bytes | Path]
    ) -> DumpVersion:
        records = list(self._corpus)
        made: dict[str, bytes | Path | Callable[[], bytes]] = {
            JSON_DUMP: lambda: json_dump(records, api_url),
            XML_DUMP: lambda: xml_dump(records),
            DELETED_LIST: lambda: deleted_list(records),
            **given,
        }
        version = DumpVersion(
            str(uuid.uuid4()),
            created or datetime.now(UTC),
            {key: Content(content) for key, content in made.items()},
        )
        self._versions = [*self._versions, version][-_KEPT:]
        return version


def _described(url: str, key: str, version: DumpVersion, *, is_head: bool) -> dict[str, Any]:
    made = version.contents[key].made()
    links = {"self": f"{url}/{version.version_id}"} | ({"self_head": url} if is_head else {})
    return {
        "version_id": version.version_id,
        "created": version.created.isoformat(),
        "is_head": is_head,
        "size": made.size,
        "checksum": f"md5:{made.md5}",
        "links": links,
    }


def json_dump(records: Iterable[SandboxRecord], api_url: str) -> bytes:
    """Write the dump of all records that are there, all versions, in InvenioRDM's own JSON."""
    return _tar_gz(
        (f"{one.record_id}.json", json.dumps(native_json(one, api_url)).encode())
        for one in records
        if one.withdrawal is None
    )


def xml_dump(records: Iterable[SandboxRecord]) -> bytes:
    """Write the dump in DataCite's XML, which lists no files."""
    return _tar_gz(
        (f"{one.record_id}.xml", _datacite(one)) for one in records if one.withdrawal is None
    )


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


def _tar_gz(entries: Iterable[tuple[str, bytes]]) -> bytes:
    target = BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))
    return target.getvalue()


def _datacite(record: SandboxRecord) -> bytes:
    root = ET.Element("resource", {"xmlns": _DATACITE})
    ET.SubElement(root, "identifier", {"identifierType": "DOI"}).text = record.doi
    creators = ET.SubElement(root, "creators")
    for name in record.creators:
        creator = ET.SubElement(creators, "creator")
        ET.SubElement(creator, "creatorName").text = name
    ET.SubElement(ET.SubElement(root, "titles"), "title").text = record.title
    ET.SubElement(root, "publisher").text = "Zenodo"
    ET.SubElement(root, "publicationYear").text = str(record.created.year)
    kind = {"resourceTypeGeneral": record.resource_type.title()}
    ET.SubElement(root, "resourceType", kind).text = ""
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
