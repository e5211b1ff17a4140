"""The dataset on disk: every name, array, table and file of it, as frozen dataclasses.

The layout is versioned by `SCHEMA_VERSION`; ``docs/format.md`` describes it for
readers that do not use this package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from zml_dask.engine.objects import LOCK as LOCK
from zml_dask.engine.objects import LOG as LOG
from zml_dask.engine.objects import STAGING as STAGING
from zml_dask.errors import UsageError
from zml_dask.raster.images import n_lines_dtype
from zml_dask.raster.text import HEIGHT, WIDTH

SCHEMA_VERSION = 2

DATASET_JSON = "dataset.json"
IMAGES_ZARR = "images.zarr"
PLAN = f"{STAGING}/commit/plan.arrow"
"""The plan of the commit that is under way."""
REPACK = f"{STAGING}/repack"
"""What a repack that is under way has written."""
LEGACY = "legacy"
DERIVED = "derived"

_MAX_BLOSC_BYTES = 2**31 - 32
_MAX_CHUNK_BYTES = 2**27
_MAX_SHARD_ROWS = 2**24  # bounds the memory for a shard's index, 16 bytes per chunk

LEVELS = range(1, 10)
"""Blosc's levels of compression."""

DEFAULT_LEVEL = 4
"""Of a new dataset: a seventh smaller than at level 1, and faster to write than at level 3.

A core compresses 25,000 images/s, of which Zenodo's limits let 400 arrive; see
``benchmarks/density.py``.
"""

FILL_VALUE = 32
"""A space: what an image is padded with."""

FileStatus = Literal[
    "ok", "empty", "binary", "too_large", "damaged", "encrypted", "unsupported", "duplicate",
    "refused"
]  # fmt: skip
"""What became of a member of an archive; ``reason`` says why where it is not ``ok``.

``ok``: rasterised; ``empty``: no lines; ``binary``: NUL bytes, and neither UTF-16
nor UTF-32; ``too_large``: over the limit; ``damaged``: a bad checksum or a truncated body;
``encrypted``; ``unsupported``: a compression that is not read; ``duplicate``: a
later member of the same path; ``refused``: over a limit of the record.
"""


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Size of every image in a dataset: `height` lines by `width` characters."""

    height: int = HEIGHT
    width: int = WIDTH

    def n_images(self, n_lines: int) -> int:
        """Number of images that a text of `n_lines` lines fills."""
        return -(-n_lines // self.height)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of ``images.zarr``. Its first dimension is always ``image``.

    Attributes
    ----------
    chunk, shard : int
        Images per chunk and per shard; a shard is written once, whole, by one task.
    level : int
        Blosc's level of compression, 1 to 9.
    """

    name: str
    dtype: str
    chunk: int
    shard: int
    fill_value: int = 0
    level: int = 1


IMAGES = ArraySpec("images", "uint32", chunk=64, shard=4096, fill_value=FILL_VALUE)
# The indices are small: a shard of them covers 256 shards of images, so that
# they add 1.6 % to the number of files, not 400 %.
INDICES = (
    ArraySpec("record_id", "int64", chunk=65_536, shard=1_048_576),
    ArraySpec("file_id", "int64", chunk=65_536, shard=1_048_576),
    ArraySpec("segment", "int32", chunk=65_536, shard=1_048_576),
    ArraySpec("n_lines", "uint8", chunk=65_536, shard=1_048_576),
)


def image_arrays(shape: ImageShape, level: int = DEFAULT_LEVEL) -> tuple[ArraySpec, ...]:
    """All arrays of ``images.zarr`` for images of `shape`, ``images`` first.

    Very large images get fewer to a chunk, since Blosc compresses at most 2 GiB
    at once; ``n_lines`` is wide enough to count to the height. `UsageError` if a single image would
    be too large for a chunk.
    """
    chunk = IMAGES.chunk
    itemsize = np.dtype(IMAGES.dtype).itemsize
    while chunk > 1 and chunk * shape.height * shape.width * itemsize > _MAX_CHUNK_BYTES:
        chunk //= 2
    if chunk * shape.height * shape.width * itemsize > _MAX_BLOSC_BYTES:
        raise UsageError(
            f"an image of {shape.height} lines by {shape.width} characters is over 2 GiB; "
            "give a smaller height or width"
        )
    lines = np.dtype(n_lines_dtype(shape.height)).name
    arrays = (
        replace(IMAGES, chunk=chunk),
        *(replace(spec, dtype=lines) if spec.name == "n_lines" else spec for spec in INDICES),
    )
    return tuple(replace(spec, level=level) for spec in arrays)


