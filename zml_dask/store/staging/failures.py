"""Records that could not be had: a row each, staged like the records that could."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from zml_dask.store.layout import FAILURES_SCHEMA, STAGING
from zml_dask.store.staging.frames import StagingDamagedError
from zml_dask.store.storage import Storage
from zml_dask.text_safety import encodable

STAGED_FAILURES = f"{STAGING}/failures"


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Why a record is not in the dataset.

    Attributes
    ----------
    record_id : int
    stage, kind, message : str
        As of `zml_dask.errors.RecordError`.
    attempts : int
        How often it was tried in all.
    permanent : bool
        Whether trying again is pointless.
    """

    record_id: int
    stage: str
    kind: str
    message: str
    attempts: int
    permanent: bool


def stage_failure(storage: Storage, failure: FailureRow) -> None:
    """Note that a record failed; replaces what was noted of it before."""
    storage.write(
        f"{STAGED_FAILURES}/{failure.record_id}.json",
        json.dumps(asdict(failure)).encode(),
        durable=False,
    )


def read_staged_failure(storage: Storage, path: str) -> FailureRow:
    """Read one staged failure; `StagingDamagedError` where it is not one."""
    try:
        return FailureRow(**json.loads(storage.read(path)))
    except (ValueError, TypeError) as error:
        raise StagingDamagedError(
            f"{path} is not a staged failure; remove it and build again"
        ) from error


def failures_table(failures: Iterable[FailureRow]) -> pa.Table:
    """Arrange failures as a table, in record order.

    A record noted more than once keeps the row with the most attempts.
    """
    last: dict[int, FailureRow] = {}
    for failure in failures:
        known = last.get(failure.record_id)
        if known is None or (failure.attempts, failure.kind, failure.message) > (
            known.attempts,
            known.kind,
            known.message,
        ):
            last[failure.record_id] = failure
    rows = []
    for _, failure in sorted(last.items()):
        row = asdict(failure)
        row["message"] = encodable(failure.message)
        rows.append(row)
    return pa.Table.from_pylist(rows, FAILURES_SCHEMA)


def failure_rows(table: pa.Table) -> list[FailureRow]:
    """Inverse of `failures_table`."""
    return [FailureRow(**row) for row in table.to_pylist()]
