"""Which GitHub repository, at which tag, a record's links name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from zml_dask.records.record import Record

_FORMS: Final = r"""
    (?:git\+)?(?:(?:https?|git|ssh)://)?(?:[^/@\s]+@)?(?:www\.)?(?:{hosts})[/:]
    (?P<owner>[A-Za-z0-9](?:[A-Za-z0-9-]{{0,99}}))/
    (?P<name>[A-Za-z0-9._-]{{1,100}}?)(?:\.git)?
    (?:/(?P<rest>[^?\#]*))?(?:[?\#].*)?\Z
"""
_TAG_FORMS: Final = (
    re.compile(r"(?:tree|blob|commit|commits)/(?P<tag>.+)"),
    re.compile(r"releases/tag/(?P<tag>.+)"),
    re.compile(r"releases/download/(?P<tag>[^/]+)/.+"),
    re.compile(r"archive/(?:refs/(?:tags|heads)/)?(?P<tag>.+?)\.(?:zip|tar\.gz|tgz)"),
    re.compile(r"(?:zipball|tarball)/(?:refs/tags/)?(?P<tag>.+)"),
)
# What git itself allows in the name of a tag, less what would read as an option.
_TAG: Final = re.compile(r"(?!-)(?!.*\.\.)(?!.*@\{)[^\x00-\x20\x7f~^:?*\[\\]{1,250}\Z")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FIRST_RELATIONS: Final = ("issupplementto", "isderivedfrom", "isidenticalto")


@dataclass(frozen=True, slots=True)
class GithubSource:
    """A repository and the tags to try, the likeliest first.

    Attributes
    ----------
    base : str
        Root of the server, ``https://github.com``.
    owner, name : str
    tags : tuple of str
        Empty where the record names none.
    """

    base: str
    owner: str
    name: str
    tags: tuple[str, ...]

    @property
    def clone_url(self) -> str:
        """What git clones."""
        return f"{self.base}/{self.owner}/{self.name}.git"

    def archive_url(self, tag: str) -> str:
        """The zip that GitHub makes of a tag, or of a commit that stands for one."""
        reference = tag if _COMMIT.fullmatch(tag) else f"refs/tags/{quote(tag)}"
        return f"{self.base}/{self.owner}/{self.name}/archive/{reference}.zip"


def github_source(record: Record, base: str = "https://github.com") -> GithubSource | None:
    """The repository of a record; None where it names none on GitHub.

    Links with a tag come before those without, and ``isSupplementTo``, which
    GitHub's integration writes, before other relations. Where no link has a tag,
    the record's version is tried as one.

    Parameters
    ----------
    record : Record
    base : str
        Root of the server that stands for ``github.com``.
    """
    found = [parsed for link in _links(record) if (parsed := parse_link(link, base)) is not None]
    if not found:
        return None
    owner, name, _ = next((each for each in found if each[2] is not None), found[0])
    same = [tag for o, n, tag in found if (o.lower(), n.lower()) == (owner.lower(), name.lower())]
    tags = [tag for tag in same if tag is not None]
    if not tags and record.version is not None:
        version = record.version.strip()
        other = version.removeprefix("v") if version.startswith("v") else f"v{version}"
        tags = [tag for tag in (version, other) if _TAG.match(tag)]
    return GithubSource(base.rstrip("/"), owner, name, tuple(dict.fromkeys(tags)))


def parse_link(link: str, base: str = "https://github.com") -> tuple[str, str, str | None] | None:
    """Owner, name and tag (None for none) in a link to GitHub; None for any other link.

    Examples
    --------
    >>> parse_link("https://github.com/owner/name/tree/v1.0")
    ('owner', 'name', 'v1.0')
    >>> parse_link("git+https://www.github.com/owner/name.git")
    ('owner', 'name', None)
    >>> parse_link("https://example.org/owner/name")
    """
    hosts = "|".join(re.escape(host) for host in ("github.com", urlsplit(base).netloc) if host)
    match = re.compile(_FORMS.format(hosts=hosts), re.VERBOSE | re.IGNORECASE).match(link.strip())
    if match is None or match["name"] in {".", ".."}:
        return None
    rest = unquote(match["rest"] or "").strip("/")
    tags = (form.fullmatch(rest) for form in _TAG_FORMS)
    tag = next((found["tag"] for found in tags if found is not None), None)
    if tag is not None and not _TAG.match(tag):
        tag = None
    return match["owner"], match["name"], tag


def _links(record: Record) -> Iterator[str]:
    ordered = sorted(
        record.related, key=lambda related: related.relation.lower() not in _FIRST_RELATIONS
    )
    yield from (related.identifier for related in ordered)
    if record.repository is not None:
        yield record.repository
