"""Files with their text as Parquet, and images with theirs as WebDataset: for training elsewhere.

Parquet has one row per file and the columns of its record, so that no join is needed; any
reader of Parquet takes it. WebDataset's form is a tar whose members of one stem are one
sample (https://github.com/webdataset/webdataset); it is written with the standard library.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zml_dask.engine.activity import worker_folder
from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Executor, Report, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError
from zml_dask.publish.png import Depth, encode_png, largest_pixel
from zml_dask.query.counting import find_countable
from zml_dask.query.dataset import Dataset
from zml_dask.query.gather import gather
from zml_dask.query.portions import Portion, PortionJob, check_whole_files, cut, fingerprint
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import to_text
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    import datasets

ImageForm = Literal["npy", "png"]

_FILES = (
    "file_id",
    "record_id",
    "path",
    "name",
    "extension",
    "language",
    "language_group",
    "kind",
    "size",
    "sha256",
    "sha1_git",
    "encoding",
    "status",
    "n_lines",
    "n_cut",
    "n_images",
)
_RECORDS = (
    "doi",
    "title",
    "version",
    "publication_date",
    "license",
    "licenses",
    "keywords",
    "creators",
    "repository",
)
SCHEMA = pa.schema(
    [
        *(FILES_SCHEMA.field(name) for name in _FILES),
        pa.field("text", pa.string()),
        *(RECORDS_SCHEMA.field(name) for name in _RECORDS),
    ]
)
"""A row of the Parquet form: a file, its text as its images show it, and its record."""


def schema_of(snapshot: Snapshot, columns: Sequence[str] = ()) -> pa.Schema:
    """Add further columns to `SCHEMA`, by the names that conditions know them by.

    Raises
    ------
    UsageError
        If one is unknown, or a property of single images.
    """
    found = {name: find_countable(name, snapshot.derived).type for name in columns}
    more = (pa.field(name, kind) for name, kind in found.items() if name not in SCHEMA.names)
    return pa.schema([*SCHEMA, *more])


_SAID = ("path", "name", "extension", "language")
_SAID_OF_RECORD = ("doi", "title", "license")
"""What a sample's JSON says besides its numbers."""

_GROUP_BYTES = 16 * 2**20
_GROUP_ROWS = 10_000
"""Text and rows of a row group: what a reader holds at least."""

_OBJECT_BYTES = 256 * 2**20
"""Of text in a Parquet part, and of a tar, after which another one is begun."""

