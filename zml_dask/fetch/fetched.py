"""A record whose archives lie on the local disk, ready to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zml_dask.fetch.member import FetchLimits, Member, is_lost
from zml_dask.fetch.streams import HEAD_BYTES, Kind, misnamed
from zml_dask.fetch.unpack import has_members, is_text, read_members
from zml_dask.text_safety import escape_path

_FIRST_ENTRIES = 200
_MOST_NAMED = 3

Origin = Literal["zenodo", "github-archive", "git-tag", "git-branch", "url"]
"""Where a record's code came from; as a cache keeps it."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How records are fetched."""

    limits: FetchLimits = field(default_factory=FetchLimits)
    # The server that stands for github.com, such as a mirror.
    github_url: str = "https://github.com"
    cache: str | None = None  # folder or URL of archives fetched before; asked first
    offline: bool = False  # fetch from the cache alone
    # Zip files from this size on (bytes) are read in parts if that saves enough; None: never.
    partial_threshold: int | None = 64 * 1024 * 1024
    trusted: bool = False  # the catalogue is the user's own: its URLs may name file systems
    git_timeout: float = 600.0  # seconds for one clone


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """One file of a record, on the local disk."""

    name: str  # its key within the record
    path: Path
    bytes: int  # as fetched; of a zip read in parts, the sum of those parts
    checksum: str | None  # "md5:...", or "git:..." with the commit
    kind: Kind


@dataclass(frozen=True, slots=True)
class FetchedRecord:
    """What was fetched of a record."""

    origin: Origin
    archives: tuple[FetchedArchive, ...]  # in the order of their keys
    # Files that were not downloaded, since their first bytes or their size showed that they hold
    # nothing to read.
    listed: tuple[Member, ...] = ()
    limits: FetchLimits = field(default_factory=FetchLimits)
    scratch: Path | None = None  # for archives within archives; by default, where those are

    def members(self) -> Iterator[Member]:
        """Yield every file of every archive.

        If a record has several archives, the paths of each begin with ``<archive's name>/``. The
        path of a file that is not an archive is its name. Of members with the same path, the
        first is read. Raises `RecordError`.
        """
        # An archive "a" with "b/c" beside an archive "a/b" with "c"; "x.py" beside "x.py.gz";
        # two names that are the same once they are escaped.
        seen = set[int]()
        for member in self._members():
            if member.status == "ok":
                if hash(member.path) in seen:
                    reason = "an earlier member has the same path, or one that is shown alike"
                    yield member._replace(data=None, status="duplicate", reason=reason)
                    continue
                seen.add(hash(member.path))
            yield member

    def lost(self) -> tuple[str, ...] | None:
        """Name what could not be read if no text could be; None if some text was."""
        lost: list[str] = []
        # Usually one of the first files is a text, and the rest need not be read.
        for first in (_FIRST_ENTRIES, None):
            lost.clear()
            for member in self._members(first):
                if is_text(member):
                    return None
                reason = member.reason if is_lost(member) else None
                if member.status == "ok" and member.data:
                    reason = misnamed(member.path, member.data[:HEAD_BYTES])
                if reason is not None and len(lost) < _MOST_NAMED:
                    lost.append(f"{member.path}: {reason}")
        return tuple(lost)

    def _members(self, first: int | None = None) -> Iterator[Member]:

        def name_of(archive: FetchedArchive) -> str:
            return escape_path(archive.name)[0]

        several = sum(has_members(archive.kind) for archive in self.archives) > 1
        # A README beside the only archive may have the path of one within.
        beside = {name_of(archive) for archive in self.archives if not has_members(archive.kind)}
        yield from self.listed
        for archive in self.archives:
            members = read_members(
                archive.path,
                name=archive.name,
                limits=self.limits,
                first=first,
                scratch=self.scratch,
            )
            for member in members:
                if several and has_members(archive.kind) and member.path != name_of(archive):
                    yield member._replace(path=f"{name_of(archive)}/{member.path}")
                elif has_members(archive.kind) and member.path in beside:
                    reason = "a file beside it has its path"
                    yield member._replace(data=None, status="duplicate", reason=reason)
                else:
                    yield member
