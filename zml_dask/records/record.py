"""What the system knows of a Zenodo record, whatever JSON it came as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AccessStatus = Literal["open", "restricted", "embargoed", "closed", "metadata-only"]


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One file of a record.

    Attributes
    ----------
    key : str
        Its name within the record; may hold slashes (``owner/repo-v1.zip``).
    size : int or None
        Bytes, where the record says so.
    checksum : str or None
        ``"md5:<32 hex digits>"``; Zenodo knows no other algorithm.
    url : str
        Where its content is: built from record id and key, never taken from a
        2018 record's dead bucket links.
    """

    key: str
    size: int | None
    checksum: str | None
    url: str


@dataclass(frozen=True, slots=True)
class RelatedIdentifier:
    """A link from a record to something else, such as its repository at a tag."""

    identifier: str
    relation: str
    scheme: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a published piece of software.

    Attributes
    ----------
    record_id : int
        Zenodo's number of this version.
    concept_id : int or None
        The number that all versions share.
    doi, title, version, publication_date, created, license, repository : str or None
        As published; `publication_date` as written (``YYYY-MM-DD`` or shorter),
        `created` an ISO 8601 instant, `license` a lower-case identifier.
    keywords, creators : tuple of str
    resource_type : str or None
        Lower case (``"software"``).
    access : AccessStatus
    related : tuple of RelatedIdentifier
    files : tuple of RecordFile
        In key order. Empty where the files may not be had.
    metadata : mapping
        The whole hit, as harvested.
    """

    record_id: int
    concept_id: int | None
    doi: str | None
    title: str | None
    version: str | None
    publication_date: str | None
    created: str | None
    license: str | None
    repository: str | None
    keywords: tuple[str, ...]
    creators: tuple[str, ...]
    resource_type: str | None
    access: AccessStatus
    related: tuple[RelatedIdentifier, ...]
    files: tuple[RecordFile, ...]
    metadata: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def archive_bytes(self) -> int:
        """Sum of the known sizes of the record's files, in bytes."""
        return sum(file.size or 0 for file in self.files)
