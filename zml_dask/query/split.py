"""Splits without leakage, that remain the same when the dataset grows.

Versions of one concept must not be in several parts, nor must files of identical
content. To merge all that share a file into one group would guarantee
both, but what many share (a licence's text, a vendored library, the empty
file) links records in chains: of the 50 concepts of the demo one group has
37. Such groups only grow, and a record that is added tomorrow may join two that
are in different parts. So the parts are drawn by a hash of the concept alone, on which no
other record has an influence; and of content that is in several parts, only the copies in
one of them are kept: in that of the file that was committed first. The others
are *left out* of the split. What a later commit adds is further down the
files table, whatever its record's number (an older record may well come later:
its download failed, or another query found it), so that it leaves out copies of
its own and none of those that were there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.columns import Column, Derived, find_column, find_countable
from zml_dask.query.counting import NEAR_DUPLICATES, cluster_column
from zml_dask.query.engine import Database
from zml_dask.query.rows import Int64, Rows
from zml_dask.query.selection import Selection, join_derived, open_selected
from zml_dask.query.sql import quoted
from zml_dask.store.layout import derived_table

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_LEFT_OUT: Final = 254
_NOWHERE: Final = 255
_MOST_PARTS: Final = 250
_PARTITION: Final = 2**22
"""Files whose contents are compared at once."""

_CONTENTS = ("sha256", "text_sha256")
"""Identical bytes, and identical images."""


_SHORT: Final = {"concept": "records.concept_id", "cluster": f"{NEAR_DUPLICATES}.cluster"}
"""Names of columns that are divided by most."""


class Split(dict[str, "Dataset"]):
    """The parts of a split: a mapping from the name of a part to its view.

    Attributes
    ----------
    left_out : Dataset
        Copies of content that is in another part; they are in no part.
    """

    left_out: Dataset

    def leakage(self) -> pd.DataFrame:
        """Count the files of each part that are also in another part.

        Returns
        -------
        pandas.DataFrame
            Indexed by the part's name: ``files`` with text; ``exact``, the number of them whose
            text is also in another part; ``near``, the number of them in a cluster of
            near-duplicates with a file of another part, including exact copies; null if
            near-duplicates are not derived.

        Examples
        --------
        >>> split = ds.split({"train": 0.8, "test": 0.2})
        >>> split.leakage()["exact"].to_dict()
        {'train': 0, 'test': 0}
        """
        if not self:
            raise UsageError("the split has no parts")
        snapshot = next(iter(self.values())).snapshot
        part = np.full(snapshot.info.counts.files, _NOWHERE, np.uint8)
        for number, view in enumerate(self.values()):
            part[view.selection.file_id] = number
        with Database(snapshot, ("files",)) as database:
            text = _short_hashes(database, "all_files", "text_sha256", part.size)
        has_text = text != 0
        text[part == _NOWHERE] = 0
        exact = _in_several(text, part)
        near = None
        if NEAR_DUPLICATES in snapshot.derived:
            known = snapshot.scan(derived_table(NEAR_DUPLICATES), ["file_id", "cluster"])
            text[:] = 0
            text[known["file_id"].to_numpy()] = pc.fill_null(pc.add(known["cluster"], 1), 0)
            text *= np.uint64(0x9E3779B97F4A7C15)  # spreads them over the partitions
            text[(part == _NOWHERE) | ~has_text] = 0
            near = exact | _in_several(text, part)
        counts: dict[str, list[int | None]] = {}
        for number, name in enumerate(self):
            files = has_text & (part == number)
            among = [None if one is None else int((files & one).sum()) for one in (exact, near)]
            counts[name] = [int(files.sum()), *among]
        return pd.DataFrame.from_dict(
            counts, orient="index", columns=["files", "exact", "near"]
        ).astype("Int64")


def split_view(
    dataset: Dataset, fractions: Mapping[str, float], by: str = "concept", seed: int = 0
) -> Split:
    """Divide a view into parts; see `Dataset.split`."""
    _check(fractions)
    names = sorted(fractions)
    edges = np.cumsum([fractions[name] for name in names])[:-1]
    if by == "cluster":
        cluster_column(dataset.snapshot)
    group, column = _group(by, dataset.snapshot.derived)
    # A number from 0 to 1 for each group, always the same.
    drawn = f"left(sha256({quoted(f'{seed}:')} || {group}), 16)"
    share = f"('0x' || {drawn})::UBIGINT::DOUBLE / 1.8446744073709552e19"
    part = " + ".join(f"(share >= {edge:.17e})::UTINYINT" for edge in edges.tolist()) or "0"
    if column.level == "records":  # drawn once per record, not once per file
        source = f"SELECT record_id, {share} AS share FROM all_records AS records"
        query = f"SELECT file_id, part FROM selected JOIN (SELECT record_id, ({part})::UTINYINT "
        query += f"AS part FROM ({source})) USING (record_id)"
    else:
        join = join_derived(dataset.snapshot, column.derived)
        source = f"SELECT file_id, {share} AS share FROM selected AS files{join}"
        query = f"SELECT file_id, ({part})::UTINYINT AS part FROM ({source})"
    parts = np.full(dataset.info.counts.files, _NOWHERE, np.uint8)
    of_files = {column.name} if column.level == "files" else set()
    tables = ("records", *map(derived_table, column.derived))
    with open_selected(
        dataset, {*of_files, "file_id", "record_id", *_CONTENTS}, tables
    ) as database:
        for batch in database.batches(query):
            parts[batch["file_id"].to_numpy()] = batch["part"].to_numpy()
        for name in _CONTENTS:
            content = _short_hashes(database, "selected", name, parts.size)
            content[parts == _LEFT_OUT] = 0
            for files, starts in _alike(content):
                home = parts[np.minimum.reduceat(files, starts)]
                home = np.repeat(home, np.diff(starts, append=files.size))
                parts[files[parts[files] != home]] = _LEFT_OUT
    chosen = None if dataset.is_unselected else dataset.selection.chosen

    def part_of(number: int) -> Dataset:
        selection = Selection(dataset.snapshot, Rows.of_mask(parts == number))
        if chosen is not None:
            selection = selection.with_images(chosen)
        return type(dataset)(dataset.snapshot, selection, (), dataset.whole or dataset)

    split = Split((name, part_of(names.index(name))) for name in fractions)
    split.left_out = part_of(_LEFT_OUT)
    return split


def _short_hashes(database: Database, table: str, column: str, total: int) -> NDArray[np.uint64]:
    """Return 64 bits of what each file's column holds, shape (total,); 0 where it holds nothing.

    Of 65 million files, two that differ share them in one of nine thousand datasets.
    """
    short = np.zeros(total, np.uint64)
    query = f"SELECT file_id, hash({column}) AS short FROM {table} WHERE {column} IS NOT NULL"
    for batch in database.batches(query):
        short[batch["file_id"].to_numpy()] = batch["short"].to_numpy()
    return short


def _alike(content: NDArray[np.uint64]) -> Iterator[tuple[Int64, Int64]]:
    """Yield the files of equal content together, and where each content begins among them.

    By partitions of the contents, so that memory holds no more than one beside `content`;
    DuckDB would group 65 million in 1.5 GiB by writing most of them to the disk.
    """
    bits = max(1, (content.size // _PARTITION).bit_length())
    partition = (content >> np.uint64(64 - bits)).astype(np.uint8)
    for number in range(2**bits):
        files = np.flatnonzero(partition == number)
        files = files[content[files] != 0]
        files = files[np.argsort(content[files])]
        if files.size:
            ordered = content[files]
            yield files, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))


def _in_several(content: NDArray[np.uint64], part: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return for each file whether files of several parts have its content."""
    found = np.zeros(part.size, np.bool_)
    for files, starts in _alike(content):
        of_file = part[files]
        spread = np.minimum.reduceat(of_file, starts) != np.maximum.reduceat(of_file, starts)
        found[files[np.repeat(spread, np.diff(starts, append=files.size))]] = True
    return found


