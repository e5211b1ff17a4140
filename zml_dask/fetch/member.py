"""A member of an archive, or the reason why it cannot be read; and the limits of reading."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import IO, Final, Literal, NamedTuple

from zml_dask.errors import RecordError
from zml_dask.text_safety import escape_path

MemberStatus = Literal[
    "ok", "binary", "too_large", "damaged", "encrypted", "unsupported", "duplicate", "refused"
]

# Small archives of mostly zeros do no harm.
_RATIO_FROM_BYTES: Final = 512 * 1024 * 1024
# Ordinary code has one line for eight bytes of its archive.
_LINES_PER_BYTE: Final = 4
_LINES_FROM: Final = 4_000_000
_LONGEST_SHOWN_PATH: Final = 4096
# Each may need a process of its own.
_MAX_NESTED: Final = 1000
# How the reasons of rows about special files begin.
_SPECIAL_FILES: Final = ("a device", "a hard link", "a symbolic link")
_VERSION_CONTROL: Final = (".git", ".hg", ".svn", "CVS", ".bzr", "_darcs", ".jj")
_VERSION_CONTROL_FIRST: Final = tuple(f"{name}/" for name in _VERSION_CONTROL)
_VERSION_CONTROL_WITHIN: Final = tuple(f"/{name}/" for name in _VERSION_CONTROL)


class BrokenStreamError(Exception):
    """A compressed stream cannot be read from here on."""


class TrailingBytesError(BrokenStreamError):
    """A compressed stream is whole, and something else follows it."""


class OverLimitError(Exception):
    """Reading more would unpack more than is allowed."""


class Member(NamedTuple):
    """What an archive holds under one path; a tuple, since there may be a million of them."""

    path: str  # as in the archive; characters that cannot be shown are escaped
    size: int | None  # bytes, unpacked, if the archive says so
    data: bytes | None  # the content, if `status` is "ok"
    status: MemberStatus
    reason: str | None  # why it is not "ok"; if it is, what to know about it
    # Content of a member that is itself an archive and too large for `data`.
    spooled: IO[bytes] | None = None


def unread(
    path: str, size: int | None, status: MemberStatus, reason: str, spooled: IO[bytes] | None = None
) -> Member:
    """Make the row of a member whose content is not read."""
    return Member(escape_path(path[:_LONGEST_SHOWN_PATH])[0], size, None, status, reason, spooled)


def is_lost(member: Member) -> bool:
    """Whether a member could not be read, although it may hold something to read."""
    if member.status == "refused":
        return not str(member.reason).startswith(_SPECIAL_FILES)
    return member.status in {"damaged", "encrypted", "unsupported"}


def is_version_control(path: str) -> bool:
    """Whether a path lies within a folder of a version control system.

    Examples
    --------
    >>> is_version_control("a/.git/config"), is_version_control("a/.gitignore")
    (True, False)
    """
    if "/." not in path and "CVS/" not in path and "_darcs/" not in path and path[:1] != ".":
        return False  # nearly every path there is
    return path.startswith(_VERSION_CONTROL_FIRST) or any(
        name in path for name in _VERSION_CONTROL_WITHIN
    )


def decoded(raw: bytes, fallback: str) -> str:
    """Decode a path: as UTF-8 if that is valid, else in a single-byte encoding."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback)


def link_member(path: str, target: str) -> Member | None:
    """Make the row of a symbolic link that leads out of the archive; None for any other link.

    Links are never followed; one within the archive names a file that is listed anyway.
    """
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in {"", "."}
        if depth < 0:
            break
    if depth >= 0 and not target.startswith("/"):
        return None
    where = escape_path(target[:200])[0]
    return unread(
        path, None, "refused", f"a symbolic link out of the archive, to {where!r}: not followed"
    )


