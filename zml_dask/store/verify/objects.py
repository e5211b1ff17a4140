"""Verification of bytes: every object against its recorded size and checksum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from zml_dask.store.commit.plan import PLAN
from zml_dask.store.commit.shards import ShardDamagedError, ShardReader
from zml_dask.store.commit.tasks import rows_digest
from zml_dask.store.commit.zarr_metadata import zarr_objects
from zml_dask.store.info import (
    DatasetDamagedError,
    DatasetInfo,
    NotADatasetError,
    Part,
    WrittenObject,
)
from zml_dask.store.layout import (
    DATASET_COPY,
    DATASET_JSON,
    IMAGES_ZARR,
    LEGACY,
    LOCK,
    LOG,
    STAGING,
    row_shape,
    shard_path,
)
from zml_dask.store.manifest import digest_of
from zml_dask.store.storage import ObjectMissingError, Storage
from zml_dask.store.verify.report import Report

Mapper = Callable[..., "Iterator[Report]"]

_AHEAD = "a commit has begun and not ended; build again to finish it"


def expected_paths(info: DatasetInfo) -> Iterator[str]:
    """Give the paths of all shards and metadata that a dataset of its counts has."""
    for spec in info.arrays:
        for shard in range(-(-info.counts.images // spec.shard)):
            yield shard_path(spec.name, shard, 1 + len(row_shape(spec, info.shape)))
    yield from (path for path, _ in zarr_objects(info, info.counts.images))


def check_part(storage: Storage, part: Part) -> Report:
    """Check one immutable object."""
    return _check_bytes(storage, WrittenObject(part.path, part.size, part.sha256), None)


def check_object(storage: Storage, info: DatasetInfo, written: WrittenObject) -> Report:
    """Check one object of the manifest.

    One that a later, dead commit has replaced is fine as long as it says the
    same about what is committed.
    """
    return _check_bytes(storage, written, info)


def _check_bytes(storage: Storage, written: WrittenObject, info: DatasetInfo | None) -> Report:
    report = Report(storage.url)
    try:
        data = storage.read(written.path)
    except ObjectMissingError:
        report.add("missing", written.path, "the object is not there")
        return report
    report.count("objects")
    report.count("bytes", len(data))
    if digest_of(data) == written.sha256:
        return report
    if info is not None and _is_ahead(written, info, data):
        report.notes.append(f"{written.path} is ahead of the last commit: {_AHEAD}")
        return report
    size = "" if len(data) == written.size else f", {len(data)} bytes instead of {written.size}"
    report.add("damaged", written.path, f"its bytes do not fit the recorded SHA-256{size}")
    return report


def _is_ahead(written: WrittenObject, info: DatasetInfo, data: bytes) -> bool:
    """Whether an object was replaced by a commit that died, and keeps what is committed."""
    if written.rows_sha256 is not None:
        spec = info.array(written.path.split("/")[1])
        try:
            reader = ShardReader(spec, row_shape(spec, info.shape), data)
            return rows_digest(reader, spec, written.rows) == written.rows_sha256
        except ShardDamagedError:
            return False
    if written.path.endswith("zarr.json"):
        return _is_longer_metadata(written, info, data)
    return False


def _is_longer_metadata(written: WrittenObject, info: DatasetInfo, data: bytes) -> bool:
    try:
        node = json.loads(data)
        arrays = node.get("consolidated_metadata", {}).get("metadata", {"": node})
        lengths = {int(array["shape"][0]) for array in arrays.values()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False
    if len(lengths) != 1:
        return False
    return dict(zarr_objects(info, lengths.pop())).get(written.path) == data


def check_copy(storage: Storage, info: DatasetInfo) -> Report:
    """Check the copy of ``dataset.json``; an older one is fine, a crash came between the two."""
    report = Report(storage.url)
    try:
        data = storage.read(DATASET_COPY)
        if data != info.to_bytes():
            DatasetInfo.from_bytes(data, DATASET_COPY)
            report.notes.append(f"{DATASET_COPY} is of an earlier commit; the next one renews it")
    except ObjectMissingError:
        if storage.exists(PLAN):
            report.notes.append(f"{DATASET_COPY} is not there yet; {_AHEAD}")
        else:
            report.add("missing", DATASET_COPY, "the copy of dataset.json is not there")
    except (DatasetDamagedError, NotADatasetError) as error:
        report.add("damaged", DATASET_COPY, str(error))
    return report


def check_objects(
    storage: Storage,
    info: DatasetInfo,
    manifest: dict[str, WrittenObject],
    mapper: Mapper,
) -> Report:
    """Check all objects that the manifest lists, and that it lists all there must be.

    Parameters
    ----------
    storage : Storage
    info : DatasetInfo
    manifest : dict of str to WrittenObject
        By path.
    mapper : Mapper
        Maps in parallel.
    """
    report = Report(storage.url)
    expected = set(expected_paths(info))
    for path in sorted(expected - manifest.keys()):
        report.add("missing", path, "the manifest does not list it")
    for path in sorted(manifest.keys() - expected):
        report.add("counts", path, "the manifest lists what no dataset of these counts has")
    listed = [written for path, written in manifest.items() if path in expected]
    for found in mapper(partial(check_object, storage, info), listed):
        report.merge(found)
    report.notes = sorted(set(report.notes))
    return report


def note_leftovers(
    storage: Storage, info: DatasetInfo, manifest: dict[str, WrittenObject]
) -> Iterator[str]:
    """Say what lies in the dataset and is not part of it."""
    listed = {DATASET_JSON, DATASET_COPY, LOCK, LOG, *manifest}
    listed |= {part.path for parts in info.tables.values() for part in parts}
    listed |= {part.path for part in info.manifest}
    unlisted: list[str] = []
    strangers: list[str] = []
    staged = 0
    for name in storage.names():
        if name == LEGACY or name.startswith(LOG.partition(".")[0]):
            continue
        paths = storage.list(name) or [name]
        if name == STAGING:
            staged = len(storage.list(name))
        else:
            is_ours = name == IMAGES_ZARR or name.endswith(".parquet")
            found = unlisted if is_ours else strangers
            found += [path for path in paths if path not in listed]
    if staged:
        yield f"{staged} objects are staged and not committed: build again to commit them"
    unlisted += storage.leftovers()
    if unlisted:
        yield (
            f"{len(unlisted)} objects are not part of the dataset, such as {unlisted[0]!r}: "
            "left by a commit that did not end; the next one removes them"
        )
    if strangers:
        yield (
            f"{len(strangers)} other files lie in the dataset's folder, such as {strangers[0]!r}: "
            "nobody reads or touches them"
        )
