"""How much one record may cost: what a hostile or careless archive runs into."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from zml_dask.fetch.errors import ArchiveTimeError

# Small archives may be mostly zeros and harm nobody.
_RATIO_FROM_BYTES: Final = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one record.

    Attributes
    ----------
    max_archive_bytes : int
        Of all files of a record together, as downloaded.
    max_file_bytes : int
        A larger member is listed as ``too_large`` and not read.
    max_members : int
        Entries of an archive, folders and links included.
    max_path_bytes : int
        Length of one path; of all paths of an archive together, 64 KiB times this.
    max_unpacked_bytes : int
        What all members that are read, or that have to be read over, unpack to.
    max_ratio : float
        Unpacked to packed bytes, of an archive that unpacks to over 512 MiB.
    max_depth : int
        Compressions around one another (``.tar.gz.xz`` has two). An archive
        within an archive is a file like any other and never opened.
    max_seconds : float
        For reading one archive. A safeguard, not a rule: an archive that meets
        it becomes a failure, since half a record would not be reproducible.
    """

    max_archive_bytes: int = 5 * 1024**3
    max_file_bytes: int = 100_000
    max_members: int = 1_000_000
    max_path_bytes: int = 4096
    max_unpacked_bytes: int = 64 * 1024**3
    max_ratio: float = 300.0
    max_depth: int = 3
    max_seconds: float = 3600.0


class Meter:
    """Counts what reading one archive has cost so far.

    Parameters
    ----------
    limits : FetchLimits
    packed_bytes : int
        Size of the archive.
    name : str
        Of the archive, for messages.
    """

    def __init__(self, limits: FetchLimits, packed_bytes: int, name: str) -> None:
        self.limits = limits
        self.name = name
        self._members = 0
        self._path_bytes = 0
        self._unpacked = 0
        self._most = min(
            limits.max_unpacked_bytes,
            max(_RATIO_FROM_BYTES, int(packed_bytes * limits.max_ratio)),
        )
        self._give_up_at = time.monotonic() + limits.max_seconds

    def add_member(self, path_bytes: int = 0) -> str | None:
        """Count one more entry; the reason where it is one too many."""
        self._members += 1
        self._path_bytes += path_bytes
        if self._members > self.limits.max_members:
            return f"over the limit of {self.limits.max_members:,} members"
        if self._path_bytes > self.limits.max_path_bytes * 65_536:
            return "over the limit of all paths together"
        return None

    def add_unpacked(self, count: int) -> str | None:
        """Count unpacked bytes; the reason where they are too many."""
        self._unpacked += count
        if self._unpacked <= self._most:
            return None
        if self._most == self.limits.max_unpacked_bytes:
            return f"the archive unpacks to over {self._most:,} bytes"
        return f"the archive unpacks to over {self.limits.max_ratio:g} times its size"

    def check_time(self) -> None:
        """Stop where time is up.

        Raises
        ------
        ArchiveTimeError
        """
        if time.monotonic() > self._give_up_at:
            raise ArchiveTimeError(
                f"reading {self.name!r} takes over {self.limits.max_seconds:g} s; "
                "raise the limit to have the record"
            )