def check_level(level: int) -> None:
    """Raise `UsageError` unless `level` is a level of compression."""
    if level not in LEVELS:
        raise UsageError(f"level: must be 1 (fast) to 9 (small), not {level}")


def check_arrays(arrays: tuple[ArraySpec, ...], shape: ImageShape) -> None:
    """Raise `ValueError` unless arrays, as ``dataset.json`` describes them, can be read.

    None is missing or unknown or of another type, and their chunks and shards are possible.
    """
    expected = image_arrays(shape)
    if [spec.name for spec in arrays] != [spec.name for spec in expected]:
        raise ValueError(f"the arrays are {[spec.name for spec in arrays]!r}")
    for spec, usual in zip(arrays, expected, strict=True):
        row_bytes = math.prod(row_shape(spec, shape)) * np.dtype(usual.dtype).itemsize
        if (
            (spec.dtype, spec.fill_value) != (usual.dtype, usual.fill_value)
            or not 1 <= spec.chunk <= spec.shard <= _MAX_SHARD_ROWS
            or spec.shard % spec.chunk
            or spec.chunk * row_bytes > _MAX_BLOSC_BYTES
            or spec.level not in LEVELS
        ):
            raise ValueError(f"the array {spec.name!r} is {spec!r}")


def row_shape(spec: ArraySpec, shape: ImageShape) -> tuple[int, ...]:
    """Shape of one row of an array: an image, or a scalar."""
    return (shape.height, shape.width) if spec.name == IMAGES.name else ()


def shard_path(name: str, shard: int, ndim: int) -> str:
    """Path of a shard of an array within DATASET.

    Examples
    --------
    >>> shard_path("images", 3, 3), shard_path("file_id", 0, 1)
    ('images.zarr/images/c/3/0/0', 'images.zarr/file_id/c/0')
    """
    return f"{IMAGES_ZARR}/{name}/c/{shard}" + "/0" * (ndim - 1)


FILES_SCHEMA = pa.schema(
    [
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("language_group", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("sha1_git", pa.string()),
        pa.field("text_sha256", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("n_lines", pa.int32(), nullable=False),
        pa.field("n_cut", pa.int32()),
        pa.field("first_image", pa.int64(), nullable=False),
        pa.field("n_images", pa.int32(), nullable=False),
    ]
)
"""One row per file.

`sha256` is of the file's own bytes, hex; null where they were not read.
`sha1_git` is the id that git gives those bytes (of a blob), hex.
`text_sha256` is of what its images give back (`raster.images.to_text`, UTF-8),
so that anyone can prove the pixels; null where the file has no images.
"""

FILES_BY_LANGUAGE_SCHEMA = pa.schema([
    FILES_SCHEMA.field(name) for name in (
        "file_id", "record_id", "language", "language_group", "extension", "status", "size",
        "n_lines", "n_cut", "first_image", "n_images"
    )
])  # fmt: skip
"""One row per file again, with the columns that selections need.

The rows of each part are ordered by language (null last), extension and
`file_id`, so that a question about one language reads only its rows.
"""

RECORDS_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("concept_id", pa.int64()),
        pa.field("doi", pa.string()),
        pa.field("title", pa.string()),
        pa.field("version", pa.string()),
        pa.field("publication_date", pa.date32()),
        pa.field("license", pa.string()),
        pa.field("licenses", pa.list_(pa.string())),
        pa.field("keywords", pa.list_(pa.string())),
        pa.field("creators", pa.list_(pa.string())),
        pa.field("repository", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("archive_bytes", pa.int64()),
        pa.field("archive_checksum", pa.string()),
        pa.field("n_files", pa.int32(), nullable=False),
        pa.field("n_images", pa.int64(), nullable=False),
        pa.field("metadata", pa.string()),
    ]
)
"""One row per record. `metadata` is the whole hit as canonical JSON.

`license` is as published, `licenses` the SPDX identifiers in it. A
`publication_date` of a year or month alone is its first day.
"""

FAILURES_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("permanent", pa.bool_(), nullable=False),
    ]
)
"""One row per record that is not in the dataset, and why."""

