"""``zml-dask export``: a committed dataset in other forms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import click

from zml_dask.cli.building import cluster_options, executor_of, progress_of
from zml_dask.engine.progress import BuildProgress, Counts
from zml_dask.errors import UsageError
from zml_dask.legacy.committed import CommittedRecords
from zml_dask.legacy.export import export_dataset, export_record, parse_formats
from zml_dask.legacy.record import LegacyFormat
from zml_dask.publish.png import Grouping, PngOptions, export_png
from zml_dask.publish.squashfs import Compression, write_squashfs
from zml_dask.store.storage import Storage

_LEGACY = get_args(LegacyFormat)
_FORMATS = (*_LEGACY, "squashfs", "png", "croissant")


@click.command("export")
@click.argument("dataset")
@click.argument("target", metavar="DIR")
@click.option(
    "--format",
    "formats",
    required=True,
    metavar="|".join(_FORMATS),
    help="What to write; several separated by commas.",
)
@cluster_options
@click.option(
    "--by",
    type=click.Choice(get_args(Grouping)),
    default="extension",
    show_default=True,
    help="What PNGs are grouped by.",
)
@click.option("--tar", is_flag=True, help="One tar of PNGs a group, not a folder.")
@click.option(
    "--depth",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Bits a pixel of a PNG; a code point beyond becomes the largest value.",
)
@click.option(
    "--min-lines",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Leave out PNGs of fewer lines.",
)
@click.option(
    "--compression",
    type=click.Choice(get_args(Compression)),
    default="gzip",
    show_default=True,
    help="Of the squashfs image.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Local folder for files at work.",
)
@click.pass_context
def command(ctx: click.Context, /, dataset: str, target: str, formats: str, **values: Any) -> None:
    """Write DATASET into DIR in another form.

    \b
    pickle, hdf5, tree  the files of 2018: <id>/images_<id>.pkl, images_<id>.h5,
                        tree_<id>.json, each with metadata_<id>.pkl
    squashfs            those files in one image, DIR/<dataset>.sqsh (or DIR,
                        where it ends in .sqsh), and its md5 beside it
    png                 grey images, a folder or a tar for each extension or
                        language
    croissant           metadata for machine learning, as JSON-LD

    Pickles and HDF5 files are written by several processes where --workers or
    --cluster says so, and an export that was cut short goes on where it stopped.
    """  # noqa: D301 - click wants the character, to leave the table's lines as they are
    chosen = _chosen(formats)
    if chosen != ["croissant"] and Storage.open(dataset).url == Storage.open(target).url:
        raise UsageError(f"{target} is the dataset itself; give another folder to export into")
    legacy = [name for name in chosen if name in _LEGACY]
    # Said when the bar has gone: it would share its line.
    results = []
    with progress_of(ctx) as progress:
        if legacy:
            results.append(_export_legacy(dataset, target, legacy, values, progress))
        results += [
            _OTHERS[name](dataset, target, values, progress) for name in chosen if name in _OTHERS
        ]
    for line in results:
        click.echo(line)


def _chosen(formats: str) -> list[str]:
    chosen = [name.strip() for name in formats.split(",")]
    for name in chosen:
        if name not in _FORMATS:
            raise UsageError(f"--format: there is no {name!r}; choose from {', '.join(_FORMATS)}")
    return chosen


def _export_legacy(
    dataset: str, target: str, formats: list[str], values: dict[str, Any], progress: BuildProgress
) -> str:
    with executor_of(values, progress, dataset, alone=True)() as executor:
        result = export_dataset(
            dataset,
            target,
            parse_formats(formats),
            scratch=values["scratch"],
            executor=executor,
            progress=progress,
        )
    passed_over = f", {result.already:,} were there already" if result.already else ""
    return f"{target}: {result.records:,} records, {result.images:,} images{passed_over}"


def _export_squashfs(
    dataset: str, target: str, values: dict[str, Any], progress: BuildProgress
) -> str:
    path = Path(target)
    if path.suffix != ".sqsh":
        name = dataset.rstrip("/").rpartition("/")[2] or "dataset"
        path /= f"{name if name not in ('.', '..') else 'dataset'}.sqsh"
    with tempfile.TemporaryDirectory(dir=values["scratch"], prefix="squashfs-") as scratch:
        files = _legacy_files(dataset, Path(scratch), _teller("records", progress))
        image = write_squashfs(files, path, compression=values["compression"])
    return f"{image.path}: {image.size:,} bytes, md5 {image.md5}"


def _legacy_files(
    dataset: str, scratch: Path, tell: Callable[[int, int], None]
) -> Iterator[tuple[str, Path]]:
    """Yield the files of one record after the other; those of the last one are removed."""
    committed = CommittedRecords.open(dataset)
    storage = Storage.open(scratch)
    record_ids = committed.record_ids()
    for done, record_id in enumerate(record_ids, 1):
        for record in committed.records([record_id]):
            export_record(record, storage, ("pickle", "hdf5"), folder="", scratch=scratch)
        names = storage.list(str(record_id))
        yield from ((name, scratch / name) for name in names)
        storage.remove(names)
        storage.prune(str(record_id))
        tell(done, len(record_ids))


def _export_png(dataset: str, target: str, values: dict[str, Any], progress: BuildProgress) -> str:
    options = PngOptions(
        by=values["by"],
        tar=values["tar"],
        depth=16 if values["depth"] == "16" else 8,
        min_lines=values["min_lines"],
    )
    result = export_png(dataset, Path(target), options, progress=_teller("images", progress))
    return f"{target}: {result.images.total():,} images of {len(result.images):,} {options.by}s" + (
        f", {result.clipped:,} with code points that were clipped" if result.clipped else ""
    )


def _export_croissant(
    dataset: str, target: str, _values: dict[str, Any], _progress: BuildProgress
) -> str:
    # Imported by name: the other formats need nothing of it.
    written = import_module("zml_dask.publish.croissant").export(dataset, target)
    return f"{written}: Croissant metadata"


_OTHERS: dict[str, Callable[[str, str, dict[str, Any], BuildProgress], str]] = {
    "squashfs": _export_squashfs,
    "png": _export_png,
    "croissant": _export_croissant,
}


def _teller(stage: str, progress: BuildProgress) -> Callable[[int, int], None]:
    return lambda done, total: progress.update(stage, Counts(done, total))