_SHARD_IMAGES = 10_000


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes
    ----------
    objects : int
        Parts or shards.
    samples : int
        Files or images.
    clipped : int
        Images with a code point that does not fit into a PNG's depth.
    records : int
        That are done.
    """

    objects: int = 0
    samples: int = 0
    clipped: int = 0
    records: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(
            self.objects + other.objects,
            self.samples + other.samples,
            self.clipped + other.clipped,
            self.records + other.records,
        )


Writer = Callable[[Snapshot, Portion, Path], Iterator[tuple[Path, Written]]]
"""Writes a portion into local files, which are taken away one after the other."""


@dataclass(frozen=True)
class ExportSamples(PortionJob[Written, Written]):
    """Writes a view as objects that need nothing else to be read.

    Attributes
    ----------
    write : Writer
    stem, suffix : str
        An object's name is ``<stem>-<portion>-<number><suffix>``.
    """

    write: Writer = field(kw_only=True)
    stem: str = field(kw_only=True)
    suffix: str = field(kw_only=True)

    def run(self, task: Portion, context: None) -> Written:
        """Write a portion; each object appears whole."""
        total = Written(records=len(task.record_ids))
        with TemporaryDirectory(prefix="samples-", dir=worker_folder()) as scratch:
            for local, written in self.write(self.snapshot, task, Path(scratch)):
                name = f"{self.stem}-{task.number:05d}-{total.objects:02d}{self.suffix}"
                self.target.publish(local, name)
                total += written
        return total

    def finish(self, results: Iterator[Written]) -> Written:
        """Add up what was written."""
        return sum(results, Written())

    def report(self, result: Written) -> Report:
        """Count records."""
        return Report(done=result.records)


def export_parquet(
    view: Dataset,
    target: str | Path | Storage,
    *,
    columns: Sequence[str] = (),
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> Written:
    """Write one row per file, with its text and what its record says (`SCHEMA`), as Parquet.

    Parameters
    ----------
    target : str, path or Storage
        A folder or any fsspec URL, without other Parquet files.
    columns : sequence of str
        Further columns, of derived tables say.
    executor : Executor, optional
        By default this process.

    Raises
    ------
    UsageError
        If single images were chosen, a column is unknown, or other Parquet files are there.
    """
    check_whole_files(view, "the format parquet")
    write = partial(write_parquet, schema=schema_of(view.snapshot, columns))
    return _export(view, target, write, "files", ".parquet", cut(view), executor, progress)


def export_webdataset(
    view: Dataset,
    target: str | Path | Storage,
    *,
    image: ImageForm = "npy",
    depth: Depth = 8,
    columns: Sequence[str] = (),
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> Written:
    """Write one sample per image, its pixels, its text and JSON, in tars of bounded size.

    Parameters
    ----------
    target : str, path or Storage
        A folder or any fsspec URL, without other tars.
    image : {"npy", "png"}
        ``npy`` holds every code point (uint32); a shard of grey PNGs has a fifth of the size.
    depth : {8, 16}
        Bits a pixel of a PNG; a code point that does not fit becomes the largest value.
    columns : sequence of str
        Further columns of the files, for the JSON.
    executor : Executor, optional
        By default this process.

    Raises
    ------
    UsageError
        If a column is unknown, or other tars are there.
    """
    schema_of(view.snapshot, columns)
    write = partial(write_webdataset, image=image, depth=depth, columns=tuple(columns))
    stem = f"images-{image}{depth if image == 'png' else ''}"
    portions = cut(view, images=_SHARD_IMAGES)
    return _export(view, target, write, stem, ".tar", portions, executor, progress)


def _export(
    view: Dataset,
    target: str | Path | Storage,
    write: Writer,
    stem: str,
    suffix: str,
    portions: list[Portion],
    executor: Executor | None,
    progress: BuildProgress | None,
) -> Written:
    storage = Storage.open(target)
    stem = f"{stem}-{fingerprint(view)[:8]}"
    for name in storage.names():
        if name.endswith(suffix) and not name.startswith(f"{stem}-"):
            raise UsageError(
                f"{storage.url} holds {name!r}, which is not of this export: readers would mix "
                "them; give another folder"
            )
    filled = tuple(portion for portion in portions if portion.files.bits)
    job = ExportSamples(view.snapshot, storage, filled, write=write, stem=stem, suffix=suffix)
    return run_job(job, executor or SerialExecutor(), progress=progress)


def export_atlas(view: Dataset, target: str | Path | Storage) -> Written:
    """Write the map of a view's records as ``atlas.parquet``, which embedding-atlas shows.

    Parameters
    ----------
    view : Dataset
    target : str, path or Storage
        A folder or any fsspec URL.

    Raises
    ------
    UsageError
        If the table ``record_map`` has not been derived.
    """
    if "record_map" not in view.snapshot.derived:
        raise UsageError(
            f"{view.url} has no map; run zml-dask derive DATASET record_map, and export it then"
        )
    rows = view.sql(
        "SELECT record_id, title, doi, license, year(publication_date) AS year, "
        "record_map.language AS language, n_files, n_images, x, y, neighbours, similarity "
        "FROM record_map JOIN records USING (record_id) WHERE x IS NOT NULL ORDER BY record_id"
    ).to_arrow_table()
    place = {number: at for at, number in enumerate(rows["record_id"].to_pylist())}
    near = []
    for numbers, cosines in zip(
        rows["neighbours"].to_pylist(), rows["similarity"].to_pylist(), strict=True
    ):
        known = [
            (place[n], 1 - cosine) for n, cosine in zip(numbers, cosines, strict=True) if n in place
        ]
        near.append({"ids": [at for at, _ in known], "distances": [far for _, far in known]})
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    rows = rows.drop_columns(["neighbours", "similarity"])
    stream = io.BytesIO()
    pq.write_table(rows.append_column("neighbors", pa.array(near, kind)), stream)
    Storage.open(target).write("atlas.parquet", stream.getvalue())
    return Written(1, len(rows))


def write_parquet(
    snapshot: Snapshot, portion: Portion, scratch: Path, *, schema: pa.Schema = SCHEMA
) -> Iterator[tuple[Path, Written]]:
    """Write a portion's files as Parquet; a `Writer`."""
    path = scratch / "part.parquet"
    writer: pq.ParquetWriter | None = None
    rows = size = 0
    for group in file_groups(snapshot, portion, schema):
        if writer is None:
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(group)
        rows += len(group)
        size += group["text"].nbytes
        if size > _OBJECT_BYTES:
            writer.close()
            yield path, Written(1, rows)
            writer, rows, size = None, 0, 0
    if writer is not None:
        writer.close()
        yield path, Written(1, rows)


