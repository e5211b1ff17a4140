"""Counts by column, and content that comes more than once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.arguments import nearest
from zml_dask.errors import UsageError
from zml_dask.query.columns import YEAR, Column, find_countable
from zml_dask.query.dataframes import to_pandas
from zml_dask.query.selection import derived_tables, join_derived, open_selected
from zml_dask.query.sql import quoted
from zml_dask.store.layout import derived_table
from zml_dask.text_safety import escape_text, number_of

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset
    from zml_dask.store.snapshot import Snapshot

NEAR_DUPLICATES: Final = "near_duplicates"
"""The derived table of each file's cluster."""

COUNTS = ["images", "files", "records"]
_OF_FEW_VALUES: Final = frozenset({
    "language", "language_group", "kind", "license", "licenses", "extension", "encoding",
    "status", "origin"
})  # fmt: skip
"""Columns whose values a person writes from memory."""


def count_by(dataset: Dataset, by: Sequence[str]) -> pd.DataFrame:
    """Count by the values of columns, from the summary if it has them; see `Dataset.counts`."""
    if not by or len(set(by)) < len(by):
        raise UsageError(f"count by one column or several, each named once, not by {list(by)!r}")
    columns = [find_countable(name, dataset.snapshot.derived) for name in by]
    counted = _summarised(dataset, by) if len(by) == 1 else None
    if counted is None:
        counted = _counted(dataset, columns)
    frame: pd.DataFrame = counted.rename_columns([*by, *COUNTS]).to_pandas()
    return frame.set_index(list(by))


def count_all(view: Dataset) -> dict[str, int]:
    """Count a view's images, files and records; for a whole dataset nothing more is read."""
    if view.is_all:
        return {name: getattr(view.info.counts, name) for name in COUNTS}
    if view.is_unselected:
        for row in view.snapshot.summary.to_pylist():
            if row["dimension"] == "total":
                return {name: row[name] for name in COUNTS}
        return dict.fromkeys(COUNTS, 0)
    found = len(view.rows), len(view.selection.files), len(view.record_rows)
    return dict(zip(COUNTS, found, strict=True))


def _summarised(dataset: Dataset, by: Sequence[str]) -> pa.Table | None:
    """Return counts from the summary, if it has them."""
    if not dataset.is_unselected:
        return None
    summary = dataset.snapshot.summary
    rows = summary.filter(pc.equal(summary["dimension"], by[0])).select(["value", *COUNTS])
    if not len(rows):
        return None
    if by[0] == YEAR:
        rows = rows.set_column(0, YEAR, rows["value"].cast(pa.int64()))
    return rows


def _counted(dataset: Dataset, columns: Sequence[Column]) -> pa.Table:
    source = ["record_id", "files.file_id", "coalesce(images, 0) AS images"]
    for number, column in enumerate(columns):
        source.append(f"{column.key} AS c{number}")
    levels = {column.level for column in columns}
    tables = "selected AS files"
    if levels == {"records"} and dataset.is_unselected:
        # Includes records without files.
        tables = "all_records AS records LEFT JOIN selected AS files USING (record_id)"
    elif "records" in levels:
        tables += " JOIN all_records AS records USING (record_id)"
    derived = derived_tables(columns)
    tables += join_derived(dataset.snapshot, derived)
    rows = f"SELECT {', '.join(source)} FROM {tables}"
    for number, column in enumerate(columns):
        # One after another, since two in one SELECT would be unnested side by side.
        if pa.types.is_list(column.type):
            rows = f"SELECT * REPLACE (unnest(c{number}) AS c{number}) FROM ({rows})"
    keys = [f"c{number}" for number in range(len(columns))]
    query = (
        f"SELECT {', '.join(keys)}, sum(images)::BIGINT AS images, count(file_id) AS files, "
        f"count(DISTINCT record_id) AS records FROM ({rows}) GROUP BY ALL ORDER BY "
        + ", ".join([*(f"{name} DESC" for name in COUNTS), *(f"{key} NULLS LAST" for key in keys)])
    )
    named = {column.name for column in columns if column.level == "files"}
    others = (*(("records",) if "records" in levels else ()), *map(derived_table, derived))
    with open_selected(dataset, {"file_id", "record_id", "n_images", *named}, others) as database:
        return database.table(query)


