"""Downloads a record's own files; one that fails does not cost the others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import fsspec

from zml_dask.errors import NetworkError, RecordError, ZmlError
from zml_dask.fetch.cache import copy_stream
from zml_dask.fetch.fetched import FetchedArchive, FetchOptions
from zml_dask.fetch.member import Member, MemberStatus, unread
from zml_dask.fetch.partial import fetch_parts
from zml_dask.fetch.streams import (
    ARCHIVE_SUFFIXES,
    HEAD_BYTES,
    PAYLOAD_WITHIN,
    PROGRAM_MARKS,
    format_name,
    misnamed,
    payload_start,
    recognise,
)
from zml_dask.fetch.unpack import kind_of
from zml_dask.net.client import HttpClient
from zml_dask.net.transfer import TransferPlan, local_disk
from zml_dask.records.record import RecordFile
from zml_dask.remote import explain_fsspec
from zml_dask.text_safety import redact_url

# Failures of a single file. Failures of this machine or of the whole server (blocked,
# limited, no connection, disk full) are the record's.
FILE_FAULTS: Final = frozenset({
    "not_found", "bad_request", "bad_query", "checksum", "truncated", "server_error", "source",
    "bad_url", "bad_redirect",
})  # fmt: skip

# Failures of one file, or of all files of a record, that is withheld on purpose.
_WITHHELD: Final = frozenset({"forbidden", "gone"})
_OF_A_FILE: Final = FILE_FAULTS | _WITHHELD | {"too_large", "bad_answer"}

_TAIL: Final = 65_536 + 22
# Hints only: what may be a zip file although it begins as something else, and what is
# a document although it begins as a zip file.
_MAY_END_AS_ZIP: Final = (*PROGRAM_MARKS, b"Cr24", b"PK")
_ZIP_SUFFIXES: Final = (
    ".zip", ".jar", ".pyz", ".exe", ".whl", ".egg", ".mltbx", ".vsix", ".nupkg", ".xpi",
    ".crx", ".apk", ".run", ".sh",
)  # fmt: skip
_DOCUMENT_SUFFIXES: Final = (
    ".docx", ".xlsx", ".pptx", ".docm", ".xlsm", ".pptm", ".dotx", ".xlsb", ".vsdx", ".odt",
    ".ods", ".odp", ".odg", ".epub",
)  # fmt: skip

# Names of the parts of a split archive, with the number of each part.
_VOLUMES: Final = (
    re.compile(r"(?P<base>.+)\.z(?P<number>\d{2,3})", re.IGNORECASE),
    re.compile(r"(?P<base>.+)\.part(?P<number>\d{1,4})\.rar", re.IGNORECASE),
    re.compile(r"(?P<base>.+)\.r(?P<old>\d{2})", re.IGNORECASE),
    re.compile(
        r"(?P<base>.+?)[._-]?part[._-]?(?P<number>\d{1,4})(?:[._-]?of[._-]?\d{1,4})?"
        r"(?P<end>\.zip|\.7z|\.tar|\.tar\.[a-z0-9]+|\.t[a-z]z)?",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<base>.+)\.(?P<number>\d{2,4})"),
    re.compile(r"(?P<base>.+?)(?:[._-]?part)?[._-]?(?P<letters>[a-z]{2}|[A-Z]{2})"),
)


@dataclass(frozen=True, slots=True)
class _Volume:
    """One part of an archive that is split over several files."""

    whole: str  # name of the archive
    place: int  # 0 for the first part
    # The name cannot be that of anything else, such as one of several archives.
    is_certain: bool = False


@dataclass(slots=True)
class FileFetcher:
    """Fetches a record's files into a folder."""

    client: HttpClient
    folder: Path
    options: FetchOptions
    keep_partial: bool = False  # resume what an interrupted run left in `folder`
    archives: list[FetchedArchive] = field(default_factory=list)  # fetched so far
    # Files that hold nothing to read, are too large, or cannot be fetched.
    listed: list[Member] = field(default_factory=list)
    n_bytes: int = 0  # of `archives`
    fault: RecordError | None = None  # of the first file that cannot be fetched

    def fetch_all(self, files: tuple[RecordFile, ...]) -> None:
        """Fetch every file that may hold something to read; the parts of a split archive as one.

        If some files cannot be fetched, they are listed with the reason. If none can, raises the
        error (`NetworkError`, `RecordError`) of the first.
        """
        volumes = _volumes_of(file.key for file in files)
        # The first part shows whether there is an archive that is split.
        order = sorted(range(len(files)), key=lambda n: _is_later(volumes.get(files[n].key)))
        for number in order:
            file = files[number]
            volume = volumes.get(file.key)
            whole = volume is not None and _is_split(self.archives, volume, volumes)
            try:
                self._fetch(file, self.folder / f"{number:04d}", whole=whole)
            except RecordError as error:
                if error.kind not in _OF_A_FILE:
                    raise
                # A second one shows that it is the record: its other files are not asked for.
                is_second = self.fault is not None and self.fault.kind in _WITHHELD
                if error.kind in _WITHHELD and is_second and not self.archives:
                    raise
                self.fault = self.fault or error
                if error.kind == "too_large":
                    self._list(file, "too_large", str(error))
                else:
                    self._list(file, "damaged", f"it cannot be fetched: {error}")
        if self.fault is not None and not self.archives:
            raise self.fault
        self._join(volumes)
        self.archives.sort(key=lambda archive: archive.path.name)

    def _fetch(self, file: RecordFile, target: Path, *, whole: bool) -> None:
        most = self.options.limits.max_archive_bytes - self.n_bytes
        if urlsplit(file.url).scheme not in {"http", "https"}:
            self._copy(file, target, most)
            return
        if self._fetch_in_parts(file, target, most):
            return
        if file.size is not None and file.size > most:
            raise NetworkError(
                "too_large",
                f"{redact_url(file.url)} has {file.size:,} bytes, over the {most:,} that are left "
                "of the limit; raise --max-archive-size to have it",
            )
        heads: list[bytes] = []

        def wanted(head: bytes) -> bool:
            heads.append(head)
            return _is_wanted(file.key, head)

        small = file.size is not None and file.size <= self.options.limits.max_file_bytes
        take_all = small or whole
        for ask in (None if take_all else wanted, None):
            download = self.client.download(
                file.url,
                target,
                max_bytes=most,
                checksum=file.checksum,
                size=file.size,
                keep_partial=self.keep_partial,
                wanted=ask,
            )
            if download.complete:
                self._add(file, target, download.bytes, f"md5:{download.md5}")
                return
            if not self._holds_archive(file, heads[0]):
                break
        if recognise(heads[0]) == "unsupported":
            reason = f"{format_name(heads[0])} archives are not read"
            self._list(file, "unsupported", reason)
        elif (wrong := misnamed(file.key, heads[0])) is not None:
            self._list(file, "damaged", wrong)
        elif file.size is None:
            self._fetch_single(file, target)
        else:
            self._list(file, *self.options.limits.too_large)

    def _holds_archive(self, file: RecordFile, head: bytes) -> bool:
        """Whether a file of another kind ends with a zip file, or contains an archive."""
        may_be = file.key.lower().endswith(_ZIP_SUFFIXES) or head.startswith(_MAY_END_AS_ZIP)
        if not may_be or recognise(head) != "bare":
            return False
        if file.size is None:
            return True  # its end is unknown
        try:
            start = max(0, file.size - _TAIL)
            if b"PK\x05\x06" in self.client.read_range(file.url, start, file.size):
                return True
            stop = min(PAYLOAD_WITHIN, file.size) if head.startswith(PROGRAM_MARKS) else 0
            return stop > 0 and (
                payload_start(self.client.read_range(file.url, 0, stop)) is not None
            )
        except NetworkError as error:
            if error.kind != "range_unsupported":
                raise
            return True  # only the whole file can show it

    def _fetch_single(self, file: RecordFile, target: Path) -> None:
        """Fetch a file of unknown size that is not an archive, if it is small enough to be read."""
        limits = self.options.limits
        try:
            download = self.client.download(
                file.url, target, max_bytes=limits.max_file_bytes, checksum=file.checksum
            )
        except NetworkError as error:
            if error.kind != "too_large":
                raise
            self._list(file, *limits.too_large)
        else:
            self._add(file, target, download.bytes, f"md5:{download.md5}")

    def _fetch_in_parts(self, file: RecordFile, target: Path, most: int) -> bool:
        """Fetch only those parts of a large zip file that are read; False if that is not done."""
        threshold = self.options.partial_threshold
        if threshold is None or file.size is None or file.size < threshold:
            return False
        # A hint only, since the content decides; but reading the end of a large tar.gz
        # would waste a request.
        if not file.key.lower().endswith(".zip"):
            return False
        try:
            limits = replace(self.options.limits, max_archive_bytes=most)
            count = fetch_parts(self.client, file, target, limits)
        except NetworkError as error:
            if error.kind != "range_unsupported":
                raise
            return False
        if count is None:
            return False
        self._add(file, target, count, file.checksum)
        return True

    def _copy(self, file: RecordFile, target: Path, most: int) -> None:
        """Read a URL of the user's own catalogue through fsspec."""
        if not self.options.trusted:
            raise NetworkError(
                "bad_url",
                f"{redact_url(file.url)!r} is not fetched: only http and https are, "
                "unless the user's own catalogue names the URL",
            )
        plan = TransferPlan(file.url, target, most, file.checksum)
        try:
            with fsspec.open(file.url, "rb") as source:
                count, md5 = copy_stream(source, target, most)
        except ZmlError:
            raise
        except Exception as error:
            where, reason = redact_url(file.url), explain_fsspec(error).reason
            if "://" not in file.url and not Path(file.url).is_absolute():
                reason += f" in {str(Path.cwd())!r}, where this worker runs: give the whole path"
            raise RecordError(
                "source", f"{where} cannot be read ({reason}); check the catalogue"
            ) from error
        if plan.md5 not in {None, md5}:
            raise NetworkError(
                "checksum", f"{redact_url(file.url)} has not the md5 that its record says"
            )
        self._add(file, target, count, f"md5:{md5}")

    def _add(self, file: RecordFile, target: Path, count: int, checksum: str | None) -> None:
        kind = kind_of(target, limits=self.options.limits)
        self.archives.append(FetchedArchive(file.key, target, count, checksum, kind))
        self.n_bytes += count

    def _list(self, file: RecordFile, status: MemberStatus, reason: str) -> None:
        self.listed.append(unread(file.key, file.size, status, reason))

    def _join(self, volumes: dict[str, _Volume]) -> None:
        """Put the parts of each split archive together, up to the first that is missing."""
        groups: dict[str, dict[int, FetchedArchive]] = {}
        for archive in self.archives:
            volume = volumes.get(archive.name)
            if volume is not None:
                groups.setdefault(volume.whole, {})[volume.place] = archive
        for whole, parts in groups.items():
            first = parts.get(0)
            if first is None:
                for archive in parts.values():
                    if archive.kind == "bare" and _is_split_name(archive.name):
                        self._pass_over(archive, "its first part is not in the record")
                continue
            if first.kind == "bare" or len(parts) == 1:
                continue
            later = (part for place, part in parts.items() if place)
            if any(not volumes[one.name].is_certain and _begins_archive(one) for one in later):
                continue
            joined = [first]
            for place in sorted(parts)[1:]:
                if place in {len(joined), _LAST}:
                    joined.append(parts[place])
                else:
                    reason = f"part {len(joined) + 1} is not in the record"
                    self._pass_over(parts[place], reason)
            with local_disk(first.path), first.path.open("ab") as target:
                for part in joined[1:]:
                    with part.path.open("rb") as source:
                        shutil.copyfileobj(source, target)
                    part.path.unlink()
                    self.archives.remove(part)
            one = FetchedArchive(
                whole,
                first.path,
                sum(part.bytes for part in joined),
                first.checksum,
                kind_of(first.path, limits=self.options.limits),
            )
            self.archives[self.archives.index(first)] = one

    def _pass_over(self, archive: FetchedArchive, reason: str) -> None:
        """List a part that cannot be used, and remove it."""
        self.archives.remove(archive)
        archive.path.unlink()
        self.listed.append(
            unread(
                archive.name, archive.bytes, "unsupported", f"a part of a split archive: {reason}"
            )
        )


