"""``zml-dask build``: build a dataset from a catalogue, on this machine or a cluster."""

from __future__ import annotations

from typing import Any

import click

from zml_dask.cli.building import (
    build_options,
    cluster_options,
    executor_of,
    options_of,
    print_result,
    progress_of,
)
from zml_dask.pipeline.build import build_on
from zml_dask.store.layout import DEFAULT_LEVEL, LEVELS


@click.command("build")
@click.argument("catalogue", type=click.Path())
@click.argument("dataset", type=click.Path())
@cluster_options
@build_options
@click.option("--limit", type=click.IntRange(1), help="Only the catalogue's first N records.")
@click.option(
    "--level",
    type=click.IntRange(LEVELS[0], LEVELS[-1]),
    help=f"Compression of a new dataset: 1 is fast, 9 small.  [default: {DEFAULT_LEVEL}]",
)
@click.option("--where", metavar="SQL", help="Only records that match this condition.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    catalogue: str,
    dataset: str,
    limit: int | None,
    where: str | None,
    **values: Any,
) -> None:
    """Build the records of CATALOGUE into DATASET.

    CATALOGUE is what 'zml-dask harvest' wrote, a part or a copy of that, other JSON
    of records, or a records.pkl of 2018. DATASET
    is a folder or a URL such as s3://bucket/name. If interrupted, run the same
    command again to continue; nothing is downloaded twice.
    """
    options = options_of(values)
    with progress_of(ctx) as progress:
        result = build_on(
            catalogue,
            dataset,
            executor_of(values, progress, dataset),
            options=options,
            limit=limit,
            where=where,
            progress=progress,
        )
    print_result(result)
