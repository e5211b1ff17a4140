"""``zml-dask catalogue``: the records of a catalogue, or those that match a condition."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

import click
import pyarrow as pa
from dask.utils import format_bytes

from zml_dask.cli.rows import write_rows
from zml_dask.engine.temporary import temporary_folder
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.table import row_of
from zml_dask.text_safety import escape_text, number_of

_COLUMNS: Final = ("record_id", "created", "license", "archive_bytes", "title")
_ROWS: Final = 20


@click.command("catalogue")
@click.argument("catalogue", type=click.Path())
@click.argument("where", required=False)
@click.option("--limit", type=click.IntRange(0), help="Rows to print; 20 in a table, else all.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What to print: a table, or one JSON record per line.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the records into a catalogue of their own: .jsonl or .parquet.",
)
def catalogue_command(
    catalogue: str, where: str | None, limit: int | None, form: str, output: Path | None
) -> None:
    """Count and list the records of CATALOGUE that match the SQL condition WHERE.

    WHERE is like "license = 'mit' and archive_bytes < 1e6", over the columns of a
    Parquet catalogue, which a catalogue of any other form is given, too. With
    --output they become a catalogue themselves: to build a part, or to turn JSON
    Lines into Parquet, which is opened in a fraction of the time.
    """
    with temporary_folder("catalogue") as folder:
        opened = Catalogue.open(catalogue, into=folder / "catalogue.jsonl")
        found = opened if where is None else opened.where(where)
        if output is not None:
            found.write(output)
        elif form == "json":
            for hit in islice(found.hits(), limit):
                click.echo(json.dumps(json.loads(hit), sort_keys=True, separators=(",", ":")))
        else:
            most = _ROWS if limit is None else limit
            write_rows(iter([_table(islice(found.hits(), most))]), "table", None, limit=most)
        size = format_bytes(int(found.refs.archive_bytes.sum()))
        counted = number_of(record=len(opened.refs))
        found_of = f"{len(found.refs):,} of {counted}" if where is not None else counted
        into = f", written to {output}" if output is not None else ""
        click.echo(
            f"{found_of} from {escape_text(found.api_url)}, archives of {size}{into}",
            err=form == "json",
        )


def _table(hits: Iterable[bytes]) -> pa.Table:
    rows = [{name: row[name] for name in _COLUMNS} for row in map(row_of, hits)]
    for row in rows:
        row["created"] = row["created"] and row["created"].date()
    return pa.Table.from_pylist(rows)
