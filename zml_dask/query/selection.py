"""From conditions to bits: which files match, and which of their images; and their columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from zml_dask.errors import UsageError
from zml_dask.query.columns import YEAR, Column, find_countable
from zml_dask.query.engine import Database
from zml_dask.query.rows import AT_ONCE, Int64, Rows, RowsBuilder
from zml_dask.query.sql import Condition, derived_join, parse_question
from zml_dask.store.layout import DERIVED, FILES_SCHEMA, TABLES, derived_table
from zml_dask.store.snapshot import Snapshot, among

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

BY_LANGUAGE = "files_by_language"
_ORDERED_BY = frozenset({"language", "language_group", "extension"})
CHOSEN = "get_bit(getvariable('chosen'), files.file_id::INTEGER) = 1"
"""Condition on the files whose bits are the variable ``chosen``."""


@dataclass(frozen=True)
class Selection:
    """Some files of a dataset, and some of their images.

    Held as bits, 8 MB for 65 million files and 44 MB for their images; columns are read on
    first use. `chosen` are images that were chosen one by one: every file then has at least one
    such image. It is None where all images of the files belong to the selection.
    """

    snapshot: Snapshot
    files: Rows
    chosen: Rows | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.snapshot, self.files, self.chosen)

    @classmethod
    def of(cls, snapshot: Snapshot, files: Rows, rows: Rows, *, chosen: bool = False) -> Selection:
        """Return a selection whose images are known: `chosen` one by one, or all of its files'."""
        found = cls(snapshot, files, rows if chosen else None)
        found.__dict__["rows"] = rows
        return found

    @classmethod
    def of_files(cls, snapshot: Snapshot, file_id: Int64) -> Selection:
        """Return some files, by ascending numbers, with all their images; no other row is read."""
        counts = snapshot.info.counts
        spans = snapshot.take("files", file_id, ["first_image", "n_images"])
        first, count = (spans[name].to_numpy() for name in spans.column_names)
        rows = Rows.of_runs(first, count, counts.images)
        return cls.of(snapshot, Rows.of_positions(file_id, counts.files), rows)

    @cached_property
    def rows(self) -> Rows:
        """The images."""
        builder = RowsBuilder(self.snapshot.info.counts.images)
        with self.database() as database:
            query = f"SELECT first_image, n_images FROM all_files AS files WHERE {CHOSEN}"
            for batch in database.batches(query):
                builder.add_runs(batch["first_image"].to_numpy(), batch["n_images"].to_numpy())
        rows = builder.finish()
        return rows if self.chosen is None else rows & self.chosen

    def database(self, tables: tuple[str, ...] = ("files",)) -> Database:
        """Open the tables, with these files' bits as the variable ``chosen``."""
        return Database(self.snapshot, tables, bits={"chosen": self.files})

    @cached_property
    def file_id(self) -> Int64:
        """Rows of the files table, ascending."""
        return self.files.positions()

    @cached_property
    def _drawn(self) -> tuple[Rows, Rows]:
        """Places of the files with images among these files, and the first image of each."""
        places = RowsBuilder(len(self.files))
        first = RowsBuilder(self.snapshot.info.counts.images)
        for start in range(0, len(self.files), AT_ONCE):
            file_id = self.files.positions(start, start + AT_ONCE)
            spans = self.snapshot.take("files", file_id, ["first_image", "n_images"])
            # Files without images share their first_image with the file that follows.
            filled = np.flatnonzero(spans["n_images"].to_numpy())
            places.add(start + filled)
            first.add(spans["first_image"].to_numpy()[filled].astype(np.int64))
        return places.finish(), first.finish()

    def with_images(self, rows: Rows) -> Selection:
        """Keep only some of the images, and their files."""
        both = self.rows & rows
        files = RowsBuilder(self.files.total)
        for start in range(0, len(both), AT_ONCE):
            places, _ = self.file_of(both.positions(start, start + AT_ONCE))
            files.add(self.files.at(places))
        return Selection(self.snapshot, files.finish(), both)

    def file_of(self, images: Int64) -> tuple[Int64, Int64]:
        """Return the place, among these files, of the file of each image, and its segment.

        `images` are row numbers, in any order.
        """
        places, first = self._drawn
        number = first.rank(images + 1) - 1
        return places.at(number), images - first.at(number)

    def images_of(self, files: slice) -> tuple[Int64, Int64]:
        """Return where the images of some neighbouring files begin and end in `rows`."""
        file_id = self.files.positions(*files.indices(len(self.files))[:2])
        spans = self.snapshot.take("files", file_id, ["first_image", "n_images"])
        return self.places_of(spans)

    def places_of(self, spans: pa.Table) -> tuple[Int64, Int64]:
        """Do as `images_of` for files whose ``first_image`` and ``n_images`` were read."""
        first = spans["first_image"].to_numpy().astype(np.int64)
        edges = np.concatenate((first, first + spans["n_images"].to_numpy()))
        places = self.rows.rank(edges)
        return places[: first.size], places[first.size :]


