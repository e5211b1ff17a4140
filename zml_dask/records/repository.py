"""Which repository a record's code was developed in, from what its metadata says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zml_dask.records.record import RelatedIdentifier

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
