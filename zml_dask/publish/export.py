"""Export a dataset, or a view of it, in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from zml_dask.arguments import checked
from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Executor, run_job
from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import UsageError
from zml_dask.legacy.legacy_record import LegacyFormat
from zml_dask.legacy.record_files import (
    RECORDS_PER_TASK,
    ExportLegacy,
    export_record,
    legacy_records,
    parse_formats,
)
from zml_dask.publish import croissant
from zml_dask.publish.png import PngOptions, export_png
from zml_dask.publish.squashfs import Compression, write_squashfs
from zml_dask.publish.training import (
    ExportParquet,
    ExportWebDataset,
    ImageForm,
    export_atlas,
)
from zml_dask.query.counting import check_some
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import CountingJob, check_whole_files, cut
from zml_dask.query.saving import save_view
from zml_dask.store.storage import Storage
from zml_dask.text_safety import number_of

LEGACY: tuple[str, ...] = get_args(LegacyFormat)
JOBS = ("dataset", *LEGACY, "parquet", "webdataset", "png")
"""Formats that several processes can write together. A squashfs image is written by one program
from a stream, and Croissant is a single JSON file."""

FORMATS = (*JOBS, "squashfs", "croissant", "atlas")
_OF_IMAGES = ("webdataset", "png")
"""Formats that can hold single images of a file."""


@checked
@dataclass(frozen=True)
class ExportOptions:
    """How the formats are written.

    Attributes
    ----------
    png : PngOptions
        How PNGs are written, in folders, tars and shards.
    image : {"npy", "png"}
        Form of an image in a shard of ``webdataset``.
    compression : {"gzip", "zstd", "xz", "lz4"}
        Compression of a squashfs image.
    columns : sequence of str
        Further columns of ``parquet`` and of the JSON of ``webdataset``, such as
        ``lines_of_code.code`` of a derived table.
    scratch : pathlib.Path or None
        A local folder for temporary files.
    """

    png: PngOptions = field(default_factory=PngOptions)
    image: ImageForm = "npy"
    compression: Compression = "gzip"
    columns: Sequence[str] = ()
    scratch: Path | None = None


@dataclass(frozen=True)
class _Export:
    view: Dataset
    target: str
    options: ExportOptions
    executor: Executor
    progress: BuildProgress

    def storage(self) -> Storage:
        return Storage.open(self.target)

    def run(self, job: CountingJob) -> Counter[str]:
        return run_job(job, self.executor, progress=self.progress)


def check_formats(names: Collection[str]) -> None:
    """Raise `UsageError` if a name is not a format."""
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"format: there is no {name!r}; choose from {', '.join(FORMATS)}")


def export(
    view: Dataset,
    target: str | Path,
    formats: Collection[str],
    options: ExportOptions | None = None,
    *,
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> list[str]:
    """Write a view in some of `FORMATS`; return what was written, one line per format for printing.

    `target` is a folder, or any fsspec URL for all formats but ``squashfs`` and ``croissant``.
    `executor` runs the tasks of `JOBS`, by default one after the other in this process.
    `UsageError` if a format is unknown or cannot hold the view, if there is nothing to write, or
    `target` is the dataset itself.
    """
    check_formats(formats)
    chosen = list(dict.fromkeys(formats))
    place = Storage.open(target)
    for name in {"squashfs", "croissant"}.intersection(chosen if not place.is_local else ()):
        raise UsageError(f"{name} is written into a local folder, not to {target}; copy it there")
    if "squashfs" not in chosen and place.is_local and Path(place.url).is_file():
        raise UsageError(f"{target} is a file; give a folder to export into")
    if chosen != ["croissant"] and place.url == view.url:
        raise UsageError(f"{target} is the dataset itself; give another folder to export into")
    for name in chosen:
        if name in _OF_IMAGES:
            check_some(view, "images")
            continue
        if name not in ("dataset", "croissant"):  # which can be empty
            check_some(view, "files" if name == "parquet" else "records")
        if name not in ("croissant", "atlas"):
            instead = f", or export the images as {' or '.join(_OF_IMAGES)}"
            check_whole_files(view, f"the format {name}", instead)
    if "croissant" in chosen and not view.is_unselected:
        raise UsageError(
            "croissant describes a whole dataset, not a selection: export the selection as "
            "dataset first, and describe that"
        )
    work = _Export(
        view,
        str(target),
        options or ExportOptions(),
        executor or SerialExecutor(),
        progress or SilentProgress(),
    )
    legacy = [name for name in chosen if name in LEGACY]
    lines = [_legacy(work, legacy)] if legacy else []
    return lines + [_WRITERS[name](work) for name in chosen if name in _WRITERS]


def _legacy(work: _Export, formats: list[str]) -> str:
    job = ExportLegacy.of(work.view, work.storage(), parse_formats(formats), work.options.scratch)
    result = work.run(job)
    there = f", {result['already']:,} were there already" if result["already"] else ""
    return f"{work.target}: {number_of(record=result['records'], image=result['images'])}{there}"


def _dataset(work: _Export) -> str:
    info = save_view(
        work.view,
        work.target,
        scratch=work.options.scratch,
        executor=work.executor,
        progress=work.progress,
    )
    counts = info.counts
    return f"{work.target}: a dataset of " + number_of(
        record=counts.records, file=counts.files, image=counts.images
    )


def _parquet(work: _Export) -> str:
    written = work.run(ExportParquet.of(work.view, work.storage(), work.options.columns))
    held = f"{number_of(file=written['samples'])} in {number_of(part=written['objects'])}"
    return f"{work.target}: {held}"


def _webdataset(work: _Export) -> str:
    options = work.options
    job = ExportWebDataset.of(
        work.view, work.storage(), options.image, options.png.depth, options.columns
    )
    written = work.run(job)
    held = f"{number_of(image=written['samples'])} in {number_of(shard=written['objects'])}"
    return f"{work.target}: {held}{_clipped(written['clipped'])}"


def _squashfs(work: _Export) -> str:
    path = Path(work.target)
    if path.suffix != ".sqsh":
        path /= f"{work.view.snapshot.storage.name or 'dataset'}.sqsh"
    with temporary_folder("squashfs", work.options.scratch) as scratch:
        files = _legacy_files(work.view, scratch, work.progress)
        md5 = write_squashfs(files, path, compression=work.options.compression)
    return f"{path}: {path.stat().st_size:,} bytes, md5 {md5}"


def _legacy_files(
    view: Dataset, scratch: Path, progress: BuildProgress
) -> Iterator[tuple[str, Path]]:
    """Yield the files of all records, path and location; those of the last record are removed."""
    storage = Storage.open(scratch)
    portions = cut(view, records=RECORDS_PER_TASK)
    total, done = sum(len(portion.record_ids) for portion in portions), 0
    for portion in portions:
        for record in legacy_records(view.snapshot, portion):
            export_record(record, storage, ("pickle", "hdf5"), folder="", scratch=scratch)
            names = storage.list(str(record.record_id))
            yield from ((name, scratch / name) for name in names)
            storage.remove(names)
            storage.prune(str(record.record_id))
            done += 1
            progress.update("records", ProgressCounts(done, total))


def _png(work: _Export) -> str:
    options = work.options.png
    result = export_png(
        work.view, work.storage(), options, executor=work.executor, progress=work.progress
    )
    images = number_of(image=result.images.total())
    of = number_of(**{options.by: len(result.images)})
    return f"{work.target}: {images} of {of}{_clipped(result.clipped)}"


def _clipped(images: int) -> str:
    return f", {images:,} with code points that were clipped" if images else ""


def _atlas(work: _Export) -> str:
    records = export_atlas(work.view, work.storage())
    return f"{work.target}/atlas.parquet: a map of {number_of(record=records)}"


def _croissant(work: _Export) -> str:
    return f"{croissant.export(work.view.url, work.target)}: Croissant metadata"


_WRITERS: dict[str, Callable[[_Export], str]] = {
    "dataset": _dataset,
    "parquet": _parquet,
    "webdataset": _webdataset,
    "squashfs": _squashfs,
    "png": _png,
    "croissant": _croissant,
    "atlas": _atlas,
}