WITHDRAWN_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""One row per record that readers must no longer show, though its rows are still in place."""

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("dimension", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("files", pa.int64(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
"""Counts of everything that is shown, by value of a `dimension`; add all parts up.
`store.summary` says more."""

TABLES = {
    "files": FILES_SCHEMA,
    "files_by_language": FILES_BY_LANGUAGE_SCHEMA,
    "records": RECORDS_SCHEMA,
    "failures": FAILURES_SCHEMA,
    "withdrawn": WITHDRAWN_SCHEMA,
    "summary": SUMMARY_SCHEMA,
}
"""Table -> its columns. Each lies in parts in a folder, ``<table>.parquet/``;
``dataset.json`` names those that count."""


DERIVED_KEYS = {
    "files": (
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("record_id", pa.int64(), nullable=False),
    ),
    "records": (pa.field("record_id", pa.int64(), nullable=False),),
    "nothing": (),
}
"""What a derived table has a row of -> its first columns. Row *n* is of file or record *n*;
a table of nothing holds what others are computed with."""

COLUMN_TYPES = {
    "bool": (pa.bool_(), "BOOLEAN"),
    "int8": (pa.int8(), "TINYINT"),
    "int16": (pa.int16(), "SMALLINT"),
    "int32": (pa.int32(), "INTEGER"),
    "int64": (pa.int64(), "BIGINT"),
    "float": (pa.float32(), "FLOAT"),
    "double": (pa.float64(), "DOUBLE"),
    "string": (pa.string(), "VARCHAR"),
    "binary": (pa.binary(), "BLOB"),
    "date32": (pa.date32(), "DATE"),
    "list<int64>": (pa.list_(pa.int64()), "BIGINT[]"),
    "list<float>": (pa.list_(pa.float32()), "FLOAT[]"),
    "list<string>": (pa.list_(pa.string()), "VARCHAR[]"),
}
"""Types that a column of a derived table may have: by name, for Arrow and in SQL."""


def derived_table(name: str) -> str:
    """Name of a derived table among the tables of ``dataset.json``.

    Examples
    --------
    >>> derived_table("lines_of_code")
    'derived/lines_of_code'
    """
    return f"{DERIVED}/{name}"


def derived_schema(columns: Iterable[tuple[str, str]], of: str = "files") -> pa.Schema:
    """Schema of a derived table, from the names of its columns and of their types.

    `of` is a key of `DERIVED_KEYS`.

    Examples
    --------
    >>> derived_schema([("code", "int32")]).names
    ['file_id', 'record_id', 'code', 'error']
    """
    fields = (pa.field(name, COLUMN_TYPES[kind][0]) for name, kind in columns)
    return pa.schema([*DERIVED_KEYS[of], *fields, pa.field("error", pa.string())])


def part_path(table: str, number: int, digest: str) -> str:
    """Path of a part of a table within DATASET.

    Its name holds the beginning of its SHA-256, so that no two commits, one of
    them overtaken, ever write different rows under one name.

    Examples
    --------
    >>> part_path("files", 0, "5f2c0f7a91b3d2e8")
    'files.parquet/part-00000-5f2c0f7a91b3.parquet'
    """
    return f"{table}.parquet/part-{number:05d}-{digest[:12]}.parquet"


def extension_of(name: str) -> str:
    """Extension of a file's name as in 2018: what follows the last dot, or the whole name.

    Examples
    --------
    >>> extension_of("setup.py"), extension_of("Makefile"), extension_of(".gitignore")
    ('py', 'Makefile', 'gitignore')
    """
    return name.rpartition(".")[2]