def file_groups(
    snapshot: Snapshot, portion: Portion, schema: pa.Schema = SCHEMA
) -> Iterator[pa.Table]:
    """Yield a portion's files as tables of a schema by `schema_of`, each of bounded size."""
    group: list[dict[str, Any]] = []
    size = 0
    records = _records(snapshot, portion)
    more = _more(snapshot, portion, [name for name in schema.names if name not in SCHEMA.names])
    for record_id, files in portion.read(snapshot):
        for each in files:
            row = asdict(each.file)
            has_text = row["status"] in ("ok", "empty")
            text = each.text.encode("utf-8", "replace").decode() if has_text else None
            group.append({**row, **records[record_id], "text": text, **next(more)})
            size += len(text or "")
            if size > _GROUP_BYTES or len(group) == _GROUP_ROWS:
                yield pa.Table.from_pylist(group, schema)
                group, size = [], 0
    if group:
        yield pa.Table.from_pylist(group, schema)


def write_webdataset(
    snapshot: Snapshot,
    portion: Portion,
    scratch: Path,
    *,
    image: ImageForm,
    depth: Depth,
    columns: Sequence[str] = (),
) -> Iterator[tuple[Path, Written]]:
    """Write a portion's images as tars of samples; a `Writer`."""
    path = scratch / "shard.tar"
    tar: tarfile.TarFile | None = None
    samples = clipped = 0
    for stem, pixels, text, said in _samples(snapshot, portion, columns):
        if tar is None:
            tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - over yields
        members = {
            "json": json.dumps(said, ensure_ascii=False, default=str).encode("utf-8", "replace"),
            "txt": text.encode("utf-8", "replace"),
            image: encode_png(pixels, depth) if image == "png" else _npy(pixels),
        }
        for kind, data in members.items():
            # Its owner and time are left out, so that the same view gives the same bytes.
            member = tarfile.TarInfo(f"{stem}.{kind}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        samples += 1
        clipped += image == "png" and bool(pixels.max() > largest_pixel(depth))
        if tar.offset > _OBJECT_BYTES:
            tar.close()
            yield path, Written(1, samples, clipped)
            tar, samples, clipped = None, 0, 0
    if tar is not None:
        tar.close()
        yield path, Written(1, samples, clipped)


def _samples(
    snapshot: Snapshot, portion: Portion, columns: Sequence[str]
) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.uint32]], str, dict[str, Any]]]:
    """Yield the stem, pixels, text and JSON of each image."""
    records = _records(snapshot, portion)
    more = _more(snapshot, portion, columns)
    height = snapshot.info.shape.height
    for record_id, files in portion.read(snapshot):
        of_record = {name: records[record_id][name] for name in _SAID_OF_RECORD}
        for each in files:
            file = each.file
            said = {**{name: getattr(file, name) for name in _SAID}, **next(more)}
            lines = image_lines(file.n_lines, each.segment, height)
            for pixels, segment, n_lines in zip(
                each.images, each.segment.tolist(), lines.tolist(), strict=True
            ):
                numbers = {
                    "record_id": record_id,
                    "file_id": file.file_id,
                    "segment": segment,
                    "n_lines": n_lines,
                }
                text = to_text(pixels[np.newaxis], [n_lines])
                stem = f"{record_id}_{file.file_id}_{segment}"
                yield stem, pixels, text, {**numbers, **said, **of_record}


def _npy(pixels: np.ndarray[Any, np.dtype[np.uint32]]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def _records(snapshot: Snapshot, portion: Portion) -> dict[int, dict[str, Any]]:
    """Read what is said of a portion's records, by their numbers."""
    is_its_own = pc.field("record_id").isin(portion.record_ids)
    rows = snapshot.scan("records", ["record_id", *_RECORDS], is_its_own).to_pylist()
    return {row["record_id"]: row for row in rows}


def _more(snapshot: Snapshot, portion: Portion, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield further columns of one file after the other."""
    selection = portion.selection(snapshot)
    for at in range(0, len(selection.files), _GROUP_ROWS):
        if columns:
            several = slice(at, at + _GROUP_ROWS)
            yield from gather(snapshot, selection, columns, several).to_pylist()
        else:
            yield from repeat({}, _GROUP_ROWS)


def to_huggingface(view: Dataset, columns: Sequence[str] = ()) -> datasets.Dataset:
    """Read the files of a view, with text, as a ``datasets.Dataset``.

    See `zml_dask.query.dataset.Dataset.to_huggingface`.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "to_huggingface needs the library datasets; pip install 'zml-dask[huggingface]'"
        ) from error
    check_whole_files(view, "to_huggingface")
    schema = schema_of(view.snapshot, columns)
    found: datasets.Dataset = datasets.Dataset.from_generator(
        _rows,
        features=datasets.Features.from_arrow_schema(schema),
        gen_kwargs={"snapshot": view.snapshot, "portions": cut(view), "schema": schema},
    )
    return found


def _rows(
    snapshot: Snapshot, portions: list[Portion], schema: pa.Schema
) -> Iterator[dict[str, Any]]:
    for portion in portions:
        for group in file_groups(snapshot, portion, schema):
            yield from group.to_pylist()