_LAST: Final = 1_000_000
"""Place of the ``.zip`` behind ``.z01``, ``.z02`` and so on."""


def _is_wanted(key: str, head: bytes) -> bool:
    """Whether the first bytes of a large file promise something to read."""
    kind = recognise(head)
    if kind == "zip" and key.lower().endswith(_DOCUMENT_SUFFIXES):
        return False
    if kind == "bare" and (not head.strip(b"\0") or key.lower().endswith((".iso", ".img"))):
        # A tar may follow empty blocks, and an image may begin with boot code.
        return key.lower().endswith((*ARCHIVE_SUFFIXES, ".img"))
    return kind not in {"bare", "unsupported"} or payload_start(head) is not None


def _volumes_of(keys: Iterable[str]) -> dict[str, _Volume]:
    """Which files are parts of a split archive, by their names alone."""
    keys = list(keys)
    lower = {key.lower(): key for key in keys}
    numbers: dict[str, tuple[str, int, bool]] = {}
    for key in keys:
        for pattern in _VOLUMES:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            named = match.groupdict()
            whole = named["base"]
            if named.get("old"):
                whole, number = f"{whole}.rar", int(named["old"]) + 2
            elif letters := named.get("letters"):
                if key[:-2] + ("aa" if letters.islower() else "AA") not in keys:
                    break  # any name ends in two letters
                first, second = (ord(letter) - ord("a") for letter in letters.lower())
                number = first * 26 + second + 1
            else:
                number = int(named["number"])
            if pattern is _VOLUMES[0]:
                whole = f"{whole}.zip"
            elif pattern is _VOLUMES[1]:
                whole = f"{whole}.rar"
            is_certain = pattern in _VOLUMES[:3]
            numbers[key] = f"{whole}{named.get('end') or ''}", number, is_certain
            break
    from_zero = {whole for whole, number, _ in numbers.values() if number == 0}
    volumes = {
        key: _Volume(whole, number - (whole not in from_zero), is_certain)
        for key, (whole, number, is_certain) in numbers.items()
    }
    # The file that the parts are named after is the last part, or the first.
    for volume in list(volumes.values()):
        last = lower.get(volume.whole.lower())
        if last is not None and last not in volumes:
            place = 0 if last.lower().endswith(".rar") else _LAST
            volumes[last] = replace(volume, place=place)
    return volumes


