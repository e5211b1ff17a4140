"""Where a record's code comes from: its own files, or else the repository at its tag."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from zml_dask.errors import RecordError
from zml_dask.fetch.cache import is_whole, keep_in_cache, open_cache, read_cached
from zml_dask.fetch.fetched import FetchedArchive, FetchedRecord, FetchOptions, Origin
from zml_dask.fetch.files import FILE_FAULTS, FileFetcher
from zml_dask.fetch.git import GithubSource, GitLimits, find_repository, github_source, snapshot
from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.unpack import has_members, is_sound, kind_of
from zml_dask.net.client import HttpClient
from zml_dask.net.transfer import local_disk
from zml_dask.records.parse import mapping, record_name
from zml_dask.records.record import Record
from zml_dask.remote import explain_fsspec
from zml_dask.text_safety import escape_path

# Other failures are those of this machine or of the whole server, or the record is withdrawn
# or restricted on purpose: then GitHub is not tried.
_ELSEWHERE: Final = FILE_FAULTS | {"unreadable_archive", "no_files"}
_OF_THIS_MACHINE: Final = frozenset({"disk_full", "scratch"})


@contextmanager
def open_record(
    record: Record, client: HttpClient, scratch: Path, options: FetchOptions | None = None
) -> Iterator[FetchedRecord]:
    """Fetch a record's code; what was fetched is removed on leaving.

    `scratch` is a folder on a local disk with space for the record's archives. `RecordError`, or
    `NetworkError` by what went wrong with the record's own files.
    """
    with local_disk(scratch / "record"):
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"record-{record.record_id}-"))
    try:
        yield fetch_into(record, client, folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_into(
    record: Record,
    client: HttpClient,
    folder: Path,
    options: FetchOptions | None = None,
    *,
    keep_partial: bool = False,
) -> FetchedRecord:
    """Fetch a record's code into a folder on a local disk, which the caller removes.

    `keep_partial` leaves what there is of a failed download for the next attempt. Raises as
    `open_record`; also `RecordError` if the cache alone may be used, and lacks the record.
    """
    options = FetchOptions() if options is None else options
    if options.cache is not None:
        cached = read_cached(options.cache, record, folder, options.limits)
        if cached is not None:
            if nothing := cached.lost():
                raise _unreadable(record, cached, nothing)
            return cached
    if options.offline:
        raise RecordError(
            "not_in_cache",
            f"record {record.record_id} is not in the cache {options.cache!r}, or of other files; "
            "fetch it with zml-dask fetch where there is a network",
        )
    _check_access(record)
    fetcher = FileFetcher(client, folder, options, keep_partial)
    source = github_source(record, options.github_url)
    own: FetchedRecord | None = None
    lost: tuple[str, ...] | None = None
    try:
        if not record.files:
            raise _without_files(record)
        fetcher.fetch_all(record.files)
        own = FetchedRecord(
            _origin(record), tuple(fetcher.archives), tuple(fetcher.listed), options.limits
        )
        lost = own.lost()
        fault = _fault_of(record, own, fetcher.fault, lost)
        if fault is not None and fault.kind not in _ELSEWHERE:
            raise fault
    except RecordError as error:
        if error.kind == "forbidden" and record.access == "embargoed":
            raise _embargoed(record) from error
        if error.kind not in _ELSEWHERE:
            raise
        fault = error
    if own is not None and fault is None:
        return own
    try:
        return _from_github(source, fetcher, cast("RecordError", fault))
    except RecordError as error:
        # What can be read of a damaged archive is better than nothing.
        if error.kind in _OF_THIS_MACHINE or own is None:
            raise
        if lost or not cast("RecordError", fault).permanent:
            raise
    return own


def cache_record(
    record: Record,
    client: HttpClient,
    cache: str,
    scratch: Path,
    options: FetchOptions | None = None,
) -> int | None:
    """Fetch a record's code and keep it in a cache (a folder or any fsspec URL).

    After an interruption the same call continues within the file that broke off, if `scratch`
    (on a local disk) is the same. `cache` and `offline` of the options are ignored. Returns the
    bytes of its archives, or None if it was there already. Raises as `open_record`, and
    `RecordError` of the kind "cache" if the cache cannot be written.
    """
    options = FetchOptions() if options is None else options
    system, root = open_cache(cache)
    place = f"{root}/{record.record_id}"
    if is_whole(system, place, record):
        return None
    folder = scratch / f"fetch-{record.record_id}"
    folder.mkdir(parents=True, exist_ok=True)
    # Whole archives only: parts would be of use to a reader with the same limits alone.
    plain = replace(options, cache=None, offline=False, partial_threshold=None)
    try:
        fetched = fetch_into(record, client, folder, plain, keep_partial=True)
    except RecordError as error:
        if error.permanent:  # no later attempt will use it
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        keep_in_cache(system, place, fetched)
    except Exception as error:
        reason = explain_fsspec(error).reason
        raise RecordError("cache", f"the cache {cache!r} cannot be written: {reason}") from error
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return sum(archive.bytes for archive in fetched.archives)


def _check_access(record: Record) -> None:
    """Refuse records whose files are withheld on purpose; other origins are not tried."""
    if record.files:
        return
    if record.access == "embargoed":
        raise _embargoed(record)
    if record.access in {"restricted", "closed"}:
        raise RecordError(
            "restricted",
            f"record {record.record_id} is {record.access}; ask its authors, or use a token",
        )
    if record.access == "metadata-only":
        raise _without_files(record)


def _without_files(record: Record) -> RecordError:
    return RecordError("no_files", f"record {record.record_id} has no files; nothing can be read")


_EMBARGO: Final = "is under an embargo until "
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"


def _embargoed(record: Record) -> RecordError:
    end = embargo_date(record)
    until = (
        f"{_EMBARGO}{end}; an update after that day"
        if end is not None
        else ("is under an embargo; every update")
    )
    return RecordError("embargoed", f"record {record.record_id} {until} asks for it again")


def embargo_date(record: Record) -> str | None:
    """The date on which a record's embargo ends; None if the record states none."""
    hit = record.metadata
    end = str(
        mapping(hit.get("metadata")).get("embargo_date")
        or mapping(mapping(hit.get("access")).get("embargo")).get("until")
    )
    return end[:10] if re.match(f"{_DATE}(?:T|$)", end) else None


