"""The columns that conditions and questions may name: of files, records, images, derived tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from zml_dask.arguments import nearest
from zml_dask.errors import UsageError
from zml_dask.store.layout import FAILURES_SCHEMA, FILES_SCHEMA, RECORDS_SCHEMA
from zml_dask.text_safety import escape_text

Level = Literal["files", "records", "images", "derived"]

SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "files": FILES_SCHEMA,
    "records": RECORDS_SCHEMA,
    "failures": FAILURES_SCHEMA,
}
"""Tables that SQL may name."""

IMAGE_COLUMNS: Final[Mapping[str, pa.DataType]] = {"segment": pa.int64(), "image_lines": pa.int64()}
"""``segment``: number of the image within its file; ``image_lines``: how many of its rows
are lines of the text. ``n_lines`` is the whole file's."""

MAX_SHOWN: Final = 200
"""Characters of a name or a text that an error quotes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the files, the records or a derived table, or a property of each image.

    Of level ``"images"`` it is calculated, one value per image. The name of a derived table's
    column is ``table.column``.
    """

    level: Level
    name: str
    type: pa.DataType

    @property
    def key(self) -> str:
        """Its SQL expression in a join."""
        if (self.level, self.name) == ("records", YEAR):
            return "year(records.publication_date)"
        return self.name if self.level in ("images", "derived") else f"{self.level}.{self.name}"

    @property
    def is_nullable(self) -> bool:
        """Whether it may be null."""
        schema = SCHEMAS.get(self.level)
        return schema is None or self.name not in schema.names or schema.field(self.name).nullable

    @property
    def derived(self) -> frozenset[str]:
        """The derived table that it belongs to, if any."""
        return frozenset({self.name.partition(".")[0]} if self.level == "derived" else ())


_FILES = {name: Column("files", name, FILES_SCHEMA.field(name).type) for name in FILES_SCHEMA.names}
_RECORDS = {
    name: Column("records", name, RECORDS_SCHEMA.field(name).type) for name in RECORDS_SCHEMA.names
}
_IMAGES = {name: Column("images", name, kind) for name, kind in IMAGE_COLUMNS.items()}
BY_NAME: Final[Mapping[str, Column]] = {**_IMAGES, **_RECORDS, **_FILES}
BY_KEY: Final[Mapping[str, Column]] = {
    f"{c.level}.{c.name}": c for c in (*_FILES.values(), *_RECORDS.values())
}
SHARED = frozenset(_FILES) & frozenset(_RECORDS)

Derived = Mapping[str, pa.Schema]
"""Name of a derived table -> its columns."""

NO_TABLES: Final[Derived] = {}


def find_column(name: str, derived: Derived = NO_TABLES) -> Column:
    """Find a column; if files and records both have one of that name, that of the files.

    `name` may include the table (``"records.n_images"``), and must for a derived one.
    `UsageError` with the nearest names if there is none.

    Examples
    --------
    >>> find_column("n_images").level, find_column("records.n_images").level
    ('files', 'records')
    >>> find_column("langauge")
    Traceback (most recent call last):
    zml_dask.errors.UsageError: no column 'langauge'; did you mean 'language'?
    """
    folded = name.lower() if isinstance(name, str) else name
    found = BY_NAME.get(folded) or BY_KEY.get(folded)
    if found is None and isinstance(folded, str):
        found = derived_column(folded.split("."), derived)
    if found is None:
        table, dot, _ = str(folded).partition(".")
        if dot and table not in {*SCHEMAS, *derived}:
            raise UsageError(no_table(table, derived))
        if not dot and table in {*SCHEMAS, *derived}:
            column = {**SCHEMAS, **derived}[table].names[0]
            raise UsageError(f"{name!r} is a table; name one of its columns, as {table}.{column}")
        known = list(BY_KEY if "." in str(name) else BY_NAME)
        advice = nearest(str(name), known, "zml-dask query --help (ds.schema in Python) lists all")
        raise UsageError(f"no column {escape_text(str(name)[:MAX_SHOWN])!r}; {advice}")
    return found


YEAR = "year"
"""Not a column, but counted by as if it were one: of the publication date."""


def find_countable(name: str, derived: Derived = NO_TABLES) -> Column:
    """Find a column with one value per file, or a list of them; ``"year"`` too.

    `UsageError` if it is unknown, or a property of single images.
    """
    if name == YEAR:
        return Column("records", YEAR, pa.int64())
    column = find_column(name, derived)
    if column.level == "images":
        raise UsageError(f"{name!r} differs between a file's images; name a column of files")
    return column


def derived_column(names: list[str], derived: Derived) -> Column | None:
    """Find a column of a derived table; None if no such table is named."""
    if len(names) < 2 or names[0] not in derived:
        return None
    schema = derived[names[0]]
    if names[1] not in schema.names:
        raise UsageError(
            f"derived table {names[0]!r} has no column {names[1]!r}; it has "
            f"{', '.join(schema.names)}"
        )
    return Column("derived", ".".join(names[:2]), schema.field(names[1]).type)


def no_table(name: str, derived: Derived) -> str:
    """Say that there is no such table, with the nearest names."""
    advice = nearest(name, [*SCHEMAS, *derived], "zml-dask derive DATASET NAME makes one")
    return f"there is no table {escape_text(name[:MAX_SHOWN])!r}; {advice}"