def _is_later(volume: _Volume | None) -> bool:
    return volume is not None and volume.place > 0


def _is_split(archives: list[FetchedArchive], volume: _Volume, volumes: dict[str, _Volume]) -> bool:
    """Whether the first part of a file's split archive has turned out to be an archive."""
    if volume.place == 0:
        return False
    first = replace(volume, place=0)
    return any(
        archive.kind != "bare" and volumes.get(archive.name) == first for archive in archives
    )


def _begins_archive(part: FetchedArchive) -> bool:
    """Whether a file is an archive of its own rather than a later part of one."""
    with part.path.open("rb") as file:
        kind = recognise(file.read(HEAD_BYTES))
    # A tar may have been cut where a member begins.
    is_named = part.name.lower().endswith(ARCHIVE_SUFFIXES)
    return kind not in {"bare", "unsupported"} and (kind != "tar" or is_named)


def _is_split_name(name: str) -> bool:
    """Whether a name alone shows that a file is a part; ``.aa`` or ``.001`` may be chance."""
    return any(pattern.fullmatch(name) for pattern in _VOLUMES[:2]) or bool(
        re.fullmatch(r".+\.(?:zip|7z|rar|tar|gz|tgz|bz2|xz)\.?(?:\d{2,4}|(?:part)?[a-z]{2})", name)
    )
