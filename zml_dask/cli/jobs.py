"""The commands that compute over a finished dataset: search, derive, compress, export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import cache
from importlib import import_module
from typing import Any, get_args

import click
import pyarrow as pa
from dask.utils import format_bytes

from zml_dask.cli.options import SCRATCH, cluster_options, executor_of, names_cluster, progress_of
from zml_dask.cli.output import Shown, output_options, write_rows
from zml_dask.derived.compute import Recipe, Whole, derive_table
from zml_dask.derived.derive import table_of
from zml_dask.engine.executors import SerialExecutor
from zml_dask.errors import UsageError
from zml_dask.publish.export import JOBS, ExportOptions, check_formats, export
from zml_dask.publish.png import Grouping, PngOptions
from zml_dask.publish.squashfs import Compression
from zml_dask.publish.training import ImageForm
from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.query.grep import MATCH_SCHEMA, Match, compile_pattern, grep_on, grep_pieces
from zml_dask.store.layout import COLUMN_TYPES, LEVELS, derived_table
from zml_dask.store.repack import repack_on
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text, number_of

_MATCHES = 1_024


@click.command("grep")
@click.argument("dataset", type=click.Path())
@click.argument("pattern")
@click.option("--where", metavar="SQL", help="Search only files that fulfil a condition.")
@click.option("-i", "--ignore-case", is_flag=True, help="Ignore upper and lower case.")
@click.option("-F", "--fixed", is_flag=True, help="PATTERN is plain text, no regular expression.")
@output_options
@cluster_options
@click.pass_context
def grep_command(
    ctx: click.Context,
    /,
    dataset: str,
    pattern: str,
    where: str | None,
    ignore_case: bool,
    fixed: bool,
    limit: int | None,
    form: str | None,
    output: str | None,
    **values: Any,
) -> None:
    """Search the text of DATASET's files for PATTERN, line by line.

    The text is what the images hold: lines are cut at their width, tabs are spaces.
    """
    compiled = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    view = open_dataset(dataset).select(where)

    def write(pieces: Iterator[list[Match]]) -> Shown:
        return write_rows(_tables_of(pieces, limit), form, output, limit=limit)

    with progress_of(ctx) as progress:
        if names_cluster(values):
            with executor_of(values, progress, dataset)() as executor:
                shown = grep_on(view, compiled, executor, write, progress)
        else:
            shown = write(grep_pieces(view, compiled, progress))
    shown.say(number_of(line=shown.rows) + (" shown, there are more" if shown.cut else ""))


def _tables_of(pieces: Iterator[list[Match]], limit: int | None) -> Iterator[pa.Table]:
    """Yield matches soon: when there are many, or some and a piece without any."""
    yield MATCH_SCHEMA.empty_table()
    enough = _MATCHES if limit is None else min(_MATCHES, limit + 1)
    held: list[Match] = []
    for found in pieces:
        held += found
        if len(held) >= enough or (held and not found):
            yield _table_of(held)
            held = []
    yield _table_of(held)


def _table_of(matches: list[Match]) -> pa.Table:
    columns = {name: [getattr(m, name) for m in matches] for name in MATCH_SCHEMA.names}
    return pa.table(columns, schema=MATCH_SCHEMA)


@click.command("derive")
@click.argument("dataset", type=click.Path())
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
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
def derive_command(
    ctx: click.Context,
    /,
    dataset: str,
    names: tuple[str, ...],
    function: str | None,
    columns: tuple[str, ...],
    again: bool,
    **values: Any,
) -> None:
    """Compute tables from the files of DATASET.

    NAME is lines_of_code, is_generated, is_vendored, license_detected, predicted_language,
    near_duplicates, embedding, record_embedding, record_map, file_map, or of your own
    --function, whose --column is given as code=int32. Afterwards conditions name its columns:
    "lines_of_code.code > 10". The same command computes only the files that are new.
    """
    if function is not None and len(names) > 1:
        raise UsageError(
            f"--function computes one table, and {len(names)} are named: {', '.join(names)}"
        )
    tables = [_table_asked_for(name, function, columns) for name in dict.fromkeys(names)]
    lines = []
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(progress_of(ctx))
            open_executor = executor_of(values, progress, dataset, alone=True)
            # One cluster for all of them, opened when the first has something to do.
            opened = cache(lambda: stack.enter_context(open_executor()))
            for table in tables:
                found = derive_table(
                    dataset,
                    lambda: nullcontext(opened()),
                    table=table,
                    again=again,
                    progress=progress,
                )
                lines.append(_derived_line(found, table.name))
    finally:  # after the progress bar, with which they would share a line
        for line in lines:
            click.echo(line)


def _derived_line(found: Dataset, name: str) -> str:
    written, rows = found.info.derived[name], found.snapshot.rows(derived_table(name))
    failed = (
        f"; the function failed for {written.errors:,}, see {name}.error" if written.errors else ""
    )
    return f"{name}: {rows:,} {written.of}, columns {', '.join(dict(written.columns))}{failed}"


def _table_asked_for(name: str, function: str | None, columns: tuple[str, ...]) -> Recipe | Whole:
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
def repack_command(ctx: click.Context, /, dataset: str, level: int, **values: Any) -> None:
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
@SCRATCH
@click.pass_context
def export_command(
    ctx: click.Context, /, dataset: str, target: str, formats: str, where: str | None, **values: Any
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
    view = open_dataset(dataset).select(where)
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
    alone = [name for name in chosen if name not in JOBS]
    with progress_of(ctx) as progress:
        if alone and names_cluster(values):
            progress.say(
                f"note: one process writes {' and '.join(alone)}; --workers and --cluster have no "
                "effect on that"
            )
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
