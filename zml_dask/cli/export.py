"""``zml-dask export``: a committed dataset, or a selection of it, in other forms."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import click

from zml_dask.cli.building import cluster_options, executor_of, progress_of
from zml_dask.engine.executors import SerialExecutor
from zml_dask.publish.export import JOBS, ExportOptions, check_formats, export
from zml_dask.publish.png import Grouping, PngOptions
from zml_dask.publish.samples import ImageForm
from zml_dask.publish.squashfs import Compression
from zml_dask.query.dataset import open_dataset


@click.command("export")
@click.argument("dataset", type=click.Path())
@click.argument("target", metavar="DIR", type=click.Path())
@click.option(
    "--format",
    "formats",
    required=True,
    metavar="FORMAT,...",
    help="What to write, of the formats above.",
)
@click.option("--where", metavar="SQL", help="Only the files that fulfil a condition.")
@cluster_options
@click.option(
    "--by",
    type=click.Choice(get_args(Grouping)),
    default="extension",
    show_default=True,
    help="What PNGs are grouped by.",
)
@click.option("--tar", is_flag=True, help="One tar of PNGs per group instead of a folder.")
@click.option(
    "--depth",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Bits per pixel of a PNG; a larger code point becomes the largest value.",
)
@click.option(
    "--min-lines",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Leave out PNGs of fewer lines.",
)
@click.option(
    "--image",
    type=click.Choice(get_args(ImageForm)),
    default="npy",
    show_default=True,
    help="Format of images in shards of webdataset.",
)
@click.option(
    "--compression",
    type=click.Choice(get_args(Compression)),
    default="gzip",
    show_default=True,
    help="Of the squashfs image.",
)
@click.option(
    "--columns",
    default="",
    metavar="NAME,...",
    help="More columns of parquet and of webdataset's JSON, such as lines_of_code.code.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Local folder for temporary files.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dataset: str,
    target: str,
    formats: str,
    where: str | None,
    **values: Any,
) -> None:
    """Write DATASET, or the files that match a condition, into DIR in another form.

    \b
    dataset             a dataset of the same form
    pickle, hdf5, tree  the files of 2018: <id>/images_<id>.pkl, images_<id>.h5,
                        tree_<id>.json, each with metadata_<id>.pkl
    parquet             one row per file: its text, and what its record says
    webdataset          tars of samples: image, text and JSON
    squashfs            the files of 2018 in one image, DIR/<dataset>.sqsh (or
                        DIR, where it ends in .sqsh), and its md5 beside it
    png                 grey images, a folder or a tar for each extension or
                        language
    croissant           metadata for machine learning, as JSON-LD
    atlas               the map of records as Parquet for embedding-atlas

    All but squashfs, croissant and atlas are written by several processes where
    --workers or --cluster says so. An export of datasets, and of a whole dataset's pickles and
    HDF5 files, goes on where it was cut short.
    """  # noqa: D301 - click wants the character, to leave the table's lines as they are
    chosen = [name.strip() for name in formats.split(",")]
    check_formats(chosen)
    whole = open_dataset(dataset)
    view = whole if where is None else whole.select(where)
    options = ExportOptions(
        png=PngOptions(
            by=values["by"],
            tar=values["tar"],
            depth=16 if values["depth"] == "16" else 8,
            min_lines=values["min_lines"],
        ),
        image=values["image"],
        compression=values["compression"],
        columns=[name.strip() for name in values["columns"].split(",") if name.strip()],
        scratch=values["scratch"],
    )
    with progress_of(ctx) as progress:
        open_executor = (
            executor_of(values, progress, dataset, alone=True)
            if set(chosen) & set(JOBS)
            else lambda: nullcontext(SerialExecutor())
        )
        with open_executor() as executor:
            lines = export(view, target, chosen, options, executor=executor, progress=progress)
    # Printed after the progress bar, with which it would share a line.
    for line in lines:
        click.echo(line)
