"""``zml-dask sql``: any SELECT over a dataset's tables."""

from __future__ import annotations

import click
import pyarrow as pa

from zml_dask.cli.rows import output_options, write_rows
from zml_dask.query.dataset import open_dataset
from zml_dask.text_safety import number_of


@click.command("sql")
@click.argument("dataset", type=click.Path())
@click.argument("query")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Give up after this many seconds."
)
@output_options
def command(
    dataset: str,
    query: str,
    timeout: float | None,
    limit: int | None,
    form: str,
    output: str | None,
) -> None:
    """Answer QUERY, a SELECT over the tables of DATASET.

    The tables are files, records and failures: "select language, count(*) from files
    group by all". QUERY can do nothing but read them.
    """
    opened = open_dataset(dataset)
    batches = opened.ask(query, timeout=timeout)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    shown = write_rows(tables, form, output, limit=limit)
    shown.say(number_of(row=shown.rows) + (" shown, there are more" if shown.cut else ""))
