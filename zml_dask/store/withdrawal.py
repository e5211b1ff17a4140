"""Records that must no longer be shown: noted, without rewriting the store.

Their rows stay where they are, so that no other row moves; readers leave them
out, and no build brings them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.errors import UsageError
from zml_dask.store.info import DatasetInfo, committed_info, replace_info
from zml_dask.store.layout import WITHDRAWN_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.summary import FILE_COLUMNS, RECORD_COLUMNS, summarise, taken_away
from zml_dask.store.tables import write_part, write_summary


def withdraw(
    storage: Storage, record_ids: Iterable[int] | Mapping[int, str], reason: str
) -> DatasetInfo:
    """Note records as withdrawn; readers stop showing them at once.

    Parameters
    ----------
    record_ids : iterable of int, or mapping of int to str
        Also of records that are not in the dataset (yet): they will not get in. A
        mapping holds the reason of each.
    reason : str
        For whoever asks why, where there is no reason of its own.

    Returns
    -------
    DatasetInfo
        As it is now.

    Raises
    ------
    UsageError
        If there is no dataset, or no record or no reason is given.
    """
    own: Mapping[int, str] = record_ids if isinstance(record_ids, Mapping) else {}
    wanted = sorted(set(record_ids))
    if not wanted or not reason.strip():
        raise UsageError("give at least one record to withdraw, and a reason")
    info = committed_info(storage)
    snapshot = Snapshot(storage, info)
    known = {row["record_id"]: row for row in snapshot.scan("withdrawn").to_pylist()}
    before = set(known)
    for record_id in wanted:
        known[record_id] = {"record_id": record_id, "reason": own.get(record_id) or reason}
    number = info.next_part.get("withdrawn", 0)
    rows = pa.Table.from_pylist([known[key] for key in sorted(known)], WITHDRAWN_SCHEMA)
    part = write_part(storage, "withdrawn", number, [rows])
    tables = {**info.tables, "withdrawn": (part,)}
    next_part = {**info.next_part, "withdrawn": number + 1}
    new = pc.field("record_id").isin(
        pa.array([key for key in wanted if key not in before], pa.int64())
    )
    counted = summarise(
        *(
            snapshot.scan(table, columns, new, with_withdrawn=True)
            for table, columns in (("files", FILE_COLUMNS), ("records", RECORD_COLUMNS))
        )
    )
    if len(counted):
        number = info.next_part.get("summary", 0)
        tables["summary"] = (
            *info.tables["summary"],
            write_summary(storage, number, taken_away(counted)),
        )
        next_part["summary"] = number + 1
    changed = replace_info(storage, info, replace(info, tables=tables, next_part=next_part))
    storage.remove([old.path for old in info.tables["withdrawn"] if old != part])
    return changed
