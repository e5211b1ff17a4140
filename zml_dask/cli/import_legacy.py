"""``zml-dask import-legacy``: the 2018 dataset, a folder or a squashfs image, into the new form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zml_dask.cli.building import cluster_options, progress_of
from zml_dask.cli.computing import compute_of
from zml_dask.legacy.import_record import ImportedRecord
from zml_dask.legacy.importing import ImportOptions, import_legacy
from zml_dask.legacy.sources import open_source
from zml_dask.pipeline.committing import software_versions
from zml_dask.pipeline.lock import dataset_lock
from zml_dask.pipeline.progress import Counts
from zml_dask.pipeline.record_row import row_of_hit
from zml_dask.store.commit import CommitOptions
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text


@click.command("import-legacy")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dataset")
@cluster_options
@click.option("--retry-failed", is_flag=True, help="Try again what failed for good.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Local folder for what is at work.",
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
    it. Pickles are read without being run. Interrupted, the same command goes on
    where it stopped.
    """
    open_source(source)  # a wrong path is told before anything is made or locked
    storage = Storage.open(dataset)
    with progress_of(ctx) as progress:
        imported = Counter[str]()

        def tell(done: int, total: int, last: Sequence[ImportedRecord]) -> None:
            imported["failed"] += sum(record.failure is not None for record in last)
            imported["files"] += sum(record.n_files for record in last)
            imported["images"] += sum(record.n_images for record in last)
            counts = Counts(done, total, imported["failed"], imported["files"], imported["images"])
            progress.update("records", counts)

        with (
            dataset_lock(storage, on_wait=progress.say),
            compute_of(values, progress, dataset, alone=False) as compute,
        ):
            result = import_legacy(
                source,
                storage,
                describe=row_of_hit,
                options=ImportOptions(retry_failed=retry_failed, scratch=scratch),
                notes=CommitOptions(software=software_versions()),
                compute=compute,
                progress=tell,
            )
    passed_over = f", {result.already:,} were done before" if result.already else ""
    click.echo(
        f"{escape_text(dataset)}: {result.imported:,} of {result.found:,} records, "
        f"{result.images:,} images{passed_over}"
    )
    if result.failed:
        click.echo(
            f"failed: {result.failed:,} records "
            f"(zml-dask status {escape_text(dataset)} --failures says more)"
        )
