"""``zml-dask grep``: lines of a dataset's files in which a pattern is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import click
import pyarrow as pa

from zml_dask.cli.building import cluster_options, executor_of, names_cluster, progress_of
from zml_dask.cli.rows import output_options, write_rows
from zml_dask.query.dataset import open_dataset
from zml_dask.query.grep import MATCH_SCHEMA, Match, compile_pattern, grep, grep_on
from zml_dask.text_safety import number_of

_BATCH = 1_024


@click.command("grep")
@click.argument("dataset", type=click.Path())
@click.argument("pattern")
@click.option("--where", default="", help="Search only files that fulfil this SQL condition.")
@click.option("-i", "--ignore-case", is_flag=True, help="Ignore upper and lower case.")
@click.option("-F", "--fixed", is_flag=True, help="PATTERN is plain text, no regular expression.")
@output_options
@cluster_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dataset: str,
    pattern: str,
    where: str,
    ignore_case: bool,
    fixed: bool,
    limit: int | None,
    form: str,
    output: str | None,
    **values: Any,
) -> None:
    """Search the text of DATASET's files for PATTERN, line by line.

    The text is what the images hold: lines are cut at their width, tabs are spaces.
    """
    compiled = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    opened = open_dataset(dataset)
    view = opened.select(where) if where.strip() else opened
    if names_cluster(values):
        with progress_of(ctx) as progress, executor_of(values, progress, dataset)() as executor:
            matches: Iterable[Match] = grep_on(view, compiled, executor, progress)
    else:
        matches = grep(view, compiled)
    shown = write_rows(_tables(matches), form, output, limit=limit)
    shown.say(number_of(line=shown.rows) + (" shown, there are more" if shown.cut else ""))


def _tables(matches: Iterable[Match]) -> Iterator[pa.Table]:
    yield MATCH_SCHEMA.empty_table()
    found = iter(matches)
    while several := list(islice(found, _BATCH)):
        columns = {name: [getattr(m, name) for m in several] for name in MATCH_SCHEMA.names}
        yield pa.table(columns, schema=MATCH_SCHEMA)