def _check(fractions: Mapping[str, float]) -> None:
    shares = list(fractions.values())
    if not shares or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UsageError(
            f"the shares {dict(fractions)} should be positive and add up to 1; "
            "give for example {'train': 0.8, 'test': 0.2}"
        )
    if len(shares) > _MOST_PARTS:
        raise UsageError(f"a split has at most {_MOST_PARTS} parts, not {len(shares)}")


def _group(by: str, derived: Derived) -> tuple[str, Column]:
    """Return the SQL of the group that stays together, and the column that it is of.

    A null stands for itself: a record without a concept is its own, and so is a file
    whose bytes were not read.
    """
    if by == "record":
        return "records.record_id::VARCHAR", find_column("records.record_id")
    if by == "file":
        return "coalesce(files.sha256, 'file ' || files.file_id)", find_column("sha256")
    column = find_countable(_SHORT.get(by, by), derived)
    if pa.types.is_list(column.type):
        raise UsageError(f"{by!r} holds lists; a split needs one value per file")
    own = {"concept": "", "cluster": "file "}.get(by, "record ")
    whose = "records.record_id" if column.level == "records" else "files.record_id"
    if by == "cluster":
        whose = "files.file_id"
    return f"coalesce({column.key}::VARCHAR, '{own}' || {whose})", column
