"""What the system knows of a Zenodo record, whatever JSON it came as."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


_FORGE = re.compile(
    r"""(?:git\+)?(?:https?|git|ssh)://(?:[^/@]*@)?(?:www\.)?
        (?P<host>github\.com|gitlab\.com|bitbucket\.org|codeberg\.org)
        /(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)""",
    re.IGNORECASE | re.VERBOSE,
)
# What GitHub's integration writes comes first: it is the archive's own source.
_RELATIONS = ("isSupplementTo", "isDerivedFrom", "isIdenticalTo")


def repository_of(declared: str | None, related: Sequence[RelatedIdentifier]) -> str | None:
    """Give the URL of a record's repository: the declared one, else one it is linked to.

    Parameters
    ----------
    declared : str or None
        Zenodo's custom field ``code:codeRepository``.
    related : sequence of RelatedIdentifier
        Links such as ``https://github.com/owner/name/tree/v1``.

    Examples
    --------
    >>> link = "git+https://www.github.com/owner/name.git"
    >>> repository_of(None, [RelatedIdentifier(link, "isSupplementTo")])
    'https://github.com/owner/name'
    """
    if declared:
        return plain_repository(declared) or declared
    ordered = [
        *(link for relation in _RELATIONS for link in related if link.relation == relation),
        *(link for link in related if not link.relation),
    ]
    found = (plain_repository(link.identifier) for link in ordered)
    return next((url for url in found if url), None)


def plain_repository(link: str) -> str | None:
    """Reduce a link into a known forge to ``https://HOST/OWNER/NAME``; None for others.

    Examples
    --------
    >>> plain_repository("https://github.com/owner/name/tree/v1.0")
    'https://github.com/owner/name'
    """
    match = _FORGE.match(link.strip())
    if match is None:
        return None
    name = match["name"].removesuffix(".git")
    return f"https://{match['host'].lower()}/{match['owner']}/{name}" if name else None
