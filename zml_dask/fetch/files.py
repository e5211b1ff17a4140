"""A record's own files, brought to the local disk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from zml_dask.fetch.copying import copy_stream
from zml_dask.fetch.errors import SourceError
from zml_dask.fetch.fetched import FetchedArchive, FetchOptions
from zml_dask.fetch.member import Member, MemberStatus
from zml_dask.fetch.members import kind_of
from zml_dask.fetch.partial import fetch_parts
from zml_dask.fetch.sniff import recognise, unsupported_format
from zml_dask.net.client import HttpClient
from zml_dask.net.errors import (
    BadUrlError,
    ChecksumError,
    RangeUnsupportedError,
    TooLargeError,
)
from zml_dask.net.transfer import TransferPlan
from zml_dask.records.record import RecordFile
from zml_dask.text_safety import escape_path, redact_url


@dataclass(slots=True)
class Haul:
    """What has been fetched of a record so far.

    Attributes
    ----------
    archives : list of FetchedArchive
    listed : list of Member
        Files that are not worth fetching, or too large to be.
    bytes : int
    """

    archives: list[FetchedArchive] = field(default_factory=list)
    listed: list[Member] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FileFetcher:
    """Fetches one file after another into a folder.

    Attributes
    ----------
    client : HttpClient
    folder : Path
    options : FetchOptions
    keep_partial : bool
        Take up what an interrupted run left in `folder`.
    """

    client: HttpClient
    folder: Path
    options: FetchOptions
    keep_partial: bool = False

    def fetch_all(self, files: tuple[RecordFile, ...]) -> Haul:
        """Every file that is worth it, in the order given.

        Raises
        ------
        NetworkError, SourceError
            Of the first file that cannot be had. A file over the limit is listed
            and passed over, unless nothing else is there.
        """
        haul = Haul()
        refused: TooLargeError | None = None
        for number, file in enumerate(files):
            try:
                self._fetch(file, self.folder / f"{number:04d}", haul)
            except TooLargeError as error:
                refused = error
                self._list(haul, file, "too_large", str(error))
        if refused is not None and not haul.archives:
            raise refused
        return haul

    def _fetch(self, file: RecordFile, target: Path, haul: Haul) -> None:
        most = self.options.limits.max_archive_bytes - haul.bytes
        if urlsplit(file.url).scheme not in {"http", "https"}:
            self._copy(file, target, haul, most)
            return
        if self._fetch_in_parts(file, target, haul, most):
            return
        if file.size is not None and file.size > most:
            raise TooLargeError(
                f"{redact_url(file.url)} has {file.size:,} bytes, over the {most:,} that are left "
                "of the limit; raise --max-archive-size to have it"
            )
        heads: list[bytes] = []

        def wanted(head: bytes) -> bool:
            heads.append(head)
            return recognise(head) not in {"bare", "unsupported"}

        small = file.size is not None and file.size <= self.options.limits.max_file_bytes
        download = self.client.download(
            file.url,
            target,
            max_bytes=most,
            checksum=file.checksum,
            size=file.size,
            keep_partial=self.keep_partial,
            wanted=None if small else wanted,
        )
        if download.complete:
            self._add(haul, file, target, download.bytes, f"md5:{download.md5}")
        elif (name := unsupported_format(heads[0])) is not None:
            self._list(haul, file, "unsupported", f"{name} archives are not read")
        elif file.size is None:
            self._fetch_single(file, target, haul)
        else:
            limit = self.options.limits.max_file_bytes
            self._list(haul, file, "too_large", f"over the limit of {limit:,} bytes")

    def _fetch_single(self, file: RecordFile, target: Path, haul: Haul) -> None:
        """Fetch what is no archive and may be small enough to be read: its size is not known."""
        limit = self.options.limits.max_file_bytes
        try:
            download = self.client.download(
                file.url, target, max_bytes=limit, checksum=file.checksum
            )
        except TooLargeError:
            self._list(haul, file, "too_large", f"over the limit of {limit:,} bytes")
        else:
            self._add(haul, file, target, download.bytes, f"md5:{download.md5}")

    def _fetch_in_parts(self, file: RecordFile, target: Path, haul: Haul, most: int) -> bool:
        """Fetch only those parts of a large zip file that are read; False: fetch it whole."""
        threshold = self.options.partial_threshold
        if threshold is None or file.size is None or file.size < threshold:
            return False
        # Only a hint: what it is shows its content, but a look at the end of a
        # large tar.gz would be a request for nothing.
        if not file.key.lower().endswith(".zip"):
            return False
        try:
            limits = replace(self.options.limits, max_archive_bytes=most)
            fetched = fetch_parts(self.client, file, target, limits)
        except RangeUnsupportedError:
            return False
        if fetched is None:
            return False
        self._add(haul, file, target, fetched, file.checksum)
        return True

    def _copy(self, file: RecordFile, target: Path, haul: Haul, most: int) -> None:
        """Read a URL of the user's own catalogue through fsspec."""
        if not self.options.trusted:
            raise BadUrlError(
                f"{redact_url(file.url)!r} is not fetched: only http and https are, "
                "unless the user's own catalogue names the URL"
            )
        plan = TransferPlan(file.url, target, most, file.checksum)
        try:
            with fsspec.open(file.url, "rb") as source:
                count, md5 = copy_stream(source, target, most)
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(
                f"{redact_url(file.url)} cannot be read ({type(error).__name__}); "
                "check the catalogue"
            ) from error
        if plan.md5 not in {None, md5}:
            raise ChecksumError(f"{redact_url(file.url)} has not the md5 that its record says")
        self._add(haul, file, target, count, f"md5:{md5}")

    def _add(
        self, haul: Haul, file: RecordFile, target: Path, count: int, checksum: str | None
    ) -> None:
        kind = kind_of(target, limits=self.options.limits)
        haul.archives.append(FetchedArchive(file.key, target, count, checksum, kind))
        haul.bytes += count

    def _list(self, haul: Haul, file: RecordFile, status: MemberStatus, reason: str) -> None:
        path = escape_path(file.key)[0]
        haul.listed.append(Member(path, file.size, None, status, reason))
