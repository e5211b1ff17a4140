"""Repair of what the rest is made by: ``dataset.json``, the tables, the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from zml_dask.store.commit.plan import CommitTask, TaskKind
from zml_dask.store.commit.shards import ShardReader
from zml_dask.store.commit.tasks import perform, rows_digest
from zml_dask.store.info import (
    DatasetDamagedError,
    DatasetInfo,
    NotADatasetError,
    Part,
    WrittenObject,
    read_info,
    refresh_copy,
    replace_info,
)
from zml_dask.store.layout import (
    DATASET_COPY,
    DATASET_JSON,
    FAILURES_SCHEMA,
    row_shape,
)
from zml_dask.store.manifest import MANIFEST, write_manifest
from zml_dask.store.storage import ObjectMissingError, Storage
from zml_dask.store.tables import read_part, write_part
from zml_dask.store.verify.objects import expected_paths
from zml_dask.store.verify.report import Report
from zml_dask.store.verify.restage import RecordRows, StageAgain, plan_of
from zml_dask.store.verify.rows import (
    check_tables,
    check_texts,
    file_batches,
    file_groups,
    numbers,
)

DONE = "made again: "
"""How a note about a repaired object begins; its path follows."""


def restore_info(storage: Storage, outcome: Report) -> DatasetInfo | None:
    """Read ``dataset.json`` or its copy, and make the one that is damaged again."""
    try:
        info = read_info(storage)
    except (DatasetDamagedError, NotADatasetError):
        info = None
    if info is not None:
        if not _is_copy(storage, info):
            refresh_copy(storage, info)
            outcome.notes.append(DONE + DATASET_COPY)
        return info
    try:
        info = DatasetInfo.from_bytes(storage.read(DATASET_COPY), DATASET_COPY)
    except (DatasetDamagedError, NotADatasetError, ObjectMissingError):
        outcome.add("unreadable", DATASET_JSON, "its copy cannot be read either; restore a backup")
        return None
    storage.write(DATASET_JSON, info.to_bytes())
    outcome.notes.append(DONE + DATASET_JSON)
    return info


def _is_copy(storage: Storage, info: DatasetInfo) -> bool:
    return storage.exists(DATASET_COPY) and storage.read(DATASET_COPY) == info.to_bytes()


def repair_tables(
    storage: Storage,
    info: DatasetInfo,
    damaged: Collection[str],
    stage_again: StageAgain | None,
    outcome: Report,
) -> DatasetInfo:
    """Make damaged parts of tables again; return the info that names what is there now.

    Parameters
    ----------
    storage : Storage
    info : DatasetInfo
    damaged : collection of str
        Paths of the objects that are not what was written.
    stage_again : StageAgain or None
        None where records are not to be fetched again.
    outcome : Report
        Gets a note of each repair, and a problem for what cannot be repaired.
    """
    for kind in ("records", "files"):
        for number, part in enumerate(info.tables[kind]):
            if part.path not in damaged:
                continue
            if stage_again is None:
                outcome.add("unreadable", part.path, "its records must be fetched again")
                continue
            made = _remake(storage, info, kind, number, stage_again)
            if isinstance(made, str):
                outcome.add("unreadable", part.path, made)
                continue
            outcome.notes.append(DONE + part.path)
            if made != part:
                info = _replace_part(storage, info, kind, number, made)
    for number, part in enumerate(info.tables["failures"]):
        if part.path in damaged:
            # Without a row a record is simply tried again.
            made = write_part(storage, "failures", _number(part), [FAILURES_SCHEMA.empty_table()])
            info = _replace_part(storage, info, "failures", number, made)
            outcome.notes.append(DONE + part.path)
            outcome.notes.append("failures are forgotten; the next build tries those records again")
    return info


def _remake(
    storage: Storage,
    info: DatasetInfo,
    kind: TaskKind,
    number: int,
    stage_again: StageAgain,
) -> Part | str:
    """Make one part of a table again; return it, or why that cannot be."""
    part = info.tables[kind][number]
    if kind == "files":
        rows = RecordRows.read(storage, info)
        low, high = _owners(rows, info, number)
    else:
        by_files = _rows_by_files(storage, info, number)
        if by_files is None or by_files.record_id.size != part.rows:
            return "it has records without files, which nothing else names; restore a backup"
        rows, low, high = by_files, 0, part.rows
    with stage_again(rows.record_id[low:high].tolist()) as (source, index):
        plan = plan_of(source, index, rows, low, high, info)
        if isinstance(plan, str):
            return plan
        task = CommitTask(kind, _number(part), 0, high - low, "")
        made = perform(source, storage, plan, task).part
    return made if made is not None and made.rows == part.rows else "it came out otherwise"


def _owners(rows: RecordRows, info: DatasetInfo, number: int) -> tuple[int, int]:
    """From which record to which a part of the files table has the files."""
    before = sum(other.rows for other in info.tables["files"][:number])
    stop = before + info.tables["files"][number].rows
    within = (rows.first_file >= before) & (rows.first_file + rows.n_files <= stop)
    owners = np.flatnonzero(within & (rows.n_files > 0))
    return int(owners[0]), int(owners[-1]) + 1


def _rows_by_files(storage: Storage, info: DatasetInfo, number: int) -> RecordRows | None:
    """Find the records of a part of the records table by the files table."""
    others = [part for n, part in enumerate(info.tables["records"]) if n != number]
    known = [read_part(storage, part, ["record_id"])["record_id"].to_numpy() for part in others]
    ids, counts, images = [], [], []
    for _, batch in file_batches(storage, info):
        columns = numbers(batch)
        ids.append(columns["record_id"])
        counts.append(np.ones(len(batch), np.int64))
        images.append(columns["n_images"])
    if not ids:
        return None
    every = np.concatenate(ids)
    unique, first, inverse = np.unique(every, return_index=True, return_inverse=True)
    files = np.bincount(inverse, np.concatenate(counts), unique.size).astype(np.int64)
    drawn = np.bincount(inverse, np.concatenate(images), unique.size).astype(np.int64)
    order = np.argsort(first)
    unique, files, drawn = unique[order], files[order], drawn[order]
    first_file, first_image = np.cumsum(files) - files, np.cumsum(drawn) - drawn
    lost = ~np.isin(unique, np.concatenate([np.empty(0, np.int64), *known]))
    return RecordRows(unique[lost], files[lost], drawn[lost], first_file[lost], first_image[lost])


def _number(part: Part) -> int:
    return int(part.path.split("-")[1])


def _replace_part(
    storage: Storage, info: DatasetInfo, kind: str, number: int, made: Part
) -> DatasetInfo:
    parts = list(info.tables[kind])
    parts[number] = made
    changed = replace(info, tables={**info.tables, kind: tuple(parts)})
    if kind == "failures":
        changed = replace(changed, counts=replace(info.counts, failures=0))
    return replace_info(storage, info, changed)


def rebuild_manifest(storage: Storage, info: DatasetInfo, outcome: Report) -> None:
    """List all objects anew, once every image of them has been held to its file's text."""
    found = check_tables(storage, info)
    found.merge(check_texts(storage, info, file_groups(storage, info), 0, info.counts.images))
    if not found.ok or found.checked.get("texts", 0) != _texts(storage, info):
        outcome.add(
            "unreadable", info.manifest[0].path, "the images do not prove themselves without it"
        )
        return
    objects = [_describe(storage, info, path) for path in expected_paths(info)]
    number = info.next_part.get(MANIFEST, 0)
    changed = replace(
        info,
        manifest=(write_manifest(storage, number, objects),),
        next_part={**info.next_part, MANIFEST: number + 1},
    )
    replace_info(storage, info, changed)
    storage.remove([part.path for part in info.manifest])
    outcome.notes += [DONE + part.path for part in info.manifest]


def _texts(storage: Storage, info: DatasetInfo) -> int:
    return sum(
        int((numbers(batch)["n_images"] > 0).sum()) for _, batch in file_batches(storage, info)
    )


def _describe(storage: Storage, info: DatasetInfo, path: str) -> WrittenObject:
    """Work out the manifest's row of an object as it is."""
    data = storage.read(path)
    digest = hashlib.sha256(data).hexdigest()
    if path.endswith("zarr.json"):
        return WrittenObject(path, len(data), digest)
    _, name, _, shard, *_ = path.split("/")
    spec = info.array(name)
    rows = min(info.counts.images - int(shard) * spec.shard, spec.shard)
    reader = ShardReader(spec, row_shape(spec, info.shape), data)
    is_boundary = any(known.path == path for known in info.boundary_shards)
    return WrittenObject(
        path,
        len(data),
        digest,
        rows,
        rows_digest(reader, spec, rows) if rows < spec.shard else None,
        rows_digest(reader, spec, rows, last_chunk=True) if is_boundary else None,
    )
