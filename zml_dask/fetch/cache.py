"""The cache of fetched archives.

``CACHE/<record id>/record.json`` names the files beside it (``0000``, ``0001``,
...) with sizes and checksums; it is written last, so a record without it is not
in the cache. `CACHE` is a folder or any fsspec URL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from zml_dask.errors import NetworkError, RecordError, ZmlError
from zml_dask.fetch.fetched import FetchedArchive, FetchedRecord
from zml_dask.fetch.member import FetchLimits, Member
from zml_dask.fetch.streams import Readable
from zml_dask.net.transfer import local_disk, write_all
from zml_dask.records.journal import replacing
from zml_dask.records.record import Record
from zml_dask.remote import explain_fsspec

MANIFEST: Final = "record.json"
_PIECE: Final = 1024 * 1024


def read_cached(
    cache: str, record: Record, folder: Path, limits: FetchLimits
) -> FetchedRecord | None:
    """Return a record that is in a cache; None if it is not there, or with other files.

    `folder` is for the archives of a cache that is not a local folder. Raises `RecordError` if
    the cache cannot be read, or an archive in it is not what its manifest says.
    """
    system, root = open_cache(cache)
    place = f"{root}/{record.record_id}"
    with _reading(f"record {record.record_id} in the cache {cache!r}"):
        manifest = _read_manifest(system, place)
        if manifest is None or not _is_of(record, manifest):
            return None
        archives = tuple(
            _archive(system, f"{place}/{entry['stored']}", entry, folder)
            for entry in manifest["archives"]
        )
        listed = tuple(Member(**row) for row in manifest["listed"])
        return FetchedRecord(manifest["origin"], archives, listed, limits, folder)


def open_cache(cache: str) -> tuple[Any, str]:
    """Return the file system and the root of a cache (a folder or a URL).

    Raises `RecordError` if the URL names no file system that is installed.
    """
    try:
        system, root = fsspec.core.url_to_fs(cache)
    except (ValueError, ImportError) as error:
        raise RecordError("cache", f"the cache {cache!r} cannot be opened: {error}") from None
    return system, str(root).rstrip("/")


def is_whole(system: Any, place: str, record: Record) -> bool:
    """Whether a record is in a cache as it is now, with all its files in full size.

    Raises `RecordError` if the cache cannot be read.
    """
    with _reading(f"the cache at {place!r}"):
        manifest = _read_manifest(system, place)
        try:
            return (
                manifest is not None
                and all(
                    system.size(f"{place}/{entry['stored']}") == entry["bytes"]
                    for entry in manifest["archives"]
                )
                and _is_of(record, manifest)
            )
        except (FileNotFoundError, KeyError, TypeError):
            return False


def _is_of(record: Record, manifest: Mapping[str, Any]) -> bool:
    """Whether cached files are those that a record has now: none has another md5.

    The number may be that of another server's record, and files are replaced.
    """
    stated = {(file.checksum or "").lower() for file in record.files}
    is_own = manifest["origin"] in ("zenodo", "url")
    if not is_own or not stated or not all(one.startswith("md5:") for one in stated):
        return True
    return all(entry["checksum"] in (None, *stated) for entry in manifest["archives"])


def _read_manifest(system: Any, place: str) -> Mapping[str, Any] | None:
    """Return a record's manifest; None if the record is not in the cache, or not completely."""
    try:
        manifest = json.loads(system.cat_file(f"{place}/{MANIFEST}"))
    except ValueError:  # it was torn while it was written
        return None
    except Exception as error:
        if explain_fsspec(error).is_missing:
            return None
        raise
    return manifest if isinstance(manifest, dict) else None


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise `RecordError` if something in a cache cannot be read."""
    try:
        yield
    except ZmlError:
        raise
    except (KeyError, TypeError) as error:
        raise RecordError("cache", f"{what} has a damaged manifest; fetch it again") from error
    except Exception as error:
        failure = explain_fsspec(error)
        reason = "an archive is missing" if failure.is_missing else failure.reason
        raise RecordError("cache", f"{what} cannot be read: {reason}; fetch it again") from error


def keep_in_cache(system: Any, place: str, fetched: FetchedRecord) -> None:
    """Put a record's archives into a cache; the manifest, which makes it complete, comes last."""
    system.makedirs(place, exist_ok=True)
    entries = []
    for number, archive in enumerate(fetched.archives):
        stored = f"{number:04d}"
        system.put_file(str(archive.path), f"{place}/{stored}")
        entry = {
            "stored": stored,
            "name": archive.name,
            "bytes": archive.bytes,
            "checksum": archive.checksum,
            "kind": archive.kind,
            "md5": md5_of(archive.path),
        }
        entries.append(entry)
    manifest = {
        "origin": fetched.origin,
        "archives": entries,
        "listed": [member._asdict() for member in fetched.listed],
    }
    body = json.dumps(manifest, indent=1).encode()
    if isinstance(system, LocalFileSystem):
        with replacing(Path(place) / MANIFEST) as stream:
            stream.write(body)
    else:
        system.pipe_file(f"{place}/{MANIFEST}", body)


def _archive(system: Any, stored: str, entry: Mapping[str, Any], folder: Path) -> FetchedArchive:
    if isinstance(system, LocalFileSystem):
        path = Path(stored)
        md5 = md5_of(path)
    else:
        path = folder / entry["stored"]
        with system.open(stored, "rb") as source:
            _, md5 = copy_stream(source, path, most=entry["bytes"])
    if md5 != entry["md5"]:
        raise RecordError(
            "cache", f"{stored!r} has changed since it was fetched; remove it, and fetch again"
        )
    return FetchedArchive(entry["name"], path, entry["bytes"], entry["checksum"], entry["kind"])


def copy_stream(source: Readable, target: Path, most: int) -> tuple[int, str]:
    """Copy a stream to a file; return the number of bytes and their md5 (hex).

    Raises `NetworkError` if there are more than `most` bytes, or `target` cannot be written.
    """
    digest, count = hashlib.md5(usedforsecurity=False), 0
    with local_disk(target):
        to = target.open("wb", buffering=0)
    with to:
        while piece := source.read(_PIECE):
            count += len(piece)
            if count > most:
                raise NetworkError(
                    "too_large", f"{target.name!r} is over the limit of {most:,} bytes"
                )
            digest.update(piece)
            with local_disk(target):
                write_all(to, piece)
    return count, digest.hexdigest()


def md5_of(path: Path) -> str:
    """Return the md5 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
