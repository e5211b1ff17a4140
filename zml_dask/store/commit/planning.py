"""Planning a commit: what is staged and not committed yet, and what becomes of the failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.store.commit.plan import PLAN_COLUMNS, CommitPlan
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.manifest import digest_of
from zml_dask.store.staging.failures import failure_rows, failures_table
from zml_dask.store.staging.index import StagingIndex
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_table


class StagedShapeError(UsageError):
    """What is staged was counted for another image size than the dataset's."""


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """What a commit notes besides the rows.

    Attributes
    ----------
    shape : ImageShape
        Must be the dataset's, where there is one already.
    options, software, harvest : mapping or None
        For ``dataset.json``; None leaves what is there.
    """

    shape: ImageShape = field(default_factory=ImageShape)
    options: Mapping[str, Any] | None = None
    software: Mapping[str, str] | None = None
    harvest: Mapping[str, Any] | None = None


def make_plan(storage: Storage, options: CommitOptions) -> CommitPlan | None:
    """Work out what a commit of everything staged would do; None where there is nothing to do.

    Raises
    ------
    StagedShapeError
        If staged records were counted for another image size.
    UsageError
        If the dataset has another image size.
    """
    committed = read_info(storage)
    base = committed or DatasetInfo(shape=options.shape)
    check_shape(base, options.shape)
    index = StagingIndex.load(storage)
    done = np.concatenate(
        [
            read_table(storage, base, table, ["record_id"])["record_id"].to_numpy()
            for table in ("records", "withdrawn")
        ]
    )
    wanted = ~np.isin(index.record_id, done)
    check_staged_shape(index, wanted, options.shape)
    staged = set(index.record_id[wanted].tolist())
    old = read_table(storage, base, "failures")
    gone = staged | set(done.tolist())
    failures = failures_table(
        row for row in failure_rows(old) + failure_rows(index.failures) if row.record_id not in gone
    )
    notes = {
        name: dict(value)
        for name in ("options", "software", "harvest")
        if (value := getattr(options, name)) is not None
    }
    same_harvest = options.harvest is None or dict(options.harvest) == base.harvest
    if base.commits and not wanted.any() and failures.equals(old) and same_harvest:
        return None
    return CommitPlan(
        **{name: getattr(index, name)[wanted] for name in PLAN_COLUMNS},
        paths=index.paths,
        shape=base.shape,
        arrays=base.arrays,
        base=digest_of(committed.to_bytes()) if committed else None,
        images_before=base.counts.images,
        files_before=base.counts.files,
        next_part=base.next_part,
        failures=failures,
        notes=notes,
    )


def check_shape(info: DatasetInfo, shape: ImageShape) -> None:
    """Check that a dataset's images are of a size.

    Raises
    ------
    UsageError
        If they are not.
    """
    if info.shape != shape:
        raise UsageError(
            f"the dataset's images have {info.shape.height} lines by {info.shape.width} "
            f"characters, not {shape.height} by {shape.width}; "
            "build another size into another folder"
        )


def check_staged_shape(index: StagingIndex, wanted: NDArray[np.bool_], shape: ImageShape) -> None:
    """Check that the wanted ones of the staged records were counted for an image size.

    Raises
    ------
    StagedShapeError
        If they were not.
    """
    wrong = wanted & ((index.height != shape.height) | (index.width != shape.width))
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        raise StagedShapeError(
            f"record {index.record_id[position]} and {int(wrong.sum()) - 1} others are staged for "
            f"images of {index.height[position]} lines by {index.width[position]} characters; "
            "build with that size ([image] in --config), or remove staging/"
        )