def find_duplicates(dataset: Dataset) -> pd.DataFrame:
    """Find files of identical content in different records; see `Dataset.duplicates`."""
    with open_selected(dataset, {"record_id", "file_id", "sha256", "size"}) as database:
        # Short hashes of the hashes first, since the texts would take 3.6 GB.
        database.execute(
            "CREATE TABLE repeated AS SELECT hash(sha256) AS short FROM selected "
            "WHERE sha256 IS NOT NULL GROUP BY short HAVING min(record_id) <> max(record_id)"
        )
        found = database.table(
            "SELECT sha256, count(*) AS files, count(DISTINCT record_id) AS records, "
            "max(size) AS size, min(file_id) AS file_id FROM selected "
            "WHERE hash(sha256) IN (SELECT short FROM repeated) GROUP BY sha256 "
            "HAVING records > 1 ORDER BY max(size) * (count(*) - 1) DESC, min(file_id)"
        )
    return to_pandas(found)


def find_near_duplicates(dataset: Dataset) -> pd.DataFrame:
    """Find files that are nearly the same; see `Dataset.duplicates`."""
    cluster_column(dataset.snapshot)
    tables = (derived_table(NEAR_DUPLICATES),)
    with open_selected(dataset, {"record_id", "file_id", "size"}, tables) as database:
        found = database.table(
            "SELECT cluster, count(*) AS files, count(DISTINCT files.record_id) AS records, "
            "sum(files.size)::BIGINT AS size, min(files.file_id) AS file_id "
            "FROM selected AS files JOIN all_derived_near_duplicates AS near USING (file_id) "
            "WHERE cluster IS NOT NULL GROUP BY cluster HAVING count(*) > 1 "
            "ORDER BY files DESC, cluster"
        )
    return to_pandas(found)


def cluster_column(snapshot: Snapshot) -> str:
    """Return the name of the column of each file's cluster of near-duplicates.

    `UsageError` if they have not been derived, or files have been added since.
    """
    name = NEAR_DUPLICATES
    if name not in snapshot.derived or snapshot.rows(derived_table(name)) < snapshot.rows("files"):
        raise UsageError(
            f"the near-duplicates of {snapshot.storage.url} are not known, or not those of its "
            f"latest files; run zml-dask derive DATASET {name}"
        )
    return f"{name}.cluster"


def check_some(
    view: Dataset, unit: Literal["records", "files", "images"], purpose: str = "export"
) -> None:
    """Raise `UsageError` if a view has none of what is wanted for a purpose."""
    counts = view.counted
    if counts[unit]:
        return
    what = "the dataset" if view.is_unselected else "the selection"
    why = ""
    if counts["files"]:
        why = f"; none of its {number_of(file=counts['files'])} has text"
    elif not view.is_unselected:
        why = f"; {nearest_values(view) or 'no file matches it'}"
    raise UsageError(escape_text(f"nothing to {purpose}: {what} has no {unit}{why}"))


def nearest_values(view: Dataset) -> str | None:
    """Return a line with the values nearest to the first in a view's conditions that no file has.

    None if there are files of all its values.
    """
    whole = type(view)(view.snapshot)
    for name, text in _named(view):
        if name not in _OF_FEW_VALUES:
            continue
        known = [value for value in count_by(whole, [name]).index if isinstance(value, str)]
        if text not in known:
            advice = nearest(text, known, "no value is similar")
            return f"no file has {name} {text!r}; {advice}"
    return None


def wider_values(view: Dataset) -> str | None:
    """Return a line with a condition that finds more of what was probably meant, if there is one.

    ``language == 'Fortran'`` leaves out "Fortran Free Form", and ``license == 'mit'``
    records that name several licences. Only the summary is read.
    """
    whole = type(view)(view.snapshot)
    for name, text in _named(view):
        wider = {"language": "language_group", "license": "licenses"}.get(name)
        if wider is None:
            continue
        asked = count_by(whole, [name]).images
        others = count_by(whole, [wider]).images
        near = next((v for v in others.index if str(v).casefold() == text.casefold()), None)
        if near is None or text not in asked.index or others[near] <= asked[text]:
            continue
        condition = f"{quoted(near)} in licenses" if name == "license" else f"{wider} == {near!r}"
        kind = "records of several licences" if name == "license" else "related languages"
        return (
            f"{kind} are left out: {condition} finds {others[near]:,} images of the dataset, "
            f"{name} == {text!r} {asked[text]:,}"
        )
    return None


def _named(view: Dataset) -> list[tuple[str, str]]:
    """Return the columns and values that a view's conditions name."""
    return [named for condition in view.conditions for named in condition.named]
