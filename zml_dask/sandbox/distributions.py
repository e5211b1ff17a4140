"""Real software as a corpus: every distribution installed in the running environment.

A distribution becomes a record as GitHub's integration with Zenodo would have
made it: its files in one archive under ``owner-name-<hash>/``, and title,
version, licence, keywords, repository and authors from its own metadata. Ids
and dates are made from a hash of name and version, so that they neither depend
on what else is installed nor differ between two runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import getaddresses
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path
from typing import Final

from zml_dask.records.record import plain_repository
from zml_dask.sandbox.answers import Content
from zml_dask.sandbox.archives import Source, write_tar_gz, write_zip
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.troubles import troubled_records

_MOST_BYTES: Final = 25_000_000
_COMPILED: Final = re.compile(
    r"\.(so|pyd|pyc|pyo|dll|dylib|a|o|lib|exe|bin|jar|class|nbi|nbc)(\.[\d.]+)?$", re.IGNORECASE
)
# What an installer writes differs from machine to machine.
_LICENCE: Final = re.compile(r"(^|/)(licen[cs]e|copying|notice|authors)[^/]*$", re.IGNORECASE)
_FIRST_DAY: Final = datetime(2014, 1, 1, tzinfo=UTC)
_DAYS: Final = 12 * 365
_FIRST_ID: Final = 1_000_000
_IDS: Final = 14_000_000


@dataclass(frozen=True, slots=True)
class _Identity:
    """What is made up about a distribution, the same each time.

    Attributes
    ----------
    record_id : int
        Grows with `created`, as Zenodo's do; the concept's id is one less.
    commit : str
        Forty hex digits.
    is_tar : bool
        Whether its archive is a tar.gz: one of four.
    """

    record_id: int
    created: datetime
    commit: str
    is_tar: bool


class _Workshop:
    """A folder for archives, removed when nothing that could need it is left."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="zml-sandbox-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def installed_corpus(
    limit: int | None = None, *, troubles: bool = True, most_bytes: int = _MOST_BYTES
) -> Corpus:
    """Make a corpus of the installed distributions, in order of their names.

    Archives are built when they are first asked for, in a temporary folder that
    lasts as long as any of the records.

    Parameters
    ----------
    limit : int, optional
        At most so many distributions.
    troubles : bool, optional
        Add a few small records with the troubles real ones have: restricted,
        withdrawn, without files, with several archives, ...
    most_bytes : int, optional
        Larger distributions are left out, bytes unpacked.
    """
    workshop = _Workshop()
    records: dict[int, SandboxRecord] = {}
    for distribution in _by_name():
        if limit is not None and len(records) >= limit:
            break
        metadata = read_metadata(distribution)
        files = _sources(distribution)
        if metadata is None or not files or sum(map(_size, files)) > most_bytes:
            continue
        identity = _identity(metadata)
        # Ids are odd and concepts even; of two with one hash the second moves on.
        while identity.record_id in records:
            identity = _Identity(
                identity.record_id + 2, identity.created, identity.commit, identity.is_tar
            )
        records[identity.record_id] = _record(metadata, identity, files, workshop)
    extra = troubled_records() if troubles else []
    return Corpus([*records.values(), *extra])


def _by_name() -> Iterator[Distribution]:
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        # The first on the path is the one that is imported. This package itself
        # is left out: it changes while it is worked on.
        if name and name.lower().replace("_", "-") != "zml-dask":
            found.setdefault(name.lower().replace("_", "-"), distribution)
    yield from (found[name] for name in sorted(found))


def _sources(distribution: Distribution) -> list[Source]:
    """Give the files worth publishing; empty where there is no source code among them."""
    sources, has_code = [], False
    for file in distribution.files or []:
        path = _path_in_repository(file)
        located = Path(str(file.locate()))
        if path is None or not located.is_file():
            continue
        has_code = has_code or path.endswith(".py")
        sources.append(Source(path, located))
    return sources if has_code else []


def _path_in_repository(file: PackagePath) -> str | None:
    if ".." in file.parts or "__pycache__" in file.parts or _COMPILED.search(file.name):
        return None
    if not file.parts[0].endswith((".dist-info", ".egg-info", ".data")):
        return file.as_posix()
    inner = "/".join(file.parts[1:])
    if inner == "METADATA":
        return "PKG-INFO"
    return inner if _LICENCE.search(inner) else None


def _size(source: Source) -> int:
    return source.data.stat().st_size if isinstance(source.data, Path) else len(source.data)


def _identity(metadata: PackageMetadata) -> _Identity:
    digest = hashlib.sha256(f"{metadata.name}=={metadata.version}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / 2**48
    return _Identity(
        record_id=_FIRST_ID + int(share * _IDS) | 1,
        created=_FIRST_DAY + timedelta(days=share * _DAYS),
        commit=digest[:20].hex(),
        is_tar=digest[20] % 4 == 0,
    )


def _record(
    metadata: PackageMetadata, identity: _Identity, files: list[Source], workshop: _Workshop
) -> SandboxRecord:
    ending = ".tar.gz" if identity.is_tar else ".zip"
    tag = f"v{metadata.version}"
    key = f"{metadata.owner}/{metadata.repository_name}-{tag}{ending}"
    tree = f"https://github.com/{metadata.owner}/{metadata.repository_name}/tree/{tag}"
    return SandboxRecord(
        record_id=identity.record_id,
        concept_id=identity.record_id - 1,
        created=identity.created,
        title=f"{metadata.owner}/{metadata.repository_name}: {metadata.summary or metadata.name}",
        version=tag,
        description=metadata.summary,
        license=metadata.license,
        keywords=metadata.keywords,
        creators=metadata.authors,
        repository=metadata.repository,
        related=((tree, "isSupplementTo", "url"),) if metadata.repository else (),
        files={key: Content(_archive_maker(metadata, identity, files, workshop))},
    )


def _archive_maker(
    metadata: PackageMetadata, identity: _Identity, files: list[Source], workshop: _Workshop
) -> Callable[[], Path]:
    def make() -> Path:
        target = workshop.folder / str(identity.record_id)
        top = f"{metadata.owner}-{metadata.repository_name}-{identity.commit[:7]}"
        write = write_tar_gz if identity.is_tar else write_zip
        write(target, top, files, when=identity.created, commit=identity.commit)
        return target

    return make


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
    license : str
        A lower-case identifier; Zenodo's ``other-open`` where it cannot be recognised.
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