def record_rows(view: Dataset) -> Int64:
    """Find which rows of the records table belong to a view."""
    if view.is_all:
        return np.arange(view.info.counts.records, dtype=np.int64)
    known = view.snapshot.scan("records", ["record_id"], with_withdrawn=True)["record_id"]
    if view.is_unselected:  # includes records without files
        shown = ~np.isin(known, np.array([*view.snapshot.withdrawn], np.int64))
    else:
        with open_selected(view, {"record_id"}) as database:
            found = database.table("SELECT DISTINCT record_id FROM selected")
        shown = np.isin(known, found["record_id"])
    return np.flatnonzero(shown)


def image_lines(n_lines: Int64 | int, segment: Int64, height: int) -> Int64:
    """Return how many rows of an image are lines: `segment` of a file of `n_lines` lines.

    Examples
    --------
    >>> image_lines(np.array([100, 100]), np.array([0, 1]), 80).tolist()
    [80, 20]
    """
    lines: Int64 = np.minimum(n_lines - segment * height, height)
    return lines


def files_table(snapshot: Snapshot, columns: Collection[str]) -> str:
    """Choose the table that answers faster: that ordered by language, if it has all `columns`."""
    known = BY_LANGUAGE in TABLES and snapshot.info.tables.get(BY_LANGUAGE)
    if known and set(columns) <= set(TABLES[BY_LANGUAGE].names) and _ORDERED_BY & set(columns):
        return BY_LANGUAGE
    return "files"


def derived_tables(parts: Iterable[Condition | Column]) -> list[str]:
    """Return the derived tables of conditions or columns, each once."""
    return sorted(set().union(*(part.derived for part in parts)))


def join_derived(snapshot: Snapshot, names: Iterable[str]) -> str:
    """Return the joins of derived tables with ``files``; see `sql.derived_join`."""
    return "".join(
        derived_join(name, snapshot.derived[name].names, f"all_derived_{name}") for name in names
    )


def select_files(
    snapshot: Snapshot,
    wanted: str,
    conditions: Sequence[Condition],
    source: str = "all_files",
    base: Selection | None = None,
) -> str:
    """Return the SELECT of `wanted` from the files that fulfil all conditions.

    The files are called ``files``, and their records ``records``.
    """
    levels = {level for condition in conditions for level in condition.levels}
    join = (
        " JOIN all_records AS records ON files.record_id = records.record_id"
        if "records" in levels
        else ""
    )
    join += join_derived(snapshot, derived_tables(conditions))
    tests = [f"(\n{condition.text}\n)" for condition in conditions]
    if base is not None:
        tests.append(CHOSEN)
    return f"SELECT {wanted} FROM {source} AS files{join} WHERE {' AND '.join(tests) or 'true'}"


def _tables_of(
    snapshot: Snapshot, conditions: Sequence[Condition], columns: Collection[str]
) -> tuple[str, list[str], dict[str, pa.Array | pa.Table]]:
    """Choose the tables for conditions: one of files, further ones, and given values."""
    named = {c.name for one in conditions for c in one.columns if c.level == "files"}
    others = ["records"] if any("records" in one.levels for one in conditions) else []
    others += map(derived_table, derived_tables(conditions))
    values = {name: array for one in conditions for name, array in one.values.items()}
    return files_table(snapshot, {*columns, *named}), others, values


def resolve(
    snapshot: Snapshot, conditions: Sequence[Condition], base: Selection | None = None
) -> Selection:
    """Find what fulfils all conditions, in `base` or in everything."""
    by_image = any("images" in condition.levels for condition in conditions)
    wanted = {"file_id", "first_image", "n_images", *(("n_lines",) if by_image else ())}
    files, others, values = _tables_of(snapshot, conditions, wanted)
    views = {}
    if any(condition.has_subquery for condition in conditions):
        files, others = "files", list(dict.fromkeys(["records", "failures", *others]))
        for name in (files, *others):
            views[name.rpartition("/")[2]] = f"SELECT * FROM all_{name.replace('/', '_')}"
    bits = {} if base is None else {"chosen": base.files}
    info = snapshot.info
    file_bits, image_bits = RowsBuilder(info.counts.files), RowsBuilder(info.counts.images)
    with Database(snapshot, (files, *others), views, bits=bits, values=values) as database:
        if by_image:
            query = _select_images(snapshot, conditions, f"all_{files}", base)
        else:
            names = "files.file_id, files.first_image, files.n_images"
            query = select_files(snapshot, names, conditions, f"all_{files}", base)
        for batch in database.batches(query):
            file_bits.add(batch["file_id"].to_numpy())
            image_bits.add_runs(batch["first_image"].to_numpy(), batch["n_images"].to_numpy())
    found = Selection.of(snapshot, file_bits.finish(), image_bits.finish(), chosen=by_image)
    return found if base is None or base.chosen is None else found.with_images(base.chosen)


