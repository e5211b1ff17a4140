"""``zml-dask repack``: compress a finished dataset again."""

from __future__ import annotations

from typing import Any

import click
from dask.utils import format_bytes

from zml_dask.cli.building import cluster_options, executor_of, progress_of
from zml_dask.store.layout import LEVELS
from zml_dask.store.repack import repack_on
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text, number_of


@click.command("repack")
@click.argument("dataset", type=click.Path())
@click.option(
    "--level",
    type=click.IntRange(LEVELS[0], LEVELS[-1]),
    default=LEVELS[-1],
    show_default=True,
    help="Compression level: 1 is fast, 9 is small.",
)
@cluster_options
@click.pass_context
def command(ctx: click.Context, /, dataset: str, level: int, **values: Any) -> None:
    """Compress the images of DATASET again, at another level.

    Images, tables and row numbers stay as they are, and DATASET can be read meanwhile.
    If interrupted, run the same command again to continue. Later commits compress at the
    new level, too.
    """
    storage = Storage.open(dataset)
    with progress_of(ctx) as progress:
        executor = executor_of(values, progress, dataset, alone=True)
        done = repack_on(storage, executor, level, progress=progress)
    url, images = escape_text(storage.url), done.info.counts.images
    size = f"{format_bytes(done.after)}, {done.after / max(images, 1):,.0f} bytes per image"
    if done.level == level:
        click.echo(f"nothing to do: {url} is compressed at level {level}, {size}")
        return
    share = done.after / done.before - 1
    click.echo(f"{url}: {number_of(image=images)} at level {level}, {size} ({share:+.0%})")
