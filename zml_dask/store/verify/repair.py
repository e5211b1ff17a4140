"""Repair: damaged objects made again, from the tables or from the records themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from zml_dask.store.commit.index_columns import index_columns
from zml_dask.store.commit.plan import CommitTask
from zml_dask.store.commit.shards import ShardBuilder
from zml_dask.store.commit.tasks import perform, write_shard
from zml_dask.store.commit.zarr_metadata import zarr_objects
from zml_dask.store.info import DatasetInfo, WrittenObject, replace_info
from zml_dask.store.layout import (
    IMAGES_ZARR,
    ArraySpec,
)
from zml_dask.store.manifest import (
    MANIFEST,
    digest_of,
    read_manifest,
    write_manifest,
)
from zml_dask.store.staging.staged import read_staged
from zml_dask.store.storage import Storage, StorageError
from zml_dask.store.verify.repair_tables import DONE, rebuild_manifest, repair_tables, restore_info
from zml_dask.store.verify.report import Problem, Report
from zml_dask.store.verify.restage import (
    RecordRows,
    Restage,
    StageAgain,
    plan_of,
    recorded_files,
    restaged,
    staged_files,
)
from zml_dask.store.verify.rows import file_batches, numbers


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
    info = restore_info(storage, outcome)
    if info is None:
        return _leave(outcome, report)
    damaged = {problem.path: problem for problem in report.problems if _is_object(problem)}
    done: list[WrittenObject] = []
    # Tables first: the rest is made by what they say.
    stage_again = partial(restaged, restage, scratch=scratch) if restage else None
    info = repair_tables(storage, info, set(damaged), stage_again, outcome)
    if outcome.problems:
        return _leave(outcome, report)
    for path, data in zarr_objects(info, info.counts.images):
        if path in damaged:
            storage.write(path, data)
            done.append(WrittenObject(path, len(data), digest_of(data)))
    images, *indices = info.arrays
    for spec in indices:
        done += [
            _rebuild_index(storage, info, spec, shard) for shard in _damaged_shards(spec, damaged)
        ]
    for shard in _damaged_shards(images, damaged):
        found = _rebuild_images(storage, info, shard, stage_again, outcome)
        done += [found] if found else []
    outcome.notes += [DONE + written.path for written in done]
    info = _record(storage, info, done)
    if any(part.path in damaged for part in info.manifest):
        rebuild_manifest(storage, info, outcome)
    return _leave(outcome, report)


def _leave(outcome: Report, report: Report) -> Report:
    """Add the problems that nothing was done about."""
    settled = {note.removeprefix(DONE) for note in outcome.notes}
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
    shard: int,
    stage_again: StageAgain | None,
    outcome: Report,
) -> WrittenObject | None:
    """Make a shard of images again from the records that own them."""
    spec = info.array("images")
    start, stop = shard * spec.shard, min((shard + 1) * spec.shard, info.counts.images)
    path = f"{IMAGES_ZARR}/{spec.name}/c/{shard}/0/0"
    if stage_again is None:
        outcome.add("unreadable", path, "its records must be fetched again; give their catalogue")
        return None
    rows = RecordRows.read(storage, info)
    owners = np.flatnonzero((rows.first_image < stop) & (rows.first_image + rows.n_images > start))
    low, high = int(owners[0]), int(owners[-1]) + 1
    ids = rows.record_id[low:high].tolist()
    with stage_again(ids) as (source, index):
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


def _record(storage: Storage, info: DatasetInfo, done: Sequence[WrittenObject]) -> DatasetInfo:
    """Note objects whose bytes differ from before: another release may compress otherwise."""
    try:
        manifest = read_manifest(storage, info)
    except StorageError:
        return info  # made again from the objects themselves
    # The rows are those that were there, so what is recorded of them still holds.
    done = [
        replace(written, last_rows_sha256=known.last_rows_sha256)
        if (known := manifest.get(written.path))
        else written
        for written in done
    ]
    changed = [written for written in done if manifest.get(written.path) != written]
    if not changed:
        return info
    number = info.next_part.get(MANIFEST, 0)
    changed_info = replace(
        info,
        manifest=(*info.manifest, write_manifest(storage, number, changed)),
        next_part={**info.next_part, MANIFEST: number + 1},
    )
    return replace_info(storage, info, changed_info)