def embargo_end(message: str) -> str | None:
    """The end of an embargo, from the message of a failed record.

    Examples
    --------
    >>> embargo_end("record 7 is under an embargo until 2030-01-31; an update after that day ...")
    '2030-01-31'
    """
    found = re.search(f"{_EMBARGO}({_DATE})", message)
    return found[1] if found else None


def _fault_of(
    record: Record, own: FetchedRecord, fault: RecordError | None, lost: tuple[str, ...] | None
) -> RecordError | None:
    """Say why other origins must be tried; None if the record's own files suffice."""
    if lost:
        is_passing = fault is not None and not fault.permanent
        return fault if is_passing else _unreadable(record, own, lost)
    archives = [archive for archive in own.archives if has_members(archive.kind)]
    if any(is_sound(archive.path, archive.kind) for archive in archives):
        return None
    if fault is None and archives:
        return RecordError(
            "unreadable_archive", f"record {record.record_id} has damaged archives only"
        )
    return fault


def _unreadable(record: Record, fetched: FetchedRecord, lost: tuple[str, ...]) -> RecordError:
    names = ", ".join(escape_path(archive.name)[0] for archive in fetched.archives[:3])
    return RecordError(
        "unreadable_archive",
        f"record {record.record_id}: no text can be read in {names or 'its files'} "
        f"({'; '.join(lost)})",
    )


def _from_github(
    source: GithubSource | None, fetcher: FileFetcher, fault: RecordError
) -> FetchedRecord:
    """Take the repository's archive at a tag, else a clone of the tag, else of the default branch.

    If there is nothing there either, raises an error of the kind of `fault` with what was
    tried, or one of a transient kind if GitHub could not be asked.
    """
    if source is None:
        raise fault
    tried: RecordError = fault
    passing: RecordError | None = None
    for tag in source.tags:
        try:
            return _github_archive(source, tag, fetcher)
        except RecordError as error:
            if error.kind in _OF_THIS_MACHINE:
                raise
            tried = error
            passing = passing if error.permanent else error
    for tag_or_branch in (*source.tags, None):
        try:
            return _clone(source, tag_or_branch, fetcher)
        except RecordError as error:
            if not error.kind.startswith("git"):
                raise
            tried = error
            passing = error if error.kind == "git_unreachable" else passing
    if passing is not None and fault.permanent:
        message = f"{fault}; and its repository cannot be asked: {passing}"
        raise type(passing)(passing.kind, message) from tried
    raise type(fault)(fault.kind, f"{fault}; nor is it in its repository: {tried}") from tried


def _github_archive(source: GithubSource, tag: str, fetcher: FileFetcher) -> FetchedRecord:
    target = fetcher.folder / "github.zip"
    limits = fetcher.options.limits
    download = fetcher.client.download(
        source.archive_url(tag), target, max_bytes=limits.max_archive_bytes
    )
    kind = kind_of(target, limits=limits)
    if not is_sound(target, kind):
        raise RecordError("unreadable_archive", f"{source.name} at {tag!r} is not an archive")
    checksum = f"md5:{download.md5}"
    return _of_repository("github-archive", source, target, download.bytes, checksum, limits)


def _clone(source: GithubSource, tag: str | None, fetcher: FileFetcher) -> FetchedRecord:
    options = fetcher.options
    url = find_repository(source, fetcher.client)
    fetcher.client.await_turn(url)
    limits = GitLimits(options.git_timeout, options.limits.max_archive_bytes)
    commit = snapshot(source, tag, fetcher.folder, limits, url=url)
    target = fetcher.folder / "git.tar"
    origin: Origin = "git-branch" if tag is None else "git-tag"
    size = target.stat().st_size
    return _of_repository(origin, source, target, size, f"git:{commit}", options.limits)


def _of_repository(
    origin: Origin, source: GithubSource, path: Path, count: int, checksum: str, limits: FetchLimits
) -> FetchedRecord:
    kind = "zip" if origin == "github-archive" else "tar"
    name = f"{source.owner}/{source.name}.{kind}"
    archive = FetchedArchive(name, path, count, checksum, kind_of(path, limits=limits))
    return FetchedRecord(origin, (archive,), (), limits)


def _origin(record: Record) -> Origin:
    """``"url"`` if the user's own catalogue gives the URL of a file."""
    usual = f"/records/{record_name(record.record_id)}/files/"
    return "zenodo" if all(usual in file.url for file in record.files) else "url"
