"""Records that must no longer be shown: noted, without rewriting the store.

Their rows stay where they are, so that no other row moves; readers leave them
out, and no build brings them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.errors import UsageError
from zml_dask.store.info import DatasetInfo, committed_info, replace_info
from zml_dask.store.layout import WITHDRAWN_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.summary import FILE_COLUMNS, RECORD_COLUMNS, summarise, taken_away
from zml_dask.store.tables import append_part


def withdraw(
    storage: Storage, record_ids: Iterable[int] | Mapping[int, str], reason: str
) -> DatasetInfo:
    """Note records as withdrawn; readers stop showing them at once.

    Records that are not in the dataset (yet) will not get in. A mapping of their numbers holds the
    reason of each; `reason` is for those without one. `UsageError` if there is no dataset, or no
    record or no reason is given.
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
    rows = pa.Table.from_pylist([known[key] for key in sorted(known)], WITHDRAWN_SCHEMA)
    changed = append_part(storage, info, "withdrawn", rows, replaces=True)
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
        changed = append_part(storage, changed, "summary", taken_away(counted))
    changed = replace_info(storage, info, changed)
    kept = changed.tables["withdrawn"]
    storage.remove([part.path for part in info.tables["withdrawn"] if part not in kept])
    return changed
