"""``zml-dask show``: a record's tree, or one of its files as text and as images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import pyarrow.compute as pc
from dask.utils import format_bytes
from rich.console import Console

from zml_dask.arguments import nearest
from zml_dask.cli.drawing import draw
from zml_dask.errors import UsageError, ZmlError
from zml_dask.query.file_images import image_rows, read_text
from zml_dask.query.selection import image_lines
from zml_dask.query.tree import Tree, build_tree
from zml_dask.raster.images import Images, to_text
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.text_safety import escape_lines, escape_text, number_of

Row: TypeAlias = dict[str, Any]

_HASHES = ("sha256", "sha1_git", "text_sha256")
"""Columns of files with most of their bytes, of which one value cannot be read alone."""


class _RecordNumber(click.ParamType[int]):
    """A record's number, or its DOI or page's address, which end with it."""

    name = "record"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Extract the number."""
        found = re.fullmatch(r"(?:.*/(?:zenodo\.)?|zenodo\.)?(\d{1,18})", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is neither a record's number nor its DOI", param, ctx)
        return int(found[1])


@click.command("show")
@click.argument("dataset", type=click.Path())
@click.argument("record", type=_RecordNumber())
@click.argument("path", required=False)
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG instead.")
@click.option("--image", "number", type=click.IntRange(0), help="Only this image, from 0.")
@click.option("--text/--no-text", default=True, help="Print the text too.")
def command(
    dataset: str, record: int, path: str | None, png: Path | None, number: int | None, text: bool
) -> None:
    """Show RECORD of DATASET: its tree, or the file PATH as text and as images.

    RECORD is its number or DOI. PATH is as the tree prints it; the end of one will
    do where only one file has it.
    """
    snapshot = Snapshot.open(dataset)
    row = snapshot.record(record)
    columns = [name for name in FILES_SCHEMA.names if name not in _HASHES]
    files = snapshot.scan("files", columns, pc.field("record_id") == record).to_pylist()
    if path is None:
        if png is not None or number is not None:
            raise click.UsageError("--png and --image need the PATH of a file")
        _print_record(row, files)
    else:
        _show_file(snapshot, _find(files, path, record), png, number, text=text)


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
