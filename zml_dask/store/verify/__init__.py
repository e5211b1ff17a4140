"""Verification that a dataset is what was written, and that its images are its files' text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zml_dask.arguments import checked
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.job import Each, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import DatasetDamagedError, ObjectMissingError, StorageError, UsageError
from zml_dask.store.commit.plan import repack_under_way
from zml_dask.store.commit.tasks import rows_digest
from zml_dask.store.info import DatasetInfo, Part, WrittenObject, ensure_ours, read_info
from zml_dask.store.layout import (
    DATASET_JSON,
    DERIVED,
    IMAGES_ZARR,
    LEGACY,
    LOCK,
    LOG,
    REPACK,
    STAGING,
    row_shape,
    shard_path,
)
from zml_dask.store.repack import noted
from zml_dask.store.shards import ShardReader, zarr_objects
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging.frames import StagedReader
from zml_dask.store.storage import Storage
from zml_dask.store.tables import digest_of, read_manifest
from zml_dask.store.verify.meaning import Problem, Report, check_tables, check_texts
from zml_dask.store.verify.repair import Restage, recorded_files, restaged, staged_files

__all__ = ["Problem", "Report", "verify"]

SAMPLED_SHARDS = 8
"""Shards whose images are held to their text without ``deep``, evenly spread."""

_THREADS = 4

_SHOW_FROM = 200
"""Objects: fewer are verified at once."""

_AHEAD = "a commit has begun and not ended; build again to finish it"


@checked
def verify(
    url: str | Path | Storage,
    *,
    deep: bool = False,
    source: int = 0,
    restage: Restage | None = None,
    progress: BuildProgress | None = None,
    **storage_options: Any,
) -> Report:
    """Check a dataset: structure, counts, every checksum, and images against their text.

    Parameters
    ----------
    url : str, path or Storage
    deep : bool
        Compare the images of all shards with their files' text, not of eight.
    source : int
        Number of records, evenly spread, that `restage` fetches again to compare them.
    restage : callable, optional
        Fetches records and stages them elsewhere; the store itself knows no network.
    progress : BuildProgress, optional
    **storage_options
        For fsspec.

    Returns
    -------
    Report
        With all problems; a damaged dataset raises nothing.

    Raises
    ------
    UsageError
        If there is no dataset at all.
    """
    storage = Storage.open(url, **storage_options)
    report = Report(storage.url)
    try:
        info = read_info(storage)
    except DatasetDamagedError as error:
        report.add("damaged", DATASET_JSON, str(error))
        return report
    if info is None:
        ensure_ours(storage)
        if not storage.names():
            raise UsageError(f"{storage.url} holds no dataset; check the path")
        report.notes.append(
            f"nothing is committed yet; {len(storage.list(STAGING))} staged objects"
        )
        return report
    _verify(report, storage, info, deep, progress)
    if not report.ok and read_info(storage) != info:  # a commit or a repack ended meanwhile
        return verify(storage, deep=deep, source=source, restage=restage, progress=progress)
    if source and restage is not None and report.ok:
        _check_sources(report, storage, info, source, restage)
    return report


class _Verify(Each[Report]):
    name = "verify"


def _verify(
    report: Report, storage: Storage, info: DatasetInfo, deep: bool, progress: BuildProgress | None
) -> None:
    def check(function: Callable[..., Report], arguments: Iterable[tuple[Any, ...]]) -> bool:
        """Run a check over many things in threads; return whether nothing is wrong."""
        tasks = list(arguments)
        shown = progress if len(tasks) >= _SHOW_FROM else None
        found = run_job(_Verify(function, tasks), ThreadsExecutor(_THREADS), progress=shown)
        for one in found:
            report.merge(one)
        return all(one.ok for one in found)

    if not check(check_object, ((storage, None, part) for part in info.manifest)):
        return  # the list of objects cannot be trusted
    manifest = read_manifest(storage, info)
    # Bounded by the list, since the counts may be anything.
    expected = set(islice(expected_paths(info), len(manifest) + 1))
    for path in sorted(expected - manifest.keys()):
        report.add("missing", path, "the manifest does not list it")
    for path in sorted(manifest.keys() - expected):
        report.add("counts", path, "the manifest lists what no dataset of these counts has")
    check(check_object, ((storage, info, manifest[path]) for path in manifest if path in expected))
    report.notes = sorted(set(report.notes))
    if len(expected) > len(manifest):
        return  # the number of rows cannot be trusted either
    report.notes += note_leftovers(storage, info, manifest)
    if (level := repack_under_way(storage, info)) is not None:
        report.notes.append(f"a repack to level {level} has begun and not ended: run it again")
    parts = [part for group in info.tables.values() for part in group]
    if not check(check_object, ((storage, None, part) for part in parts)):
        return  # damaged tables are nothing to compare with
    try:
        starts = check_tables(report, storage, info)
    except (StorageError, pa.ArrowException) as error:
        report.add("unreadable", storage.url, str(error))
        return
    size = info.array("images").shard
    shards = np.arange(-(-info.counts.images // size))
    if not deep and shards.size > SAMPLED_SHARDS:
        shards = shards[np.linspace(0, shards.size - 1, SAMPLED_SHARDS).astype(int)]
    check(check_texts, ((storage, info, starts, shard) for shard in shards.tolist()))


def _check_sources(
    report: Report, storage: Storage, info: DatasetInfo, count: int, restage: Restage
) -> None:
    """Fetch some records again, and compare every file of theirs with its row."""
    records = Snapshot(storage, info).scan("records", ["record_id"], with_withdrawn=True)
    ids = records["record_id"].to_numpy()
    # Evenly spread, the same ones each time.
    chosen = np.linspace(0, ids.size - 1, min(count, ids.size)).round().astype(int)
    wanted = ids[np.unique(chosen)].tolist()
    recorded = recorded_files(storage, info, wanted)
    with restaged(restage, wanted) as (source, index):
        reasons = {row["record_id"]: row["message"] for row in index.failures.to_pylist()}
        for record_id in wanted:
            location = index.find(record_id)
            if location is None:
                reason = reasons.get(record_id, "it did not come")
                report.add("unreadable", f"record {record_id}", f"not fetched again: {reason}")
                continue
            report.count("sources")
            fetched = staged_files(StagedReader(source, location))
            if fetched != recorded[record_id]:
                differing = sorted({key[0] for key in set(fetched) ^ set(recorded[record_id])})
                report.add(
                    "source",
                    f"record {record_id}",
                    f"{len(differing)} files are not as in the archive fetched again, such as "
                    f"{differing[:1]}",
                )


def expected_paths(info: DatasetInfo) -> Iterator[str]:
    """Yield the paths of all shards and metadata that a dataset of these counts has."""
    for spec in info.arrays:
        for shard in range(-(-info.counts.images // spec.shard)):
            yield shard_path(spec.name, shard, 1 + len(row_shape(spec, info.shape)))
    yield from (path for path, _ in zarr_objects(info.arrays, info.shape, info.counts.images))


def check_object(
    storage: Storage, info: DatasetInfo | None, written: Part | WrittenObject
) -> Report:
    """Check one object: a part of a table, or with `info` an object of the manifest.

    An object of the manifest that a dead commit has replaced is accepted if it contains the same
    committed rows.
    """
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
    if info is not None:
        known = noted(storage, written.path)  # by a repack that is under way
        if known is not None and known.sha256 == digest_of(data):
            return report
    if info and isinstance(written, WrittenObject) and _is_ahead(written, info, data):
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
        except DatasetDamagedError:
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
    return dict(zarr_objects(info.arrays, info.shape, lengths.pop())).get(written.path) == data


def note_leftovers(
    storage: Storage, info: DatasetInfo, manifest: dict[str, WrittenObject]
) -> Iterator[str]:
    """Describe what lies in the dataset and is not part of it."""
    listed = {DATASET_JSON, LOCK, LOG, *manifest}
    listed |= {part.path for parts in info.tables.values() for part in parts}
    listed |= {part.path for part in info.manifest}
    unlisted: list[str] = []
    others: list[str] = []
    staged = 0
    for name in storage.names():
        if name == LEGACY or name.startswith(LOG.partition(".")[0]):
            continue
        paths = storage.list(name) or [name]
        if name == STAGING:
            not_builds = (f"{REPACK}/", f"{STAGING}/commit/", f"{STAGING}/{DERIVED}/")
            staged = sum(not path.startswith(not_builds) for path in storage.list(name))
        else:
            is_ours = name in (IMAGES_ZARR, DERIVED) or name.endswith(".parquet")
            found = unlisted if is_ours else others
            found += [path for path in paths if path not in listed]
    if staged:
        yield f"{staged} objects are staged and not committed: build again to commit them"
    unlisted += storage.leftovers()
    if unlisted:
        yield (
            f"{len(unlisted)} objects are not part of the dataset, such as {unlisted[0]!r}: "
            "left by a commit that did not end; the next one removes them"
        )
    if others:
        yield (
            f"{len(others)} other files lie in the dataset's folder, such as {others[0]!r}: "
            "they are no part of it and were not checked"
        )
