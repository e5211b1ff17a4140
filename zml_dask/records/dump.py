"""Zenodo's monthly metadata dumps: finding, downloading and reading them.

A dump is a gzipped tar with one JSON file per record, in InvenioRDM's own form, of all types and
versions. It is downloaded beside the catalogue, resumed where it broke off and checked by its md5.
It is never unpacked to the disk, and one entry at a time is in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, cast

from isal import igzip, isal_zlib

from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import NetworkError, UsageError, ZmlError
from zml_dask.net.client import HttpClient
from zml_dask.records.instants import instant_of
from zml_dask.records.journal import DumpState
from zml_dask.records.parse import listed, mapping, md5_of, parse_record, text, whole_number
from zml_dask.records.query import Searchable

JSON_DUMP: Final = "records-json.tar.gz"
DELETED_LIST: Final = "records-deleted.csv.gz"
# It is typed only in part.
_GZIP: Final[Any] = igzip
NEWEST: Final = "newest"

# Larger than any record's JSON; a larger entry is asked for by its number instead.
_LARGEST_ENTRY: Final = 64 * 1024 * 1024
# `tarfile` copies what is left of a block at every read: larger ones are slower.
_TAR_BLOCK: Final = 32 * 1024
_TELL: Final = 100
_RESTARTS: Final = 3
_NOT_THERE: Final = frozenset({"not_found", "gone"})
_NAME: Final = re.compile(r"(?:.*/)?(\d{1,18})\.json")
_VERSION: Final = re.compile(r"[\w-]{1,64}")
_OLDEST: Final = datetime(1, 1, 1, tzinfo=UTC)
# What a damaged gzip or tar raises.
_DAMAGE: Final = (
    tarfile.TarError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    EOFError,
    gzip.BadGzipFile,
)


class DumpError(ZmlError):
    """A dump that is not there, breaks off, or cannot be read."""


def choose_dump(wanted: str, client: HttpClient, api_url: str, catalogue: Path) -> DumpState:
    """Find the dump that ``--from-dump`` names: `NEWEST`, the id of a version, or a path.

    A download is put beside `catalogue`. Raises `DumpError` if there is no such dump.
    """
    if Path(wanted).is_file():
        return DumpState(path=str(Path(wanted).absolute()))
    if "/" in wanted or not _VERSION.fullmatch(wanted) or wanted.endswith(".gz"):
        raise UsageError(f"--from-dump: there is no file {wanted}")
    versions = _listing(client, api_url)
    for version in versions:
        if wanted in {NEWEST, version["version_id"]}:
            return DumpState(
                path=str(catalogue.with_name(f"{catalogue.name}.{JSON_DUMP}").absolute()),
                version_id=version["version_id"],
                created=text(version.get("created")),
                size=whole_number(version.get("size")),
                checksum=md5_of(version.get("checksum")),
            )
    there = ", ".join(f"{one['version_id']} of {one.get('created')}" for one in versions)
    raise DumpError(f"{api_url}/exporter keeps no version {wanted} of {JSON_DUMP}; it has {there}")


def _listing(client: HttpClient, api_url: str) -> list[dict[str, Any]]:
    """Return the versions of the JSON dump, the newest first."""
    url = f"{api_url}/exporter"
    try:
        payload = client.get_json(url).payload
    except NetworkError as error:
        if error.kind not in _NOT_THERE | {"bad_answer"}:
            raise
        raise DumpError(
            f"{api_url} offers no metadata dumps ({url} is not there): "
            "harvest by its search, without --from-dump"
        ) from error
    versions = [
        dict(one)
        for one in map(mapping, listed(mapping(payload).get(JSON_DUMP)))
        if _VERSION.fullmatch(text(one.get("version_id")) or "")
    ]
    if not versions:
        raise DumpError(f"{url} lists no {JSON_DUMP}: harvest by the search, without --from-dump")
    return sorted(versions, key=lambda one: instant_of(one.get("created")) or _OLDEST, reverse=True)


def download_dump(
    dump: DumpState,
    client: HttpClient,
    api_url: str,
    *,
    say: Callable[[str], None],
    report: Callable[[int, int], None],
    keep: Callable[[DumpState], None],
) -> DumpState:
    """Download a dump, or the rest of it; return the state of what is on disk.

    If a version is replaced or removed meanwhile, the newest is downloaded instead, and `keep` is
    called with its state. `say` is called with lines for the user, `report` with the bytes that are
    on disk and that there will be. Raises `DumpError` or `NetworkError` if the download fails; what
    there is of it is kept for the next call.
    """
    target = Path(dump.path)
    for _ in range(_RESTARTS):
        if dump.version_id is None or target.exists():
            return dump
        _check_space(dump)
        try:
            _download(dump, client, api_url, report)
        except NetworkError as error:
            if error.kind not in _NOT_THERE | {"checksum"}:
                raise
            newest = choose_dump(NEWEST, client, api_url, target)
            newest = replace(newest, path=dump.path)
            if (newest.version_id, newest.checksum) == (dump.version_id, dump.checksum):
                raise DumpError(
                    f"the dump {dump.version_id} of {api_url} is not what its listing says: {error}"
                ) from error
            say(f"the dump was replaced meanwhile: starting again with that of {newest.created}")
            dump = newest
            keep(dump)
            _part(target).unlink(missing_ok=True)
        else:
            return dump
    raise DumpError(f"the dumps of {api_url} are replaced faster than they can be read")


def _download(
    dump: DumpState, client: HttpClient, api_url: str, report: Callable[[int, int], None]
) -> None:
    target = Path(dump.path)
    size = -1
    while True:
        try:
            client.download(
                f"{api_url}/exporter/{JSON_DUMP}/{dump.version_id}",
                target,
                checksum=dump.checksum,
                size=dump.size,
                keep_partial=True,
                report=lambda done: report(done, dump.size or 0),
            )
        except NetworkError as error:
            if error.kind != "deadline":
                raise
            # The time limit of a file does not apply to gigabytes that keep coming.
            before, size = size, _size(_part(target))
            if size <= before:
                raise
        else:
            return


def _check_space(dump: DumpState) -> None:
    target = Path(dump.path)
    need = (dump.size or 0) - _size(_part(target))
    free = shutil.disk_usage(target.parent).free
    if need > free:
        raise DumpError(
            f"the dump needs {need / 1e9:.1f} GB more in {target.parent}, where {free / 1e9:.1f} "
            "GB are free: free some space, or put the catalogue on another disk"
        )


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class DumpEntry:
    """One file of a dump."""

    record_id: int
    data: bytes | None  # its content; None if it was not asked for, or is too large
    offset: int  # about how many bytes of the compressed dump have been read


def dump_entries(path: str, known: Callable[[int], bool]) -> Iterator[DumpEntry]:
    """Yield the entries of a dump; `known` tells whether the content of a record is not needed.

    Raises `DumpError` if the dump breaks off or is no gzipped tar.
    """
    count = offset = 0
    try:
        with (
            Path(path).open("rb") as raw,
            _GZIP.IGzipFile(fileobj=raw, mode="rb") as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=_TAR_BLOCK) as archive,
        ):
            for entry in archive:
                # Otherwise it keeps every header that it has read.
                archive.members = []  # type: ignore[attr-defined]
                match = _NAME.fullmatch(entry.name)
                if match is None or not entry.isreg():
                    continue
                record_id, data = int(match[1]), None
                if not known(record_id) and entry.size <= _LARGEST_ENTRY:
                    content = archive.extractfile(entry)
                    data = content.read() if content is not None else None
                    if data is not None and len(data) != entry.size:
                        raise EOFError("an entry is cut off")
                count += 1
                if count % _TELL == 1:
                    offset = raw.tell()
                yield DumpEntry(record_id, data, offset)
            # The tar's end may come before that of the gzip stream, which has the checksum.
            while stream.read(_TAR_BLOCK):
                pass
    except (*_DAMAGE, OSError) as error:
        raise DumpError(
            f"the dump {path} breaks off or is damaged after {count:,} records ({error}): "
            "download it again"
        ) from error


def searchable(hit: Mapping[str, Any]) -> Searchable:
    """Return what a query can ask of a hit."""
    record = parse_record(hit)
    description = mapping(hit.get("metadata")).get("description")
    return Searchable(
        record_id=record.record_id,
        concept_id=record.concept_id or 0,
        created=instant_of(record.created) or _OLDEST,
        updated=instant_of(hit.get("updated")) or _OLDEST,
        publication_date=instant_of(record.publication_date) or _OLDEST,
        title=record.title or "",
        description=re.sub(r"<[^>]*>", " ", description) if isinstance(description, str) else "",
        version=record.version or "",
        doi=record.doi or "",
        license=record.license or "",
        resource_type=record.resource_type or "",
        access=record.access,
        keywords=record.keywords,
        creators=record.creators,
        filenames=tuple(file.key for file in record.files),
        related=tuple(link.identifier for link in record.related),
    )


def deleted_records(
    client: HttpClient, api_url: str, wanted: Callable[[int], bool]
) -> dict[int, str] | None:
    """Return deleted records and the reasons, by the server's monthly list; one request.

    `wanted` selects the records: the list has a row for every spam record. Returns None if the
    server has no such list. Raises `NetworkError` if the server cannot be reached, and `DumpError`
    if the list is damaged.
    """
    with temporary_folder("dump") as folder:
        target = folder / DELETED_LIST
        try:
            client.download(f"{api_url}/exporter/{DELETED_LIST}", target)
        except NetworkError as error:
            if error.kind not in _NOT_THERE:
                raise
            return None
        try:
            with _GZIP.open(target, "rb") as stream:
                return _deleted_in(stream, wanted)
        except (*_DAMAGE, OSError, ValueError, csv.Error) as error:
            raise DumpError(
                f"the list {api_url}/exporter/{DELETED_LIST} cannot be read: {error}"
            ) from error


def _deleted_in(stream: IO[bytes], wanted: Callable[[int], bool]) -> dict[int, str]:
    found = {}
    rows = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""))
    if "record_id" not in (rows.fieldnames or ()):
        raise ValueError("it has no column record_id")
    for row in rows:
        number = whole_number(row["record_id"])
        if number is not None and wanted(number):
            words = (row.get("removal_reason"), row.get("removal_note"), row.get("removal_date"))
            found[number] = ", ".join(word.strip() for word in words if word and word.strip())
    return found
