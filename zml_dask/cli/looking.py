"""The commands that show a dataset: a record, the state, a report, the viewer."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import pyarrow.compute as pc
from dask.utils import format_bytes
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zml_dask.analysis.counts import UNNAMED, count
from zml_dask.analysis.report import render
from zml_dask.arguments import nearest
from zml_dask.cli.drawing import draw
from zml_dask.cli.options import progress_of
from zml_dask.errors import UsageError, ZmlError
from zml_dask.pipeline.status import Amount, Cost, FailureGroup, Status, read_status
from zml_dask.publish.viewer import ViewerServer, export_page
from zml_dask.query.describe import Tree, build_tree
from zml_dask.query.file_images import image_rows, read_text
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import Images, to_text
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.text_safety import as_argument, escape_lines, escape_text, number_of

Row: TypeAlias = dict[str, Any]

_HASHES = ("sha256", "sha1_git", "text_sha256")
"""Columns of files with most of their bytes, of which one value cannot be read alone."""

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command("show")
@click.argument("dataset", type=click.Path())
@click.argument("record")
@click.argument("path", required=False)
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG instead.")
@click.option("--image", "number", type=click.IntRange(0), help="Only this image, from 0.")
@click.option("--text/--no-text", default=True, help="Print the text too.")
def show_command(
    dataset: str, record: str, path: str | None, png: Path | None, number: int | None, text: bool
) -> None:
    """Show RECORD of DATASET: its tree, or the file PATH as text and as images.

    RECORD is its number or DOI. PATH is as the tree prints it; the end of one will
    do where only one file has it.
    """
    snapshot = Snapshot.open(dataset)
    row = snapshot.record(record)
    record_id = row["record_id"]
    columns = [name for name in FILES_SCHEMA.names if name not in _HASHES]
    files = snapshot.scan("files", columns, pc.field("record_id") == record_id).to_pylist()
    if path is None:
        if png is not None or number is not None:
            raise click.UsageError("--png and --image need the PATH of a file")
        _print_record(row, files)
    else:
        _show_file(snapshot, _find(files, path, record_id), png, number, text=text)


def _print_record(row: Row, files: list[Row]) -> None:
    """Print a record's metadata, and its files as a tree."""
    title = row["title"] or "(no title)"
    click.echo(escape_text(f"{row['record_id']}  {title}"))
    for name in ("doi", "version", "publication_date", "license", "repository", "origin"):
        if row[name]:
            click.echo(escape_text(f"{name.replace('_', ' ')}: {row[name]}"))
    click.echo(f"{number_of(file=row['n_files'], image=row['n_images'])}\n")
    by_path = {file["path"]: file for file in files}
    tree = build_tree((file["path"], file["size"]) for file in files)
    for line in _tree_lines(tree, by_path):
        click.echo(line)


def _tree_lines(tree: Tree, files: dict[str, Row]) -> Iterator[str]:
    """Yield one line per folder or file, indented by depth."""
    # By a stack of our own: a path may be of any depth.
    waiting = [(name, "", 0, child) for name, child in reversed(tree.items())]
    while waiting:
        name, above, depth, child = waiting.pop()
        shown = f"{'  ' * depth}{escape_text(name)}"
        if isinstance(child, dict):
            yield f"{shown.removesuffix('/')}/"
            inside = f"{above}{name.removesuffix('/')}/"
            waiting += [(below, inside, depth + 1, it) for below, it in reversed(child.items())]
        else:
            yield f"{shown}  {_fate(files.get(above + name), child)}"


def _fate(file: Row | None, size: int | None) -> str:
    """Describe the size, language and images or status of a file."""
    words = [format_bytes(size)] if size is not None else []
    if file is not None:
        words += [file["language"]] if file["language"] else []
        is_ok = file["status"] == "ok"
        count = number_of(image=file["n_images"])
        words += [count if is_ok else file["status"].replace("_", " ")]
    return escape_text(f"({', '.join(words)})") if words else ""


