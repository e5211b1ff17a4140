"""``zml-dask similar``: what is most similar to a record, a file or a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from zml_dask.cli.rows import output_options, write_rows
from zml_dask.errors import UsageError
from zml_dask.query.dataset import open_dataset


@click.command("similar")
@click.argument("dataset", type=click.Path())
@click.argument("what")
@click.option(
    "--by",
    type=click.Choice(["content", "tree"]),
    default="content",
    show_default=True,
    help="Compare records by the words of their files, or by the names of these.",
)
@click.option("--where", metavar="SQL", help="Find only files that fulfil a condition.")
@output_options
def command(
    dataset: str,
    what: str,
    by: str,
    where: str | None,
    output: str | None,
    form: str,
    limit: int | None,
) -> None:
    """List what is most similar to WHAT in DATASET, the most similar first.

    WHAT is the number of a record, which finds records; or a file on this machine, '-' for
    standard input, or the path of a file in DATASET, which find files. The tables
    'record_embedding' and 'embedding' have to be derived: zml-dask derive DATASET
    record_embedding.
    """
    ds = open_dataset(dataset)
    view = ds if where is None else ds.select(where)
    given: dict[str, Any] = {"k": 10 if limit is None else max(1, limit), "by": by}
    if what.isdecimal():
        given["record"] = int(what)
    elif what == "-" or Path(what).is_file():
        try:
            with click.open_file(what, encoding="utf-8", errors="replace") as stream:
                given["text"] = stream.read()
        except OSError as error:
            raise UsageError(f"{what} cannot be read: {error.strerror}") from error
    else:
        given["file"] = what
    found = view.similar(**given)
    found["similarity"] = found["similarity"].round(4)
    write_rows(iter([pa.Table.from_pandas(found, preserve_index=False)]), form, output, limit=limit)
