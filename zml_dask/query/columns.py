"""The columns an expression may name, and where each is kept."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from zml_dask.errors import UsageError
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA

Level = Literal["files", "records", "images"]


class UnknownColumnError(UsageError):
    """There is no column of that name."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the files or the records, or a property of each image.

    Attributes
    ----------
    level : Level
        ``"images"``: calculated, a value an image.
    name : str
    type : pyarrow.DataType
    """

    level: Level
    name: str
    type: pa.DataType

    @property
    def key(self) -> str:
        """A name that no column of another level has."""
        return f"{self.level}.{self.name}"


IMAGE_COLUMNS = (
    Column("images", "segment", pa.int32()),
    Column("images", "image_lines", pa.int32()),
)
"""``segment``: number of the image within its file; ``image_lines``: how many of its rows
are lines of the text. ``n_lines`` is the whole file's."""

_FILES = tuple(Column("files", field.name, field.type) for field in FILES_SCHEMA)
_RECORDS = tuple(Column("records", field.name, field.type) for field in RECORDS_SCHEMA)

_BY_NAME = {column.name: column for column in (*IMAGE_COLUMNS, *_RECORDS, *_FILES)}
_BY_KEY = {column.key: column for column in (*IMAGE_COLUMNS, *_RECORDS, *_FILES)}


def find_column(name: str, level: str | None = None) -> Column:
    """Find a column; where files and records both have one of that name, the files' one.

    Parameters
    ----------
    name : str
    level : str, optional
        ``"files"`` or ``"records"``, to say which.

    Raises
    ------
    UnknownColumnError
        With the names nearest to it.

    Examples
    --------
    >>> find_column("n_images").key, find_column("n_images", "records").key
    ('files.n_images', 'records.n_images')
    >>> find_column("langauge")
    Traceback (most recent call last):
    zml_dask.query.columns.UnknownColumnError: no column 'langauge'; did you mean 'language'?
    """
    known = _BY_NAME if level is None else _BY_KEY
    wanted = name if level is None else f"{level}.{name}"
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.7)
    choices = " or ".join(map(repr, near)) if near else None
    raise UnknownColumnError(
        f"no column {wanted!r}; "
        + (f"did you mean {choices}?" if choices else f"there are {', '.join(_BY_NAME)}")
    )
