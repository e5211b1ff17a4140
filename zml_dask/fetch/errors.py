"""What can go wrong between a record and the members of its archives."""

from __future__ import annotations

from zml_dask.errors import RecordError


class RestrictedError(RecordError):
    """The record's files are not public."""

    kind = "restricted"


class EmbargoedError(RecordError):
    """The record's files are not public yet; an embargo ends."""

    kind = "embargoed"


class NoFilesError(RecordError):
    """The record has metadata only, and names no repository to look at."""

    kind = "no_files"


class UnreadableArchiveError(RecordError):
    """None of the record's files is an archive that can be read, nor a file small enough."""

    kind = "unreadable_archive"


class ArchiveTimeError(RecordError):
    """Reading the archive takes longer than it may."""

    kind = "archive_time"


class NotInCacheError(RecordError):
    """The build is offline and the cache does not hold the record."""

    kind = "not_in_cache"


class CacheError(RecordError):
    """The cache holds the record, but not as it should be."""

    kind = "cache"


class GitError(RecordError):
    """The repository cannot be cloned."""

    kind = "git"


class GitUnreachableError(GitError):
    """The repository's server does not answer git, or answers that it cannot now."""

    kind = "git_unreachable"


class SourceError(RecordError):
    """A URL of the user's own catalogue cannot be read."""

    kind = "source"


class BrokenStreamError(Exception):
    """A compressed stream cannot be read from here on."""


class TrailingBytesError(BrokenStreamError):
    """A compressed stream is whole, and something else follows it."""


class OverLimitError(Exception):
    """Reading on would unpack more than is allowed."""
