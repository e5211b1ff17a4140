"""Fetching records ahead of a build, where there is a network, into a cache."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from zml_dask.errors import RecordError
from zml_dask.fetch.cache_reader import MANIFEST, md5_of, open_cache, read_whole
from zml_dask.fetch.fetched import FetchedArchive, FetchedRecord, FetchOptions
from zml_dask.fetch.origins import fetch_into
from zml_dask.net.client import HttpClient
from zml_dask.records.record import Record


@dataclass(frozen=True, slots=True)
class CachedRecord:
    """What became of a record that was to be cached.

    Attributes
    ----------
    record_id : int
    bytes : int
        Of its archives.
    already : bool
        Whether it was there before; nothing was then fetched.
    """

    record_id: int
    bytes: int
    already: bool


def is_cached(cache: str, record_id: int) -> bool:
    """Whether a cache holds a record, wholly."""
    system, root = open_cache(cache)
    return read_whole(system, f"{root}/{record_id}") is not None


def cache_record(
    record: Record,
    client: HttpClient,
    cache: str,
    scratch: Path,
    options: FetchOptions | None = None,
) -> CachedRecord:
    """Fetch a record's code and keep it in a cache.

    Run again after an interruption it goes on within the file that broke off,
    as long as `scratch` is the same.

    Parameters
    ----------
    record : Record
    client : HttpClient
    cache : str
        Folder or any fsspec URL.
    scratch : Path
        Folder on a local disk; holds what is under way.
    options : FetchOptions, optional
        Its `cache` and `offline` are not heeded here.

    Raises
    ------
    RecordError
        As `zml_dask.fetch.origins.open_record`; of the kind "cache" where that cannot be written.
    """
    options = FetchOptions() if options is None else options
    system, root = open_cache(cache)
    place = f"{root}/{record.record_id}"
    manifest = read_whole(system, place)
    if manifest is not None:
        return CachedRecord(record.record_id, _bytes_of(manifest), already=True)
    folder = scratch / f"fetch-{record.record_id}"
    folder.mkdir(parents=True, exist_ok=True)
    # Whole archives only: parts would be of use to a reader with the same limits alone.
    plain = replace(options, cache=None, offline=False, partial_threshold=None)
    try:
        fetched = fetch_into(record, client, folder, plain, keep_partial=True)
    except RecordError as error:
        if error.permanent:  # nobody will go on from here
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        _keep(system, place, fetched)
    except OSError as error:
        raise RecordError("cache", f"the cache {cache!r} cannot be written ({error})") from error
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return CachedRecord(
        record.record_id, sum(archive.bytes for archive in fetched.archives), already=False
    )


def _keep(system: Any, place: str, fetched: FetchedRecord) -> None:
    """Put archives, then the manifest: until that is there, the record is not."""
    system.makedirs(place, exist_ok=True)
    entries = []
    for number, archive in enumerate(fetched.archives):
        stored = f"{number:04d}"
        system.put_file(str(archive.path), f"{place}/{stored}")
        entries.append(_entry(archive, stored))
    manifest = {
        "origin": fetched.origin,
        "archives": entries,
        "listed": [member._asdict() for member in fetched.listed],
    }
    body = json.dumps(manifest, indent=1).encode()
    if isinstance(system, LocalFileSystem):
        # On a file system only a rename is whole or not at all.
        unfinished = Path(place) / f"{MANIFEST}.new"
        unfinished.write_bytes(body)
        unfinished.replace(Path(place) / MANIFEST)
    else:
        system.pipe_file(f"{place}/{MANIFEST}", body)


def _entry(archive: FetchedArchive, stored: str) -> dict[str, Any]:
    return {
        "stored": stored,
        "name": archive.name,
        "bytes": archive.bytes,
        "checksum": archive.checksum,
        "kind": archive.kind,
        "md5": md5_of(archive.path),
    }


def _bytes_of(manifest: Any) -> int:
    with suppress(KeyError, TypeError):
        return sum(int(entry["bytes"]) for entry in manifest["archives"])
    return 0
