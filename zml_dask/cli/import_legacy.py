"""``zml-dask import-legacy``: convert the 2018 dataset, a folder or a squashfs image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zml_dask.cli.building import cluster_options, executor_of, progress_of
from zml_dask.pipeline.importing import import_legacy
from zml_dask.text_safety import escape_text, number_of


@click.command("import-legacy")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path())
@cluster_options
@click.option("--retry-failed", is_flag=True, help="Try again what failed permanently.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Local folder for temporary files.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: Path,
    dataset: str,
    retry_failed: bool,
    scratch: Path | None,
    **values: Any,
) -> None:
    """Import the 2018 dataset SOURCE into DATASET.

    SOURCE is a folder of records (<id>/images_<id>.pkl, images_<id>.h5,
    metadata_<id>.pkl) or a squashfs image of one, which is read without mounting
    it. Pickles are read without being run. If interrupted, run the same command
    again to continue.
    """
    with progress_of(ctx) as progress:
        result = import_legacy(
            source,
            dataset,
            executor_of(values, progress, dataset),
            retry_failed=retry_failed,
            scratch=scratch,
            progress=progress,
        )
    passed_over = f", {result.already:,} were done before" if result.already else ""
    click.echo(
        f"{escape_text(dataset)}: {result.imported:,} of "
        f"{number_of(record=result.found, image=result.images)}{passed_over}"
    )
    if result.failed:
        click.echo(
            f"failed: {number_of(record=result.failed)} "
            f"(zml-dask status {escape_text(dataset)} --failures says more)"
        )
