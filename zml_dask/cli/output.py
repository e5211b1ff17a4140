"""Result rows, printed or written as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.errors import UsageError, ZmlError
from zml_dask.text_safety import escape_text

_FORMATS = ["table", "csv", "json", "parquet"]
_TABLE_ROWS = 20
"""Rows of a table on a terminal."""
_MEASURED_ROWS = 1_000
"""Rows that the widths of a table in a pipe are taken from."""
_NARROWEST = 12
_BREAKS = re.compile(r"[/\s]+")

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Shown:
    """What was written; `cut` if there are more rows.

    A person reads a table on a terminal (`to_terminal`), so that the summary stands below it.
    """

    rows: int = 0
    cut: bool = False
    to_terminal: bool = False

    def say(self, summary: str) -> None:
        """Print a line about it: to standard error where standard output holds the rows."""
        click.echo(summary, err=not self.to_terminal)


def output_options(command: _Command) -> _Command:
    """Add the options for the output of rows to a command."""
    for option in (
        click.option("--output", type=click.Path(dir_okay=False), help="Write to this file."),
        click.option(
            "--format",
            "form",
            type=click.Choice(_FORMATS),
            help="What to write.  [default: as the name of --output ends, or table]",
        ),
        click.option(
            "--limit",
            type=click.IntRange(0),
            help="Rows at most; 20 in a table on a terminal, else all.",
        ),
    ):
        command = option(command)
    return command


def write_rows(
    tables: Iterator[pa.Table],
    form: str | None,
    output: str | None,
    *,
    limit: int | None = None,
    counts: Mapping[str, int] | None = None,
) -> Shown:
    """Write the rows of one table or several of one schema as they come, in bounded memory.

    `form` is ``"table"``, ``"csv"``, ``"json"`` or ``"parquet"``; if None, as the name of the file
    `output` ends, or a table. Without `output` they go to standard output. In JSON, `counts` are
    written beside the rows. `ZmlError` if `output` cannot be written, `UsageError` if Parquet would
    go to a terminal.
    """
    if form is None:
        ending = Path(output or "").suffix[1:].lower()
        form = ending if ending in _FORMATS else "table"
    terminal = output is None and sys.stdout.isatty()
    if form == "parquet" and terminal:
        raise UsageError("Parquet is no text; name a file with --output, or send it to a pipe")
    if limit is None and form == "table" and terminal:
        limit = _TABLE_ROWS
    shown = Shown(to_terminal=terminal and form == "table")
    rows = _limited(tables, limit, shown)
    if form == "parquet":
        with _opened(output, binary=True) as file:
            _write_parquet(rows, file)
        return shown
    with _opened(output, binary=False) as file:
        if form == "csv":
            _write_csv(rows, file)
        elif form == "json":
            _write_json(rows, counts, file)
        else:
            width = shutil.get_terminal_size().columns if terminal else None
            _write_table(rows, file, width)
    return shown


@contextmanager
def _opened(output: str | None, *, binary: bool) -> Iterator[IO[Any]]:
    if output is None:
        yield sys.stdout.buffer if binary else sys.stdout
        return
    path = Path(output)
    # Written aside, so that a full disk leaves what was there; a device or a pipe is written to.
    is_special = path.exists() and not path.is_file()
    target = path if is_special else path.resolve().with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with target.open(
                "wb" if binary else "w",
                encoding=None if binary else "utf-8",
                newline=None if binary else "",
            ) as file:
                yield file
            if target != path:
                if path.exists():
                    shutil.copymode(path, target)
                target.replace(path.resolve())
        finally:
            if target != path:
                target.unlink(missing_ok=True)
    except OSError as error:
        raise ZmlError(f"{output} cannot be written: {error.strerror or error}") from error


def _limited(tables: Iterable[pa.Table], limit: int | None, shown: Shown) -> Iterator[pa.Table]:
    """Yield at most `limit` rows, counting them."""
    for table in tables:
        left = None if limit is None else limit - shown.rows
        shown.cut = left is not None and len(table) > left
        kept = table if left is None else table.slice(0, left)
        shown.rows += len(kept)
        yield kept
        if shown.cut:
            return


def _write_parquet(tables: Iterator[pa.Table], file: IO[bytes]) -> None:
    first = next(tables)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _write_csv(tables: Iterator[pa.Table], file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for number, table in enumerate(tables):
        if not number:
            writer.writerow(map(escape_text, table.column_names))
        writer.writerows(_spelled(table))


def _write_json(
    tables: Iterator[pa.Table], counts: Mapping[str, int] | None, file: IO[str]
) -> None:
    """Write ``{"counts": ..., "rows": [...]}``, ASCII only, so that nothing controls a terminal."""
    head = "" if counts is None else f' "counts": {json.dumps(counts)},\n'
    file.write("{\n" + head + ' "rows": [')
    before = ""
    encode = json.JSONEncoder(default=str).encode
    for table in tables:
        for row in table.to_pylist():
            file.write(f"{before}\n  {encode(row)}")
            before = ","
    file.write("\n ]\n}\n")


def _write_table(tables: Iterator[pa.Table], file: IO[str], width: int | None) -> None:
    """Write columns side by side: numbers to the right; for a terminal folded to its width."""
    first = next(tables)
    while not len(first) and (following := next(tables, None)) is not None:
        first = following
    names = [escape_text(name) for name in first.column_names]
    right = [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        for kind in first.schema.types
    ]
    rows = _spelled(first)
    if not rows:
        return
    measured = [names, *rows[:_MEASURED_ROWS]]
    widths = [max(len(row[i]) for row in measured) for i in range(len(names))]
    if width is not None:
        widths = _fitting(widths, right, width)
    layout = "  ".join(
        f"%{'' if to_right else '-'}{size}s" for size, to_right in zip(widths, right, strict=True)
    )
    for row in chain([names], rows, (row for table in tables for row in _spelled(table))):
        # A terminal's lines are folded; text in a pipe is kept whole, if wider than measured.
        lines = zip_longest(*map(_folded, row, widths), fillvalue="") if width else [row]
        file.writelines((layout % tuple(line)).rstrip() + "\n" for line in lines)


def _fitting(widths: list[int], right: list[bool], width: int) -> list[int]:
    """Narrow the widest columns of text until a line fits."""
    fitted = list(widths)
    while sum(fitted) + 2 * (len(fitted) - 1) > width:
        texts = [i for i, to_right in enumerate(right) if not to_right and fitted[i] > _NARROWEST]
        if not texts:
            break
        fitted[max(texts, key=lambda i: fitted[i])] -= 1
    return fitted


def _folded(text: str, width: int) -> list[str]:
    """Split a text into lines, after a slash or between words where possible."""
    lines = []
    while len(text) > width:
        ends = [found.end() for found in _BREAKS.finditer(text[:width])]
        at = ends[-1] if ends else width
        lines.append(text[:at].rstrip())
        text = text[at:]
    return [*lines, text]


def _spelled(table: pa.Table) -> list[tuple[str, ...]]:
    """Return rows as text. By columns, since a listing may have millions of rows."""
    return list(zip(*map(_spell_column, table.columns), strict=True))


def _spell_column(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts: list[str] = column.fill_null("").to_pylist()
        if "".join(texts).isprintable():
            return texts
    return [_spell(value) for value in column.to_pylist()]


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_spell(item) for item in value)
    return "" if value is None else escape_text(str(value))
