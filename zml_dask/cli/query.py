"""``zml-dask query``: what in a dataset matches an expression."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.query.suggestion import suggest
from zml_dask.text_safety import escape_text

_COLUMNS = "record_id,path,language,license,n_lines,n_images"
_BATCH = 16_384
_TABLE_ROWS = 20
_WIDE = 32_767


@click.command("query")
@click.argument("dataset")
@click.argument("expression", default="")
@click.option("--limit", type=click.IntRange(0), help="Rows to print; 20 in a table, else all.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--columns",
    default=_COLUMNS,
    show_default=True,
    help="Columns of files and records, by commas.",
)
def command(dataset: str, expression: str, limit: int | None, form: str, columns: str) -> None:
    """Count and list the files of DATASET that match EXPRESSION.

    EXPRESSION is like "language == 'Fortran' and license == 'mit'", over the
    columns of files and records; without one, everything matches.
    """
    opened = open_dataset(dataset)
    found = opened.select(expression) if expression.strip() else opened
    names = [name.strip() for name in columns.split(",") if name.strip()]
    counts = {
        "images": len(found),
        "files": int(found.selection.file_id.size),
        "records": int(np.unique(found.selection.record_id).size),
    }
    if limit is None and form == "table":
        limit = _TABLE_ROWS
    _WRITERS[form](names, counts, islice(_rows(found, names, limit), limit))
    advice = suggest(opened, expression) if expression.strip() and not counts["files"] else None
    if advice is not None:
        click.echo(escape_text(advice), err=True)


def _rows(found: Dataset, names: list[str], limit: int | None) -> Iterator[list[Any]]:
    """Yield the values of each file, None where one is missing; in bounded memory."""
    total = found.selection.file_id.size if limit is None else limit
    for start in range(0, total, _BATCH):
        frame = found.columns(*names, start=start, stop=start + min(_BATCH, total - start))
        for row in frame.astype(object).itertuples(index=False):
            yield [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if value is None or value != value or str(value) == "<NA>" else value


def _write_table(names: list[str], counts: dict[str, int], rows: Iterator[list[Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        # As `Text`, whose brackets are not taken for rich's markup.
        table.add_row(*(Text(_spell(value)) for value in row))
    if table.row_count:
        # Cells are folded to fit a terminal, and left whole for a file or a pipe.
        width = None if sys.stdout.isatty() else _WIDE
        Console(highlight=False, width=width).print(table)
    click.echo(_summary(counts, table.row_count))


def _write_csv(names: list[str], counts: dict[str, int], rows: Iterator[list[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    shown = 0
    for row in rows:
        writer.writerow([_spell(value) for value in row])
        shown += 1
    click.echo(_summary(counts, shown), err=True)


def _write_json(names: list[str], counts: dict[str, int], rows: Iterator[list[Any]]) -> None:
    listed = [dict(zip(names, row, strict=True)) for row in rows]
    # ASCII only, so that nothing in a path reaches the terminal as it is.
    click.echo(json.dumps({"counts": counts, "rows": listed}, indent=1, default=int))


def _summary(counts: dict[str, int], shown: int) -> str:
    total = (
        f"{counts['files']:,} files with {counts['images']:,} images "
        f"in {counts['records']:,} records"
    )
    return total if shown == counts["files"] else f"{total}; {shown:,} shown"


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return escape_text("; ".join(map(str, value)))
    return "" if value is None else escape_text(str(value))


_WRITERS: dict[str, Callable[[list[str], dict[str, int], Iterator[list[Any]]], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
}