def _select_images(
    snapshot: Snapshot, conditions: Sequence[Condition], source: str, base: Selection | None
) -> str:
    """Return the SELECT of single images, each a row with ``segment`` and ``image_lines``."""
    height = snapshot.info.shape.height
    of_files = [condition for condition in conditions if "images" not in condition.levels]
    files = select_files(snapshot, "files.*", of_files, source, base)
    images = f"SELECT *, unnest(range(n_images)) AS segment FROM ({files})"
    lines = f"least(n_lines - segment * {height}, {height})"
    images = f"(SELECT *, {lines} AS image_lines FROM ({images}))"
    of_images = [condition for condition in conditions if "images" in condition.levels]
    wanted = "files.file_id, files.first_image + segment AS first_image, 1 AS n_images"
    return select_files(snapshot, wanted, of_images, images)


def sample_images(view: Dataset, n: int, seed: int) -> Selection:
    """Choose some images of a view at random; see `Dataset.sample`."""
    if min(n, seed) < 0:
        raise UsageError(f"n and seed: give a whole number from 0 on for each, not {n} and {seed}")
    total = len(view)
    picked = np.random.default_rng(seed).choice(total, min(n, total), replace=False)
    rows = view.rows.at(picked)
    return view.selection.with_images(Rows.of_positions(rows, view.rows.total))


def mask_selection(selection: Selection, where: ArrayLike | pd.Series[bool]) -> Selection:
    """Apply a mask with a value for each file or each image."""
    if isinstance(where, pd.Series):
        where = _aligned(where, len(selection.files))
    mask = np.asarray(where)
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise UsageError(
            f"a mask has to be one-dimensional and of bool, not {mask.ndim}-dimensional and of "
            f"{mask.dtype}; choose by number with select(file_id=[...])"
        )
    n_files, n_images = len(selection.files), len(selection.rows)
    if mask.size == n_files:
        # If there are as many files as images, a mask is of files.
        return Selection(selection.snapshot, selection.files.where(mask), selection.chosen)
    if mask.size == n_images:
        return selection.with_images(selection.rows.where(mask))
    raise UsageError(
        f"a mask of {mask.size:,} values fits neither the {n_files:,} files nor the "
        f"{n_images:,} images"
    )


def _aligned(mask: pd.Series[bool], n_files: int) -> pd.Series[bool]:
    """Put a mask of files into their order, by its index, as pandas does."""
    positions = pd.RangeIndex(n_files)
    if mask.size != n_files or mask.index.equals(positions):
        return mask
    if mask.index.is_unique and mask.index.isin(positions).all():
        return mask.reindex(positions)
    raise UsageError(
        "the index of a mask has to be that of the view's files, since it may have been sorted; "
        "give mask.to_numpy() if its values are in the order of the files"
    )


def open_selected(
    dataset: Dataset,
    columns: set[str],
    tables: tuple[str, ...] = (),
    views: Mapping[str, str] | None = None,
    *,
    memory_limit: float | None = None,
) -> Database:
    """Open a database with the files of a view as ``selected``.

    `columns` are those of files that will be used. A further one, ``images``, is the number
    of a file's images that belong to the view. `tables` are others, as ``all_records`` and so on;
    `views` are made of all these. See `Database`.
    """
    # With conditions most row groups are skipped, with the bits of their result none.
    inline = dataset.base is None
    for condition in dataset.conditions:
        inline &= not condition.has_subquery and "images" not in condition.levels
    conditions = dataset.conditions if inline else ()
    files, others, values = _tables_of(dataset.snapshot, conditions, columns)
    bits = {}
    if inline:
        wanted = "files.*, files.n_images AS images"
        selected = select_files(dataset.snapshot, wanted, conditions, f"all_{files}")
    else:
        bits["chosen"] = dataset.selection.files
        if dataset.selection.chosen is None:
            counted, wanted = f"all_{files}", "files.*, files.n_images AS images"
        else:
            begins, ends = dataset.selection.images_of(slice(None))
            values["chosen_images"] = pa.table(
                {"file_id": dataset.selection.file_id, "images": ends - begins}
            )
            wanted = "files.*"
            counted = f"(SELECT * FROM all_{files} JOIN chosen_images USING (file_id))"
        selected = f"SELECT {wanted} FROM {counted} AS files WHERE {CHOSEN}"
    return Database(
        dataset.snapshot,
        tuple(dict.fromkeys([files, *tables, *others])),
        {"selected": selected, **(views or {})},
        bits=bits,
        values=values,
        memory_limit=memory_limit,
    )


