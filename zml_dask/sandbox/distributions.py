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
from collections.abc import Container, Iterator
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


class _Folder:
    """A folder for archives, removed with the last object that may need it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="zml-sandbox-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def installed_corpus(
    limit: int | None = None, *, troubles: bool = True, most_bytes: int = _MOST_BYTES
) -> Corpus:
    """Make a corpus of the installed distributions, in order of their names.

    Archives are built when they are first asked for, in a temporary folder that lasts as long as
    any of the records. At most `limit` distributions are taken, and none whose files have more than
    `most_bytes`. With `troubles`, a few small records are added that are restricted, withdrawn,
    without files, with several archives, ...
    """
    folder = _Folder()
    records: dict[int, SandboxRecord] = {}
    for distribution in _by_name():
        if limit is not None and len(records) >= limit:
            break
        files = _sources(distribution)
        if "Version" in distribution.metadata and 0 < sum(map(_size, files)) <= most_bytes:
            record = _record(distribution, files, folder, taken=records)
            records[record.record_id] = record
    extra = troubled_records() if troubles else []
    return Corpus([*records.values(), *extra])


def _by_name() -> Iterator[Distribution]:
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        # The first on the path is the one that is imported. This package itself is
        # left out: it changes while it is worked on.
        if name and name.lower().replace("_", "-") != "zml-dask":
            found.setdefault(name.lower().replace("_", "-"), distribution)
    yield from (found[name] for name in sorted(found))


def _sources(distribution: Distribution) -> list[Source]:
    """Return the files worth publishing; empty where there is no source code among them."""
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


def _record(
    distribution: Distribution, files: list[Source], folder: _Folder, taken: Container[int]
) -> SandboxRecord:
    fields = distribution.metadata
    name, version = fields["Name"], fields["Version"]
    # Made up, the same each time: ids grow with dates, as Zenodo's do.
    digest = hashlib.sha256(f"{name}=={version}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / 2**48
    commit, is_tar = digest[:20].hex(), digest[20] % 4 == 0
    when = _FIRST_DAY + timedelta(days=share * _DAYS)
    record_id = _FIRST_ID + int(share * _IDS) | 1
    # Ids are odd and concepts even; of two with one hash the second moves on.
    while record_id in taken:
        record_id += 2
    repository = _repository(
        [value for key in ("Project-URL", "Home-page") for value in fields.get_all(key, [])]
    )
    url = repository or f"https://github.com/{name.lower()}-dev/{name}"
    owner, _, repository_name = url.removeprefix("https://github.com/").partition("/")
    summary = _first(fields.get_all("Summary", []))

    def make() -> Path:
        target = folder.path / str(record_id)
        write = write_tar_gz if is_tar else write_zip
        with target.open("wb") as stream:
            top = f"{owner}-{repository_name}-{commit[:7]}"
            write(stream, top, files, when=when, commit=commit)
        return target

    key = f"{owner}/{repository_name}-v{version}{'.tar.gz' if is_tar else '.zip'}"
    return SandboxRecord(
        record_id=record_id,
        concept_id=record_id - 1,
        created=when,
        title=f"{owner}/{repository_name}: {summary or name}",
        version=f"v{version}",
        description=summary,
        license=_licence(distribution),
        keywords=_keywords(_first(fields.get_all("Keywords", []))),
        creators=_authors(distribution) or (f"The {name} developers",),
        repository=repository,
        related=((f"{url}/tree/v{version}", "isSupplementTo", "url"),) if repository else (),
        files={key: Content(make)},
    )


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


def _first(values: list[str]) -> str:
    return next((value.strip() for value in values if value.strip() != "UNKNOWN"), "")


def _repository(links: list[str]) -> str | None:
    """Return the first link to a repository on GitHub; pages of sponsors are none."""
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
