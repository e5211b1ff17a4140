"""Splits without leakage, that stay as they are when the dataset grows.

Versions of one concept must not straddle parts, nor must files of identical
content. To merge whatever shares a file into one group would keep both
promises, but what many share (a licence's text, a vendored library, the empty
file) chains records together: of the 50 concepts of the demo one group holds
37. Such groups only grow, and a record that is added tomorrow may join two that
lie in different parts. So the parts are drawn by a hash of the concept alone, which no
other record has a say in; and of content that comes in several parts, only the copies in
one of them are kept: in that of the file that was committed first. The others
are *left out* of the split. What a later commit adds stands further down the
files table, whatever its record's number (an older record may well come later:
its download failed, or another query found it), so that it leaves out copies of
its own and none of those that were there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from zml_dask.errors import UsageError
from zml_dask.query.counting import NEAR_DUPLICATES, cluster_column, find_countable
from zml_dask.query.engine import Database
from zml_dask.query.rows import Int64, Rows
from zml_dask.query.selection import derived_tables, join_derived
from zml_dask.query.sql import Derived, quoted
from zml_dask.store.layout import derived_table

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

ViewT = TypeVar("ViewT")

LEFT_OUT = "left out"
_LEFT_OUT: Final = 254
_NOWHERE: Final = 255
_MOST_PARTS: Final = 250

_CONTENTS = ("sha256", "text_sha256")
"""Identical bytes, and identical images."""


_SHORT: Final = {"concept": "records.concept_id", "cluster": f"{NEAR_DUPLICATES}.cluster"}
"""Names of columns that are divided by most."""


class Split(dict[str, ViewT]):
    """Name of a part -> its view.

    Attributes
    ----------
    left_out : Dataset
        Copies of content that another part has; in no part.
    """

    left_out: ViewT

    def leakage(self) -> pd.DataFrame:
        """Count the files of each part that another part knows.

        Returns
        -------
        pandas.DataFrame
            Indexed by the part's name: ``files`` with text, ``exact``: those of them whose
            text another part has as well, ``near``: those that are in a cluster of
            near-duplicates with a file of another part, exact copies included; null where
            near-duplicates are not derived.

        Examples
        --------
        >>> split = ds.split({"train": 0.8, "test": 0.2})        # doctest: +SKIP
        >>> split.leakage()                                      # doctest: +SKIP
        """
        return count_leaks(cast("Split[Dataset]", self))


def assign_parts(
    dataset: Dataset, fractions: Mapping[str, float], by: str = "concept", seed: int = 0
) -> dict[str, Rows]:
    """Assign each file of a view to a part.

    Parameters
    ----------
    dataset : Dataset
    fractions : mapping of str to float
        Part -> its share; they add up to 1. Their order does not matter.
    by : str
        What must not be divided: ``"concept"`` (all versions of a record),
        ``"record"``, ``"file"``, ``"cluster"`` (of near-duplicates), or any column.
    seed : int
        Another one gives another split.

    Returns
    -------
    dict of str to Rows
        Part -> its rows of the files table; `LEFT_OUT` too.

    Raises
    ------
    UsageError
        If the fractions name no parts, or do not add up to 1.
    """
    _check(fractions)
    names = sorted(fractions)
    edges = np.cumsum([fractions[name] for name in names])[:-1]
    if by == "cluster":
        cluster_column(dataset.snapshot)
    group, columns, derived = _group(by, dataset.snapshot.derived)
    prefix = quoted(f"{seed}:")
    # A number from 0 to 1 for each group: always the same one.
    drawn = (
        f"('0x' || left(sha256({prefix} || {group}), 16))::UBIGINT::DOUBLE / 1.8446744073709552e19"
    )
    part = " + ".join(f"(share >= {edge:.17e})::UTINYINT" for edge in edges.tolist()) or "0"
    parts = np.full(dataset.info.counts.files, _NOWHERE, np.uint8)
    needs_records = "records." in group
    join = " JOIN all_records AS records USING (record_id)" if needs_records else ""
    join += join_derived(dataset.snapshot, derived)
    tables = ("records", *map(derived_table, derived))
    with dataset.database({*columns, "file_id", "record_id", *_CONTENTS}, tables) as database:
        # Short hashes of the hashes: enough to tell what comes once.
        contents = ", ".join(
            f"CASE WHEN files.{name} IS NOT NULL THEN hash(files.{name}) END AS {name}"
            for name in _CONTENTS
        )
        database.execute(
            f"CREATE TABLE drawn AS SELECT file_id, ({part})::UTINYINT AS part, "
            f"{', '.join(_CONTENTS)} FROM (SELECT file_id, {drawn} AS share, {contents} "
            f"FROM selected AS files{join})"
        )
        for batch in database.batches("SELECT file_id, part FROM drawn"):
            parts[batch["file_id"].to_numpy()] = batch["part"].to_numpy()
        for name in _CONTENTS:
            parts[_copies(database, name)] = _LEFT_OUT
    found = {name: Rows.of_mask(parts == names.index(name)) for name in fractions}
    return {**found, LEFT_OUT: Rows.of_mask(parts == _LEFT_OUT)}


def count_leaks(split: Split[Dataset]) -> pd.DataFrame:
    """Count the files of each part of a split that another part knows; see `Split.leakage`."""
    counts: dict[str, list[int | None]] = {name: [] for name in split}
    if not split:
        raise UsageError("the split has no parts")
    snapshot = next(iter(split.values())).snapshot
    part = np.full(snapshot.info.counts.files, len(split), np.uint8)
    for number, view in enumerate(split.values()):
        part[view.selection.file_id] = number
    near = derived_table(NEAR_DUPLICATES)
    has_near = NEAR_DUPLICATES in snapshot.derived
    bits = {f"part_{number}": Rows.of_mask(part == number) for number in range(len(split))}
    chosen = " ".join(
        f"WHEN get_bit(getvariable('{name}'), file_id::INTEGER) = 1 THEN {number}"
        for number, name in enumerate(bits)
    )
    tables = ("files", near) if has_near else ("files",)
    with Database(snapshot, tables, bits=bits) as database:
        source = "all_files"
        if has_near:
            source += " LEFT JOIN all_derived_near_duplicates AS near USING (file_id)"
        database.execute(
            "CREATE TABLE parts AS SELECT * FROM (SELECT file_id, hash(text_sha256) AS text, "
            f"{'near.cluster' if has_near else 'NULL::BIGINT'} AS cluster, "
            f"CASE {chosen} END AS part FROM {source} WHERE text_sha256 IS NOT NULL) "
            "WHERE part IS NOT NULL"
        )
        for name in ("text", "cluster"):
            database.execute(
                f"CREATE TABLE shared_{name} AS SELECT {name} FROM parts WHERE {name} IS NOT NULL "
                f"GROUP BY {name} HAVING min(part) <> max(part)"
            )
        found = database.table(
            "SELECT part, count(*) AS files, "
            "count(*) FILTER (text IN (FROM shared_text)) AS exact, "
            "count(*) FILTER (text IN (FROM shared_text) OR cluster IN (FROM shared_cluster)) "
            "AS near FROM parts GROUP BY part"
        ).to_pylist()
    rows = {row["part"]: row for row in found}
    for number, name in enumerate(split):
        row = rows.get(number, {"files": 0, "exact": 0, "near": 0})
        counts[name] = [row["files"], row["exact"], row["near"] if has_near else None]
    return pd.DataFrame.from_dict(
        counts, orient="index", columns=["files", "exact", "near"]
    ).astype("Int64")


def _copies(database: Database, name: str) -> Int64:
    """Take copies out of ``drawn``: of content in several parts, all but those in the first's.

    The first is the file that was committed first. Returns the numbers of the files.
    """
    database.execute(
        f"CREATE OR REPLACE TABLE spread AS SELECT {name} AS short FROM drawn "
        f"WHERE {name} IS NOT NULL GROUP BY short HAVING min(part) <> max(part)"
    )
    # Half of a SHA-256 is as unique as the whole, and a number.
    database.execute(
        "CREATE OR REPLACE TABLE copies AS WITH found AS MATERIALIZED ("
        f"SELECT file_id, part, ('0x' || left(selected.{name}, 32))::UHUGEINT AS content "
        f"FROM selected JOIN drawn USING (file_id) WHERE drawn.{name} IN (FROM spread)), "
        "home AS (SELECT content, arg_min(part, file_id) AS part FROM found GROUP BY content) "
        "SELECT file_id FROM found JOIN home USING (content) WHERE found.part <> home.part"
    )
    copies: Int64 = database.table("FROM copies")["file_id"].to_numpy()
    if copies.size:
        database.execute("DELETE FROM drawn WHERE file_id IN (FROM copies)")
    return copies


def _check(fractions: Mapping[str, float]) -> None:
    if not isinstance(fractions, Mapping):
        raise UsageError(
            f"{fractions!r} names no parts; give their shares, {{'train': 0.8, 'test': 0.2}} say"
        )
    shares = list(fractions.values())
    if not shares or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UsageError(
            f"the shares {dict(fractions)} should be positive and add up to 1; "
            "give for example {'train': 0.8, 'test': 0.2}"
        )
    if len(shares) > _MOST_PARTS:
        raise UsageError(f"a split has at most {_MOST_PARTS} parts, not {len(shares)}")


def _group(by: str, derived: Derived) -> tuple[str, set[str], list[str]]:
    """Write the name of the group that stays together; name the columns and tables it needs.

    What has no value stands for itself: a record without a concept is one, and a file
    whose bytes were not read has nobody's content.
    """
    if by == "record":
        return "files.record_id::VARCHAR", set(), []
    if by == "file":
        return "coalesce(files.sha256, 'file ' || files.file_id)", {"sha256"}, []
    column = find_countable(_SHORT.get(by, by), derived)
    if pa.types.is_list(column.type):
        raise UsageError(f"{by!r} holds lists; a split needs one value a file")
    own = {"concept": "", "cluster": "file "}.get(by, "record ")
    whose = "files.file_id" if by == "cluster" else "files.record_id"
    name = column.key
    of_files = {column.name} if column.level == "files" else set()
    return (
        f"coalesce({name}::VARCHAR, '{own}' || {whose})",
        of_files,
        derived_tables([column]),
    )