def open_question(dataset: Dataset, query: str, memory_limit: float | None = None) -> Database:
    """Open a database with the tables that a SELECT reads."""
    derived = dataset.snapshot.derived
    question = parse_question(query, derived)
    named = set(FILES_SCHEMA.names)
    columns = named if question.has_star else {*(question.columns & named), "record_id", "file_id"}
    views = {"files": "SELECT * EXCLUDE (images) FROM selected"}
    tables = []
    if "records" in question.tables:
        tables.append("records")
        views["records"] = "SELECT * FROM all_records" + (
            "" if dataset.is_unselected else " WHERE record_id IN (SELECT record_id FROM selected)"
        )
    if "failures" in question.tables:
        tables.append("failures")
        views["failures"] = "SELECT * FROM all_failures"
    for name in sorted(question.tables & derived.keys()):
        tables.append(derived_table(name))
        key = "file_id" if "file_id" in derived[name].names else "record_id"
        views[name] = f"SELECT * FROM all_derived_{name}" + (
            "" if dataset.is_unselected else f" WHERE {key} IN (SELECT {key} FROM selected)"
        )
    if dataset.is_unselected and "files" not in question.tables:
        # The files have the most parts, each with a footer to read.
        del views["files"]
        return Database(dataset.snapshot, tuple(tables), views, memory_limit=memory_limit)
    return open_selected(dataset, columns, tuple(tables), views, memory_limit=memory_limit)


_ALL = slice(None)


def gather(
    snapshot: Snapshot, selection: Selection, names: Sequence[str], files: slice = _ALL
) -> pa.Table:
    """Read columns of the selected files, and of their records: one row per file.

    A column that both tables have is the files'. `files` is a slice of positions in the
    selection. The result's columns are named as in `names`.
    """
    homes = [_home(find_countable(name, snapshot.derived)) for name in names]
    fields: dict[str, list[str]] = {"files": []}
    for table, field in dict.fromkeys(homes):
        fields.setdefault(table, []).append(field)
    by_record = [table for table in fields if _is_of_records(snapshot, table)]
    if by_record and "record_id" not in fields["files"]:
        fields["files"].append("record_id")
    file_id = selection.files.positions(*files.indices(len(selection.files))[:2])
    found = {"files": snapshot.take("files", file_id, fields.pop("files"))}
    for table, columns in fields.items():
        if table in by_record:
            found[table] = _of_records(snapshot, table, found["files"]["record_id"], columns)
        else:  # row n is of file n; null for later files
            known = file_id[: np.searchsorted(file_id, snapshot.rows(table))]
            rows = snapshot.take(table, known, columns)
            missing = [pa.nulls(file_id.size - known.size, kind) for kind in rows.schema.types]
            found[table] = pa.concat_tables([rows, pa.table(missing, schema=rows.schema)])
    return pa.table(
        {name: found[table][field] for name, (table, field) in zip(names, homes, strict=True)}
    )


def _home(column: Column) -> tuple[str, str]:
    """Return the table in which a column is stored, and its name there."""
    if column.level != "derived":
        return column.level, column.name
    name, _, field = column.name.partition(".")
    return derived_table(name), field


def _is_of_records(snapshot: Snapshot, table: str) -> bool:
    name = table.removeprefix(f"{DERIVED}/")
    return table == "records" or (name != table and snapshot.info.derived[name].of == "records")


def _of_records(
    snapshot: Snapshot, table: str, record_id: pa.ChunkedArray, columns: list[str]
) -> pa.Table:
    """Read columns of the records of these numbers, which may repeat; null for later ones."""
    wanted = np.unique(record_id.to_numpy())
    everything = wanted.size == snapshot.rows("records")
    where = None if everything else among(wanted)
    year = table == "records" and YEAR in columns
    stored = ["publication_date" if year and name == YEAR else name for name in columns]
    rows = snapshot.scan(table, [*dict.fromkeys(["record_id", *stored])], where)
    if year:
        rows = rows.append_column(YEAR, pc.year(rows["publication_date"]))
    places = pc.index_in(record_id, rows["record_id"].combine_chunks())
    return rows.take(places.combine_chunks())


def as_codes(values: pa.ChunkedArray) -> tuple[Int64, list[Any]]:
    """Encode a column, without joining its chunks.

    Returns its codes, int64, -1 for null, and the different values, in order of appearance.

    Examples
    --------
    >>> codes, different = as_codes(pa.chunked_array([["a", "b"], ["c", None, "a"]]))
    >>> codes.tolist(), different
    ([0, 1, 2, -1, 0], ['a', 'b', 'c'])
    """
    encoded = values.dictionary_encode().unify_dictionaries()
    chunks = [chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks]
    different = encoded.chunk(0).dictionary.to_pylist() if chunks else []
    return np.concatenate([np.empty(0, np.int64), *chunks]), different
