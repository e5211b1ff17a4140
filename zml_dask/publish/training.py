"""Exports for training: files with their text as Parquet, images with theirs as WebDataset.

Parquet has one row per file with the columns of its record, so that no join is needed.
WebDataset is a tar in which all members with the same stem are one sample
(https://github.com/webdataset/webdataset); the standard library writes it.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zml_dask.engine.activity import worker_folder
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import UsageError, require
from zml_dask.publish.png import Depth, encode_png, largest_pixel
from zml_dask.query.columns import find_countable
from zml_dask.query.counting import check_some
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import CountingJob, Portion, check_whole_files, cut, fingerprint
from zml_dask.query.selection import gather, image_lines
from zml_dask.raster.images import Images, to_text
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    import datasets

ImageForm = Literal["npy", "png"]

_FILES = (
    "file_id", "record_id", "path", "name", "extension", "language", "language_group", "kind",
    "size", "sha256", "sha1_git", "encoding", "status", "n_lines", "n_cut", "n_images",
)  # fmt: skip
_RECORDS = (
    "doi", "title", "version", "publication_date", "license", "licenses", "keywords", "creators",
    "repository",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        *(FILES_SCHEMA.field(name) for name in _FILES),
        pa.field("text", pa.string()),
        *(RECORDS_SCHEMA.field(name) for name in _RECORDS),
    ]
)
"""A row of the Parquet export: a file, its text as its images show it, and its record."""


def schema_of(snapshot: Snapshot, columns: Sequence[str] = ()) -> pa.Schema:
    """Add further columns to `SCHEMA`, named as in conditions.

    `UsageError` if one is unknown, or a property of single images.
    """
    found = {name: find_countable(name, snapshot.derived).type for name in columns}
    more = (pa.field(name, kind) for name, kind in found.items() if name not in SCHEMA.names)
    return pa.schema([*SCHEMA, *more])


_FILE_METADATA = ("path", "name", "extension", "language")
_RECORD_METADATA = ("doi", "title", "license")
"""What the JSON of an image contains besides numbers."""

_GROUP_BYTES = 16 * 2**20
_GROUP_ROWS = 10_000
"""Text and rows of a row group, the least that a reader holds in memory."""

_OBJECT_BYTES = 256 * 2**20
"""Text in a Parquet part, or size of a tar, after which the next one is begun."""

_SHARD_IMAGES = 10_000


@dataclass(frozen=True)
class ExportSamples(CountingJob):
    """Writes a view as objects of bounded size that can be read without the dataset.

    It counts ``objects`` (Parquet parts or tars), ``samples`` (the files or images in them) and
    ``clipped`` (images with a code point that does not fit into a PNG's depth).

    An object's name is ``<stem>-<portion>-<number><suffix>``.
    """

    suffix: ClassVar[str]

    stem: str = field(kw_only=True)

    @abstractmethod
    def read(self, portion: Portion) -> Iterator[Any]:
        """Yield what is written of a portion, piece by piece."""

    @abstractmethod
    def begin(self, path: Path) -> Any:
        """Begin an object, and return what writes it."""

    @abstractmethod
    def add(self, writer: Any, item: Any) -> tuple[Counter[str], int]:
        """Write an item; return what that was, and its size in bytes."""

    def run(self, task: Portion, context: None) -> Counter[str]:
        """Write a portion; each object appears whole."""
        total = Counter(records=len(task.record_ids))
        with temporary_folder("samples", worker_folder()) as scratch:
            path = scratch / "object"
            writer: Any = None
            size = 0

            def publish() -> None:
                writer.close()
                name = f"{self.stem}-{task.number:05d}-{total['objects']:02d}{self.suffix}"
                self.target.publish(path, name)
                total["objects"] += 1

            for item in self.read(task):
                if writer is None:
                    writer = self.begin(path)
                written, added = self.add(writer, item)
                total += written
                size += added
                if size > _OBJECT_BYTES:
                    publish()
                    writer, size = None, 0
            if writer is not None:
                publish()
        return total


@dataclass(frozen=True)
class ExportParquet(ExportSamples):
    """Writes one row per file, with its text and the columns of its record."""

    suffix: ClassVar[str] = ".parquet"

    schema: pa.Schema = field(kw_only=True)

    @classmethod
    def of(cls, view: Dataset, target: Storage, columns: Sequence[str]) -> ExportParquet:
        """Plan an export with further columns, such as those of derived tables.

        `UsageError` if a column is unknown, or `target` holds other Parquet files.
        """
        schema = schema_of(view.snapshot, columns)
        stem = _checked_stem(view, target, "files", cls.suffix)
        return cls(view.snapshot, target, _filled(cut(view)), stem=stem, schema=schema)

    def read(self, portion: Portion) -> Iterator[pa.Table]:
        """Yield row groups."""
        return file_groups(self.snapshot, portion, self.schema)

    def begin(self, path: Path) -> pq.ParquetWriter:
        """Begin a part."""
        return pq.ParquetWriter(path, self.schema, compression="zstd")

    def add(self, writer: pq.ParquetWriter, item: pa.Table) -> tuple[Counter[str], int]:
        """Write a row group, whose size is that of its text."""
        writer.write_table(item)
        return Counter(samples=len(item)), item["text"].nbytes


@dataclass(frozen=True)
class ExportWebDataset(ExportSamples):
    """Writes tars with three members per image: its pixels, its text, and JSON."""

    suffix: ClassVar[str] = ".tar"

    image: ImageForm = field(kw_only=True)
    depth: Depth = field(kw_only=True)
    columns: Sequence[str] = field(kw_only=True)

    @classmethod
    def of(
        cls, view: Dataset, target: Storage, image: ImageForm, depth: Depth, columns: Sequence[str]
    ) -> ExportWebDataset:
        """Plan an export with further columns of the files, for the JSON.

        `UsageError` if a column is unknown, or `target` holds other tars.
        """
        schema_of(view.snapshot, columns)
        kind = f"images-{image}{depth if image == 'png' else ''}"
        stem = _checked_stem(view, target, kind, cls.suffix)
        portions = _filled(cut(view, images=_SHARD_IMAGES))
        return cls(
            view.snapshot, target, portions, stem=stem, image=image, depth=depth,
            columns=tuple(columns),
        )  # fmt: skip

    def read(self, portion: Portion) -> Iterator[tuple[str, Images, str, dict[str, Any]]]:
        """Yield the stem, pixels, text and JSON of each image."""
        records = portion.records(self.snapshot, ["record_id", *_RECORDS])
        more = _more(self.snapshot, portion, self.columns)
        height = self.snapshot.info.shape.height
        for record_id, files in portion.read(self.snapshot):
            of_record = {name: records[record_id][name] for name in _RECORD_METADATA}
            for each in files:
                file = each.file
                of_file = {**{name: getattr(file, name) for name in _FILE_METADATA}, **next(more)}
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
                    yield stem, pixels, text, {**numbers, **of_file, **of_record}

    def begin(self, path: Path) -> tarfile.TarFile:
        """Begin a tar."""
        return tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def add(
        self, writer: tarfile.TarFile, item: tuple[str, Images, str, dict[str, Any]]
    ) -> tuple[Counter[str], int]:
        """Write the members of an image."""
        stem, pixels, text, metadata = item
        start = writer.offset
        is_png = self.image == "png"
        members = {
            "json": json.dumps(metadata, ensure_ascii=False, default=str).encode(
                "utf-8", "replace"
            ),
            "txt": text.encode("utf-8", "replace"),
            self.image: encode_png(pixels, self.depth) if is_png else _npy(pixels),
        }
        for kind, data in members.items():
            # Without owner and time, so that the same view gives the same bytes.
            member = tarfile.TarInfo(f"{stem}.{kind}")
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))
        clipped = is_png and bool(pixels.max() > largest_pixel(self.depth))
        return Counter(samples=1, clipped=int(clipped)), writer.offset - start


def _filled(portions: Iterable[Portion]) -> tuple[Portion, ...]:
    """Leave out portions without files."""
    return tuple(portion for portion in portions if portion.files.bits)


def _checked_stem(view: Dataset, target: Storage, kind: str, suffix: str) -> str:
    """Return the beginning of the objects' names, which tells this export from any other."""
    stem = f"{kind}-{fingerprint(view)[:8]}"
    for name in target.names():
        if name.endswith(suffix) and not name.startswith(f"{stem}-"):
            raise UsageError(
                f"{target.url} holds {name!r}, which is not of this export: readers would mix "
                "them; give another folder"
            )
    return stem


def export_atlas(view: Dataset, target: Storage) -> int:
    """Write the map of a view's records as ``atlas.parquet``, which embedding-atlas shows.

    Returns the number of records on it. `UsageError` if ``record_map`` has not been derived.
    """
    if "record_map" not in view.snapshot.derived:
        raise UsageError(
            f"{view.url} has no map; run zml-dask derive DATASET record_map, then export again"
        )
    rows = view.sql(
        "SELECT record_id, title, doi, license, year(publication_date) AS year, "
        "record_map.language AS language, n_files, n_images, x, y, neighbours, similarity "
        "FROM record_map JOIN records USING (record_id) WHERE x IS NOT NULL ORDER BY record_id",
        timeout=math.inf,
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
    target.write("atlas.parquet", stream.getvalue())
    return len(rows)


def file_groups(
    snapshot: Snapshot, portion: Portion, schema: pa.Schema = SCHEMA
) -> Iterator[pa.Table]:
    """Yield a portion's files as tables of a schema by `schema_of`, each of bounded size."""
    group: list[dict[str, Any]] = []
    size = 0
    records = portion.records(snapshot, ["record_id", *_RECORDS])
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


def _npy(pixels: Images) -> bytes:
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


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
    require("datasets", "huggingface", "to_huggingface()")
    import datasets

    check_whole_files(view, "to_huggingface")
    check_some(view, "files")
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
