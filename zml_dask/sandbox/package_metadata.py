"""What an installed distribution tells of itself, in Zenodo's terms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import getaddresses
from importlib.metadata import Distribution
from typing import Final

from zml_dask.records.record import plain_repository

_UNKNOWN_LICENCE: Final = "other-open"
_SPDX: Final = re.compile(r"[A-Za-z0-9][\w.+-]*( (OR|AND|WITH) [\w.+-]+)*")
_CLASSIFIED: Final = {
    "mit license": "mit",
    "bsd license": "bsd-3-clause",
    "apache software license": "apache-2.0",
    "isc license (iscl)": "isc",
    "python software foundation license": "psf-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "mpl-2.0",
    "gnu general public license v2 (gplv2)": "gpl-2.0-only",
    "gnu general public license v3 (gplv3)": "gpl-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "gpl-3.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "lgpl-3.0-only",
    "gnu library or lesser general public license (lgpl)": "lgpl-2.0-or-later",
    "the unlicense (unlicense)": "unlicense",
}


@dataclass(frozen=True, slots=True)
class PackageMetadata:
    """A distribution's metadata.

    Attributes
    ----------
    name, version, summary : str
    license : str
        A lower-case identifier; Zenodo's ``other-open`` where it is not told apart.
    keywords, authors : tuple of str
    repository : str or None
        ``https://github.com/owner/name``.
    owner, repository_name : str
        From `repository`, else from the name.
    """

    name: str
    version: str
    summary: str
    license: str
    keywords: tuple[str, ...]
    authors: tuple[str, ...]
    repository: str | None
    owner: str
    repository_name: str


def read_metadata(distribution: Distribution) -> PackageMetadata | None:
    """Read a distribution's metadata; None for one that has no name or version."""
    fields = distribution.metadata
    if "Name" not in fields or "Version" not in fields:
        return None
    name = fields["Name"]
    repository = _repository(
        [value for key in ("Project-URL", "Home-page") for value in fields.get_all(key, [])]
    )
    owner, _, repository_name = (
        (repository or "").removeprefix("https://github.com/").partition("/")
    )
    return PackageMetadata(
        name=name,
        version=fields["Version"],
        summary=_first(fields.get_all("Summary", [])),
        license=_licence(distribution),
        keywords=_keywords(_first(fields.get_all("Keywords", []))),
        authors=_authors(distribution) or (f"The {name} developers",),
        repository=repository,
        owner=owner or f"{name.lower()}-dev",
        repository_name=repository_name or name,
    )


def _first(values: list[str]) -> str:
    return next((value.strip() for value in values if value.strip() != "UNKNOWN"), "")


def _repository(links: list[str]) -> str | None:
    """Give the first link into GitHub: those to sponsors' pages and such have no second part."""
    for link in links:
        url = plain_repository(link.rpartition(",")[2])
        if url and url.startswith("https://github.com/") and "/sponsors/" not in url:
            return url
    return None


def _keywords(text: str) -> tuple[str, ...]:
    words = text.split(",") if "," in text else text.split()
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _authors(distribution: Distribution) -> tuple[str, ...]:
    fields = distribution.metadata
    names = [name for value in fields.get_all("Author", []) for name in value.split(",")]
    names += [name for name, _ in getaddresses(fields.get_all("Author-email", []))]
    names += [name for value in fields.get_all("Maintainer", []) for name in value.split(",")]
    clean = (name.strip() for name in names)
    return tuple(dict.fromkeys(name for name in clean if name and "@" not in name))[:20]


def _licence(distribution: Distribution) -> str:
    fields = distribution.metadata
    for key in ("License-Expression", "License"):
        text = _first(fields.get_all(key, []))
        if _SPDX.fullmatch(text):
            return text.lower()
    for classifier in fields.get_all("Classifier", []):
        family, _, name = classifier.rpartition(" :: ")
        if family.startswith("License") and name.lower() in _CLASSIFIED:
            return _CLASSIFIED[name.lower()]
    return _UNKNOWN_LICENCE