def hard_link_member(path: str, target: str, *, is_listed: bool) -> Member:
    """Make the row of a hard link, whose content belongs to another path."""
    where = escape_path(target[:200])[0]
    if is_listed:
        reason = f"a hard link to {where!r}, which is listed under that path"
    else:
        reason = f"a hard link to {where!r}, which does not come before it in the archive"
    return unread(path, None, "refused", reason)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits for one record."""

    max_archive_bytes: int = 5 * 1024**3  # of all files of a record together, as downloaded
    max_file_bytes: int = 100_000  # a larger member is listed as "too_large" and not read
    max_members: int = 1_000_000  # entries of an archive, folders and links included
    # Of one path; of all paths of an archive together, 64 KiB times this.
    max_path_bytes: int = 4096
    # Of all members that are read or must be skipped by unpacking them.
    max_unpacked_bytes: int = 64 * 1024**3
    max_ratio: float = 300.0  # unpacked to packed bytes, of an archive that unpacks to over 512 MiB
    # Compressions around one another (``.tar.gz.xz`` has two). Of archives within an archive, one
    # level is opened.
    max_depth: int = 3
    # For reading one archive. A safeguard, not a rule: an archive that exceeds it becomes a
    # failure, since half a record would not be reproducible.
    max_seconds: float = 3600.0

    def refusal(self, path: str, size: int) -> tuple[MemberStatus, str] | None:
        """Return status and reason if a file of this path and size is not read; None if it is."""
        if len(path) > self.max_path_bytes:
            return "refused", f"its path is over the limit of {self.max_path_bytes:,} bytes"
        if size > self.max_file_bytes:
            return self.too_large
        return None

    @property
    def too_large(self) -> tuple[MemberStatus, str]:
        """Status and reason of a file over the limit."""
        return "too_large", f"over the limit of {self.max_file_bytes:,} bytes"


@dataclass(slots=True)
class _Spent:
    members: int = 0
    path_bytes: int = 0
    unpacked: int = 0
    lines: int = 0
    nested: int = 0


class Meter:
    """Counts what reading one archive of `packed_bytes` has cost so far.

    What exceeds a limit raises `OverLimitError`, which says so. `name` is the archive's, for
    messages and for rows about it as a whole; `max_unpacked` is the number of bytes that may be
    unpacked.
    """

    def __init__(self, limits: FetchLimits, packed_bytes: int, name: str) -> None:
        self.limits = limits
        self.name = name
        self._packed_bytes = packed_bytes
        self._spent = _Spent()
        self.max_unpacked = min(
            limits.max_unpacked_bytes, max(_RATIO_FROM_BYTES, int(packed_bytes * limits.max_ratio))
        )
        self._max_lines = max(_LINES_FROM, packed_bytes * _LINES_PER_BYTE)
        self._deadline = time.monotonic() + limits.max_seconds

    def within(self, name: str) -> Meter:
        """Return a meter for an archive within this one; both share their counts."""
        inner = Meter(self.limits, self._packed_bytes, name)
        inner._spent = self._spent
        inner._deadline = self._deadline
        return inner

    def add_member(self, path_bytes: int = 0) -> None:
        """Count one more entry."""
        self._spent.members += 1
        self._spent.path_bytes += path_bytes
        if self._spent.members > self.limits.max_members:
            raise OverLimitError(f"over the limit of {self.limits.max_members:,} members")
        if self._spent.path_bytes > self.limits.max_path_bytes * 65_536:
            raise OverLimitError("over the limit of all paths together")

    def add_nested(self) -> None:
        """Count one more archive within the archive."""
        self._spent.nested += 1
        if self._spent.nested > _MAX_NESTED:
            raise OverLimitError(f"over the limit of {_MAX_NESTED:,} archives within the archive")

    def add_unpacked(self, count: int) -> None:
        """Count unpacked bytes."""
        self._spent.unpacked += count
        if self._spent.unpacked > self.max_unpacked:
            most = f"{self.limits.max_ratio:g} times its size"
            if self.max_unpacked == self.limits.max_unpacked_bytes:
                most = f"{self.max_unpacked:,} bytes"
            raise OverLimitError(f"the archive unpacks to over {most}")

    def add_lines(self, data: bytes | None) -> None:
        """Count the lines of a file.

        Images cost by the line: well packed files of empty lines would make a thousand times as
        many as code does. A line takes at least one byte, so nothing is counted before the
        unpacked bytes are more than the limit.
        """
        if data is None or self._spent.unpacked <= self._max_lines:
            return
        self._spent.lines += data.count(b"\n") + data.count(b"\r")
        if self._spent.lines > self._max_lines:
            raise OverLimitError(
                f"the archive holds over {self._max_lines:,} lines, too many for its size"
            )

    def check_time(self) -> None:
        """Raise `RecordError` if the time is up."""
        if time.monotonic() > self._deadline:
            raise RecordError(
                "archive_time",
                f"reading {self.name!r} takes over {self.limits.max_seconds:g} s; "
                "raise the limit to have the record",
            )
