"""Proof that a dataset is what was written, and that its images are their files' text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zml_dask.store.info import (
    DatasetDamagedError,
    DatasetInfo,
    NotADatasetError,
    ensure_ours,
    read_info,
)
from zml_dask.store.layout import DATASET_COPY, DATASET_JSON, STAGING
from zml_dask.store.manifest import read_manifest
from zml_dask.store.staging.staged import read_staged
from zml_dask.store.storage import Storage, StorageError
from zml_dask.store.tables import read_table
from zml_dask.store.verify.objects import (
    Mapper,
    check_copy,
    check_objects,
    check_part,
    note_leftovers,
)
from zml_dask.store.verify.report import Problem, Report
from zml_dask.store.verify.restage import Restage, recorded_files, restaged, staged_files
from zml_dask.store.verify.rows import check_tables, check_texts, file_groups

__all__ = ["Problem", "Report", "verify"]

SAMPLED_SHARDS = 8
"""Shards whose images are held to their text without ``deep``, evenly spread."""

_THREADS = 4


def verify(
    url: str | Path | Storage,
    *,
    deep: bool = False,
    source: int = 0,
    restage: Restage | None = None,
    mapper: Mapper | None = None,
    **storage_options: Any,
) -> Report:
    """Check a dataset: structure, counts, every checksum, and images against their text.

    Parameters
    ----------
    url : str, path or Storage
    deep : bool
        Hold all images to their files' text, not those of a few shards.
    source : int
        Fetch so many records again with `restage`, evenly spread, and compare.
    restage : callable, optional
        Fetches records and stages them elsewhere; the store itself knows no network.
    mapper : callable, optional
        As the builtin ``map``; threads by default.
    **storage_options
        For fsspec.

    Returns
    -------
    Report
        With all problems; a damaged dataset raises nothing.

    Raises
    ------
    NotADatasetError
        If there is no dataset at all.
    """
    storage = Storage.open(url, **storage_options)
    report = Report(storage.url)
    try:
        info = read_info(storage)
    except (DatasetDamagedError, NotADatasetError) as error:
        if isinstance(error, NotADatasetError) and not storage.exists(DATASET_COPY):
            raise
        report.add("damaged", DATASET_JSON, str(error))
        return report
    if info is None:
        ensure_ours(storage)
        if not storage.names():
            raise NotADatasetError(f"{storage.url} holds no dataset; check the path")
        report.notes.append(
            f"nothing is committed yet; {len(storage.list(STAGING))} staged objects"
        )
        return report
    with ThreadPoolExecutor(_THREADS) as pool:
        _verify(report, storage, info, deep, mapper or pool.map)
    if source and restage is not None and report.ok:
        _check_sources(report, storage, info, source, restage)
    return report


def _verify(
    report: Report, storage: Storage, info: DatasetInfo, deep: bool, mapper: Mapper
) -> None:
    for found in mapper(partial(check_part, storage), info.manifest):
        report.merge(found)
    if not report.ok:
        return  # what the list of objects says cannot be trusted
    report.merge(check_copy(storage, info))
    manifest = read_manifest(storage, info)
    report.merge(check_objects(storage, info, manifest, mapper))
    report.notes += note_leftovers(storage, info, manifest)
    parts = [part for group in info.tables.values() for part in group]
    tables = Report(storage.url)
    for found in mapper(partial(check_part, storage), parts):
        tables.merge(found)
    report.merge(tables)
    if not tables.ok:
        return  # nothing can be held against damaged tables
    try:
        report.merge(check_tables(storage, info))
    except (StorageError, pa.ArrowException) as error:
        report.add("unreadable", storage.url, str(error))
        return
    size = info.array("images").shard
    shards = np.arange(-(-info.counts.images // size))
    if not deep and shards.size > SAMPLED_SHARDS:
        shards = shards[np.linspace(0, shards.size - 1, SAMPLED_SHARDS).astype(int)]
    firsts = shards * size
    groups = file_groups(storage, info)
    for found in mapper(
        partial(check_texts, storage, info, groups),
        firsts.tolist(),
        (firsts + size).tolist(),
    ):
        report.merge(found)


def sample_records(storage: Storage, info: DatasetInfo, count: int) -> Sequence[int]:
    """Choose record ids evenly spread over the dataset, the same ones each time."""
    ids = read_table(storage, info, "records", ["record_id"])["record_id"].to_numpy()
    chosen = np.linspace(0, ids.size - 1, min(count, ids.size)).round().astype(int)
    return [int(ids[position]) for position in np.unique(chosen)]


def _check_sources(
    report: Report, storage: Storage, info: DatasetInfo, count: int, restage: Restage
) -> None:
    """Fetch some records again, and compare every file of theirs with its row."""
    wanted = sample_records(storage, info, count)
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
            fetched = staged_files(read_staged(source, location))
            if fetched != recorded[record_id]:
                differing = sorted({key[0] for key in set(fetched) ^ set(recorded[record_id])})
                report.add(
                    "source",
                    f"record {record_id}",
                    f"{len(differing)} files are not as in the archive fetched again, such as "
                    f"{differing[:1]}",
                )
