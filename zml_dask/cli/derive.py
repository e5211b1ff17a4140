"""``zml-dask derive``: a table computed from the files of a dataset."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from zml_dask.cli.building import cluster_options, executor_of, progress_of
from zml_dask.derived.derive import table_of
from zml_dask.derived.job import Recipe, Whole, derive_table
from zml_dask.errors import UsageError
from zml_dask.store.layout import COLUMN_TYPES, derived_table


@click.command("derive")
@click.argument("dataset", type=click.Path())
@click.argument("name")
@click.option(
    "--function", help="A function of text, images or row that can be imported: module:function."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=TYPE",
    help="A column that it returns; may be repeated.",
)
@click.option("--again", is_flag=True, help="Compute all rows again, not only those of new files.")
@cluster_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dataset: str,
    name: str,
    function: str | None,
    columns: tuple[str, ...],
    again: bool,
    **values: Any,
) -> None:
    """Compute the table NAME from the files of DATASET.

    NAME is lines_of_code, is_generated, is_vendored, license_detected, predicted_language,
    near_duplicates, embedding, record_embedding, record_map, file_map, or of your own
    --function, whose --column is given as code=int32. Afterwards conditions name its columns:
    "lines_of_code.code > 10". The same command computes only the files that are new.
    """
    table = _table(name, function, columns)
    with progress_of(ctx) as progress:
        open_executor = executor_of(values, progress, dataset, alone=True)
        found = derive_table(dataset, open_executor, table=table, again=again, progress=progress)
    written = found.info.derived[name]
    rows = found.snapshot.rows(derived_table(name))
    failed = (
        f"; the function failed for {written.errors:,}, see {name}.error" if written.errors else ""
    )
    click.echo(f"{name}: {rows:,} {written.of}, columns {', '.join(dict(written.columns))}{failed}")


def _table(name: str, function: str | None, columns: tuple[str, ...]) -> Recipe | Whole:
    if function is None:
        return table_of(name)
    module, _, attribute = function.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--function {function!r} cannot be imported ({error}); write module:function, of a "
            "module on PYTHONPATH"
        ) from error
    pairs = [column.partition("=") for column in columns]
    for column, _, kind in pairs:
        if kind not in COLUMN_TYPES:
            raise UsageError(
                f"--column {column}={kind}: give NAME=TYPE, of the types {', '.join(COLUMN_TYPES)}"
            )
    return table_of(name, found, {column: kind for column, _, kind in pairs})
