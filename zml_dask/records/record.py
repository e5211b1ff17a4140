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


_LINK = r"""
    (?:scm:)?(?:git[+:])?(?:(?:https?|git|ssh)://)?(?:[^/@\s]+@)?(?:www\.)?
    (?P<host>{hosts}(?:api\.|raw\.|codeload\.)?github(?:usercontent)?\.com|gitlab\.com|bitbucket\.org
      |codeberg\.org)(?::\d+(?=/))?[/:](?:repos/)?
    (?P<owner>[a-z0-9][\w.-]{{0,99}})/
    (?P<name>[\w.-]{{1,100}}?)(?:\.git)?(?:@(?P<at>[^/?\#]+))?
    (?:/(?P<rest>[^?\#]*))?(?:[?\#].*)?\Z
"""
# Words in the place of an owner that are none, and words that follow a project of GitLab's.
_NOT_OWNERS = frozenset({"orgs", "users", "sponsors", "topics", "settings", "apps", "marketplace"})
_NOT_PROJECTS = re.compile(
    r"(?:^|/)(?:-|tree|blob|raw|commits?|issues|merge_requests|wikis|tags|releases|archive)(?:/|$)"
)


@dataclass(frozen=True, slots=True)
class ForgeLink:
    """A link to a repository of a forge, or to something in it."""

    host: str
    owner: str  # of a project of GitLab's it may hold slashes
    name: str
    rest: str  # what follows the repository in the link, still quoted
    tag: str | None = None  # after an "@", as pip writes it


def forge_link(link: str, *more_hosts: str) -> ForgeLink | None:
    """Split a link that leads into a known forge, or to one of `more_hosts`; None for any other.

    Examples
    --------
    >>> forge_link("git@github.com:owner/name.git").name
    'name'
    >>> forge_link("https://gitlab.com/group/part/name/-/tree/v1").owner
    'group/part'
    """
    hosts = "".join(f"{re.escape(host)}|" for host in more_hosts if host)
    pattern = re.compile(_LINK.format(hosts=hosts), re.VERBOSE | re.IGNORECASE | re.ASCII)
    match = pattern.match(link.strip())
    if match is None or match["name"] in {".", ".."} or match["owner"].lower() in _NOT_OWNERS:
        return None
    host = match["host"].lower()
    owner, name, rest = match["owner"], match["name"], match["rest"] or ""
    if "github" in host and host not in more_hosts:
        host = "github.com"
    elif host == "gitlab.com" and (found := _NOT_PROJECTS.split(rest, maxsplit=1)[0].strip("/")):
        owner, _, name = f"{owner}/{name}/{found.removesuffix('.git')}".rpartition("/")
    return ForgeLink(host, owner, name, rest, match["at"])


# What GitHub's integration writes comes first: it is the archive's own source.
_RELATIONS = ("isSupplementTo", "isDerivedFrom", "isIdenticalTo")


def repository_of(declared: str | None, related: Sequence[RelatedIdentifier]) -> str | None:
    """Return the URL of a record's repository: the declared one, else one it is linked to.

    `declared` is Zenodo's custom field ``code:codeRepository``.

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
    found = forge_link(link)
    return f"https://{found.host}/{found.owner}/{found.name}" if found else None
