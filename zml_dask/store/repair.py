"""Repair: damaged objects made again, from the tables or from the records themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zml_dask.store.commit_tasks import WrittenObject, index_columns, perform, write_shard
from zml_dask.store.info import DatasetInfo, Part, read_info
from zml_dask.store.layout import (
    DATASET_JSON,
    IMAGES_ZARR,
    ArraySpec,
    image_arrays,
)
from zml_dask.store.manifest import MANIFEST, digest_of, read_manifest, write_manifest
from zml_dask.store.plan import CommitTask
from zml_dask.store.report import Problem, Report
from zml_dask.store.restage import (
    RecordRows,
    Restage,
    plan_of,
    recorded_files,
    restaged,
    staged_files,
)
from zml_dask.store.shards import ShardBuilder
from zml_dask.store.staged import read_staged
from zml_dask.store.storage import Storage
from zml_dask.store.verify_rows import file_batches, numbers
from zml_dask.store.zarr_metadata import zarr_objects

_DONE = "made again: "


def repair(
    storage: Storage, report: Report, restage: Restage | None = None, *, scratch: Path | None = None
) -> Report:
    """Make damaged or missing objects again, as far as can be.

    Metadata and index arrays follow from the tables; shards of images and parts
    of the files and records tables from the records, which `restage` gets
    again. What comes back is first compared with what is recorded of it.

    Parameters
    ----------
    storage : Storage
    report : Report
        Of `verify`.
    restage : callable, optional
        Fetches records again; without it only what follows from the tables is repaired.
    scratch : Path, optional
        Folder for records that are fetched again.

    Returns
    -------
    Report
        ``notes``: what was repaired; ``problems``: what could not be, and why.
    """
    outcome = Report(storage.url)
    info = read_info(storage)
    if info is None:
        return outcome
    damaged = {problem.path: problem for problem in report.problems if _is_object(problem)}
    done: list[WrittenObject] = []
    # Tables first: the rest is made by what they say.
    for kind in ("records", "files"):
        for number, part in enumerate(info.tables[kind]):
            if part.path in damaged:
                info = _repair_part(storage, info, kind, number, restage, scratch, outcome)
    if outcome.problems:
        return _leave(outcome, report)
    for path, data in zarr_objects(info.shape, info.counts.images):
        if path in damaged:
            storage.write(path, data)
            done.append(WrittenObject(path, len(data), digest_of(data)))
    images, *indices = image_arrays(info.shape)
    for spec in indices:
        done += [
            _rebuild_index(storage, info, spec, shard) for shard in _damaged_shards(spec, damaged)
        ]
    for shard in _damaged_shards(images, damaged):
        found = _rebuild_images(storage, info, images, shard, restage, scratch, outcome)
        done += [found] if found else []
    outcome.notes += [_DONE + written.path for written in done]
    _record(storage, info, done)
    return _leave(outcome, report)


def _leave(outcome: Report, report: Report) -> Report:
    """Add the problems that nothing was done about."""
    settled = {note.removeprefix(_DONE) for note in outcome.notes}
    settled |= {problem.path for problem in outcome.problems}
    outcome.problems += [problem for problem in report.problems if problem.path not in settled]
    return outcome


def _is_object(problem: Problem) -> bool:
    return problem.kind in ("damaged", "missing")


def _damaged_shards(spec: ArraySpec, damaged: Iterable[str]) -> Sequence[int]:
    prefix = f"{IMAGES_ZARR}/{spec.name}/c/"
    return sorted(
        int(path.removeprefix(prefix).split("/")[0]) for path in damaged if path.startswith(prefix)
    )


def _rebuild_index(
    storage: Storage, info: DatasetInfo, spec: ArraySpec, shard: int
) -> WrittenObject:
    """Make a shard of an index array again from the files table."""
    start, stop = shard * spec.shard, min((shard + 1) * spec.shard, info.counts.images)
    builder = ShardBuilder(spec)
    for _, batch in file_batches(storage, info):
        columns = numbers(batch)
        first = int(columns["first_image"][0]) if len(batch) else stop
        total = int(columns["n_images"].sum())
        if first < stop and first + total > start:
            values = index_columns(
                columns["record_id"],
                columns["file_id"],
                columns["n_images"],
                columns["n_lines"],
                info.shape.height,
            )[spec.name]
            builder.extend(values[max(start - first, 0) : stop - first])
    return write_shard(storage, spec, info.shape, shard, stop - start, builder)


def _rebuild_images(
    storage: Storage,
    info: DatasetInfo,
    spec: ArraySpec,
    shard: int,
    restage: Restage | None,
    scratch: Path | None,
    outcome: Report,
) -> WrittenObject | None:
    """Make a shard of images again from the records that own them."""
    start, stop = shard * spec.shard, min((shard + 1) * spec.shard, info.counts.images)
    path = f"{IMAGES_ZARR}/{spec.name}/c/{shard}/0/0"
    if restage is None:
        outcome.add("unreadable", path, "its records must be fetched again; give their catalogue")
        return None
    rows = RecordRows.read(storage, info)
    owners = np.flatnonzero((rows.first_image < stop) & (rows.first_image + rows.n_images > start))
    low, high = int(owners[0]), int(owners[-1]) + 1
    ids = rows.record_id[low:high].tolist()
    with restaged(restage, ids, scratch) as (source, index):
        plan = plan_of(source, index, rows, low, high, info)
        if isinstance(plan, str):
            outcome.add("unreadable", path, plan)
            return None
        recorded = recorded_files(storage, info, ids)
        for position, record_id in enumerate(ids):
            if staged_files(read_staged(source, plan.locate(position))) != recorded[record_id]:
                outcome.add("source", path, f"record {record_id} has other files by now")
                return None
        task = CommitTask("images", shard, start, stop, "")
        return perform(source, storage, plan, task).objects[0]


def _repair_part(
    storage: Storage,
    info: DatasetInfo,
    kind: str,
    number: int,
    restage: Restage | None,
    scratch: Path | None,
    outcome: Report,
) -> DatasetInfo:
    """Make a part of the files table again; it must come out as it was."""
    part = info.tables[kind][number]
    if kind == "records" or restage is None:
        reason = "restore it from a copy" if kind == "records" else "give the records' catalogue"
        outcome.add("unreadable", part.path, f"this part cannot be made again; {reason}")
        return info
    rows = RecordRows.read(storage, info)
    before = sum(other.rows for other in info.tables[kind][:number])
    mask = (rows.first_file >= before) & (rows.first_file + rows.n_files <= before + part.rows)
    owners = np.flatnonzero(mask & (rows.n_files > 0))
    low, high = int(owners[0]), int(owners[-1]) + 1
    with restaged(restage, rows.record_id[low:high].tolist(), scratch) as (source, index):
        plan = plan_of(source, index, rows, low, high, info)
        if isinstance(plan, str):
            outcome.add("unreadable", part.path, plan)
            return info
        name = int(part.path.rpartition("-")[2].partition(".")[0])
        made = perform(source, storage, plan, CommitTask("files", name, 0, high - low, "")).part
    if made is None or made.rows != part.rows:
        outcome.add("unreadable", part.path, "the records have other files by now")
        return info
    outcome.notes.append(_DONE + part.path)
    if made == part:
        return info
    return _replace_part(storage, info, kind, number, made)


def _replace_part(
    storage: Storage, info: DatasetInfo, kind: str, number: int, made: Part
) -> DatasetInfo:
    parts = list(info.tables[kind])
    parts[number] = made
    changed = replace(info, tables={**info.tables, kind: tuple(parts)})
    storage.write(DATASET_JSON, changed.to_bytes())
    return changed


def _record(storage: Storage, info: DatasetInfo, done: Sequence[WrittenObject]) -> None:
    """Note objects whose bytes differ from before: another release may compress otherwise."""
    manifest = read_manifest(storage, info)
    changed = [written for written in done if manifest.get(written.path) != written]
    if changed:
        number = info.next_part.get(MANIFEST, 0)
        part = write_manifest(storage, number, changed)
        storage.write(
            DATASET_JSON,
            replace(
                info,
                manifest=(*info.manifest, part),
                next_part={**info.next_part, MANIFEST: number + 1},
            ).to_bytes(),
        )