def _find(files: list[Row], path: str, record_id: int) -> Row:
    """Return the file with this path, or the only one whose path ends with it."""
    exact = [file for file in files if file["path"] == path]
    found = exact or [file for file in files if file["path"].endswith(f"/{path}")]
    if not found:
        names = [file["name"] for file in files]
        advice = nearest(path.rpartition("/")[2], names, "leave PATH out to see its tree")
        raise UsageError(f"record {record_id} holds no file {escape_text(path)!r}; {advice}")
    if len(found) > 1 and not exact:
        others = ", ".join(escape_text(file["path"]) for file in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(
            f"several files end in {escape_text(path)!r} ({others}{more}): give more of the path"
        )
    return found[0]


def _show_file(
    snapshot: Snapshot, file: Row, png: Path | None, number: int | None, *, text: bool
) -> None:
    """Print a file as text and as images, or write its images as one PNG."""
    if not file["n_images"]:
        why = f": {file['reason']}" if file["reason"] else ""
        raise UsageError(
            escape_text(
                f"{file['path']} has no image, it is {file['status'].replace('_', ' ')}{why}"
            )
        )
    file_id = np.array([file["file_id"]], np.int64)
    file |= snapshot.take("files", file_id, ["text_sha256"]).to_pylist()[0]
    rows = image_rows(snapshot.info, file)
    segment, images = rows - file["first_image"], snapshot.images.read(rows)
    read_text(file, images, segment)  # which checks it
    counts = image_lines(file["n_lines"], segment, snapshot.info.shape.height)
    if number is not None:
        if number >= len(images):
            raise UsageError(
                f"{escape_text(file['path'])} has {number_of(image=len(images))}, "
                f"0 to {len(images) - 1:,}"
            )
        images, counts = images[number : number + 1], counts[number : number + 1]
    if png is not None:
        _write_png(images.reshape(-1, images.shape[2]), png)
        click.echo(f"{png}: {images.shape[2]} by {len(images) * images.shape[1]} pixels")
        return
    click.echo(f"{escape_text(file['path'])}  {_fate(file, file['size'])}\n")
    if text:
        click.echo(escape_lines(to_text(images, counts)))
    console = Console()
    for image in images:
        draw(image, console)
        console.print()


def _write_png(pixels: Images, target: Path) -> None:
    """Write images below one another as one grey PNG."""
    # Imported here: Pillow takes its time, and only this option needs it.
    from zml_dask.publish.png import encode_png

    try:
        target.write_bytes(encode_png(pixels))
    except OSError as error:
        raise ZmlError(f"{target} cannot be written: {error.strerror}") from error


@click.command("status")
@click.argument("dataset", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--failures", is_flag=True, help="List what failed by kind, with examples and advice."
)
@click.option("--catalogue", help="Compare with this catalogue; by default the last one built.")
def status_command(dataset: str, as_json: bool, failures: bool, catalogue: str | None) -> None:
    """Show how far DATASET is, without changing it."""
    status = read_status(dataset, catalogue)
    if as_json:
        click.echo(json.dumps(asdict(status), indent=1))
    elif failures:
        _print_failures(status.failures)
    else:
        _print_status(status)


def _print_status(status: Status) -> None:
    click.echo(escape_text(status.dataset))
    commits = "1 commit" if status.commits == 1 else f"{status.commits:,} commits"
    click.echo(f"committed  {_amount(status.committed)}, in {commits}")
    if status.left_out.files:
        click.echo(f"too large  {status.left_out}")
    if status.without_images:
        click.echo(f"no images  {status.without_images:,} of the committed records")
    click.echo(f"staged     {_amount(status.staged)}")
    failed = ", ".join(f"{count:,} {kind}" for kind, count in status.failed.items())
    click.echo(f"failed     {escape_text(failed) or 'none'}")
    if status.to_do is None:
        click.echo("to do      unknown: name the catalogue with --catalogue")
    else:
        click.echo(f"to do      {status.to_do:,} of {escape_text(status.catalogue or '')}")
    if status.running is not None:
        click.echo(f"running    {escape_text(status.running)} is building")
    if status.arrays:
        _print_costs([*status.arrays, *status.tables])
    if status.failed:
        click.echo(
            f"what failed, and what to do: zml-dask status {as_argument(status.dataset)} --failures"
        )


def _amount(amount: Amount) -> str:
    return number_of(record=amount.records, file=amount.files, image=amount.images)


def _print_costs(costs: Iterable[Cost]) -> None:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("name")
    for name in ("rows", "stored", "size", "ratio", "chunks", "shards"):
        table.add_column(name, justify="right")
    table.add_column("codec")
    for cost in costs:
        table.add_row(
            Text(escape_text(cost.name)),
            f"{cost.rows:,}",
            format_bytes(cost.stored),
            format_bytes(cost.size),
            f"{cost.ratio:.1f}",
            f"{cost.chunks:,}",
            f"{cost.shards:,}",
            Text(escape_text(cost.codec)),
        )
    # Elsewhere than on a terminal a line is as long as it is.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def _print_failures(groups: Iterable[FailureGroup]) -> None:
    printed = False
    for group in groups:
        printed = True
        kept = f", {group.permanent:,} of them permanent" if group.permanent else ""
        kept = ", permanent" if group.permanent == group.records else kept
        click.echo(escape_text(f"{group.records:,} {group.kind}{kept}: {group.advice}"))
        for row in group.examples:
            tries = "once" if row.attempts == 1 else f"{row.attempts} times"
            line = f"record {row.record_id}, at {row.stage}, tried {tries}: {row.message}"
            click.echo(f"    {escape_text(line)}")
    if not printed:
        click.echo("nothing has failed")


@click.command("report")
@click.argument("dataset", type=click.Path())
@click.option(
    "--output", type=_FILE, default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--json", "json_file", type=_FILE, help="Also write every number as JSON here.")
@click.option("--parquet", "parquet_file", type=_FILE, help="Also write every number as Parquet.")
@click.option(
    "--viewer",
    help="Address of the viewer's page, as seen from the report (viewer/index.html): names in "
    "the report become links to their images.",
)
@click.pass_context
def report_command(
    ctx: click.Context,
    /,
    dataset: str,
    output: Path,
    json_file: Path | None,
    parquet_file: Path | None,
    viewer: str | None,
) -> None:
    """Write a page about DATASET: counts by language and extension, failures, a mosaic."""
    for wanted in (output, json_file, parquet_file):
        if wanted is not None and not wanted.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {escape_text(str(wanted.parent))!r}")
    with progress_of(ctx) as progress:
        numbers = count(dataset, progress)
    output.write_text(render(dataset, numbers, viewer), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(numbers.to_json() + "\n", encoding="utf-8")
    if parquet_file is not None:
        numbers.write_parquet(parquet_file)
    totals = numbers.totals
    languages = set(numbers.tables["by_language"]["language"]) - {UNNAMED}
    click.echo(
        f"{escape_text(str(output))}: "
        + number_of(record=totals["records"], file=totals["files"], image=totals["images"])
        + f" of {number_of(language=len(languages))}"
    )


@click.command("view")
@click.argument("dataset", type=click.Path())
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 chooses a free one.")
@click.option("--browser/--no-browser", default=True, help="Open a browser or not.")
@click.option(
    "--export",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of serving, write the page here for any web host that answers ranges.",
)
@click.option("--data-url", help="URL at which the exported page finds DATASET.")
def view_command(
    dataset: str, port: int, browser: bool, directory: Path | None, data_url: str | None
) -> None:
    """Browse the images of DATASET and their code on a local page."""
    if directory is not None:
        page = export_page(dataset, directory, data_url)
        click.echo(f"{escape_text(str(page))}: the viewer; serve it together with the dataset")
        return
    with _serve(dataset, port) as server:
        click.echo(f"{server.url} shows {escape_text(dataset)}; stop with Ctrl-C")
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")


def _serve(dataset: str, port: int) -> ViewerServer:
    try:
        return ViewerServer(dataset, port)
    except OSError as error:
        raise ZmlError(
            f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; take another with --port"
        ) from error
