"""The dataset on disk: every name, array, table and file of it, as frozen dataclasses.

The layout is versioned by `SCHEMA_VERSION`; ``docs/format.md`` describes it for
readers that do not use this package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from zml_dask.errors import UsageError
from zml_dask.raster.images import n_lines_dtype
from zml_dask.raster.text import HEIGHT, WIDTH

SCHEMA_VERSION = 1

DATASET_JSON = "dataset.json"
DATASET_COPY = "dataset-copy.json"
"""The same bytes once more, for repair: without them nothing else has a meaning."""
IMAGES_ZARR = "images.zarr"
STAGING = "staging"
LEGACY = "legacy"
LOCK = "build.lock"
LOG = "build.log.jsonl"

_MAX_BLOSC_BYTES = 2**31 - 32
_MAX_CHUNK_BYTES = 2**27

FILL_VALUE = 32
"""A space: what an image is padded with, so that blank chunks cost nothing."""

FileStatus = Literal[
    "ok",
    "empty",
    "binary",
    "too_large",
    "undecodable",
    "damaged",
    "encrypted",
    "unsupported",
    "duplicate",
    "refused",
]
"""What became of a member of an archive; ``reason`` says why where it is not ``ok``.

``ok``: rasterised; ``empty``: no lines; ``binary``: NUL bytes and no byte order
mark; ``too_large``: over the limit; ``undecodable``: not in the encoding that
its byte order mark names; ``damaged``: a bad checksum or a truncated body;
``encrypted``; ``unsupported``: a compression nobody here reads; ``duplicate``: a
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
    name : str
    dtype : str
        A NumPy type name.
    chunk, shard : int
        Images a chunk and a shard; a shard is written once, whole, by one task.
    fill_value : int
    """

    name: str
    dtype: str
    chunk: int
    shard: int
    fill_value: int = 0


IMAGES = ArraySpec("images", "uint32", chunk=64, shard=4096, fill_value=FILL_VALUE)
# The indices are small: a shard of them covers 256 shards of images, so that
# they add 1.6 % to the number of files, not 400 %.
INDICES = (
    ArraySpec("record_id", "int64", chunk=65_536, shard=1_048_576),
    ArraySpec("file_id", "int64", chunk=65_536, shard=1_048_576),
    ArraySpec("segment", "int32", chunk=65_536, shard=1_048_576),
    ArraySpec("n_lines", "uint8", chunk=65_536, shard=1_048_576),
)


def image_arrays(shape: ImageShape) -> tuple[ArraySpec, ...]:
    """All arrays of ``images.zarr`` for images of `shape`, ``images`` first.

    Very large images get fewer to a chunk, since Blosc compresses at most 2 GiB
    at once; ``n_lines`` is wide enough to count to the height.

    Raises
    ------
    UsageError
        If a single image would be too large for a chunk.
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
    return (
        replace(IMAGES, chunk=chunk),
        *(replace(spec, dtype=lines) if spec.name == "n_lines" else spec for spec in INDICES),
    )


def row_shape(spec: ArraySpec, shape: ImageShape) -> tuple[int, ...]:
    """Shape of one row of an array: an image, or a scalar."""
    return (shape.height, shape.width) if spec.name == IMAGES.name else ()


def shard_path(name: str, shard: int, ndim: int) -> str:
    """Where a shard of an array lies within DATASET.

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
        pa.field("kind", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
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
"""A row a file.

`sha256` is of the file's own bytes, hex; null where they were not read.
`text_sha256` is of what its images give back (`raster.images.to_text`, UTF-8),
so that anyone can prove the pixels; null where the file has no images.
"""

RECORDS_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("concept_id", pa.int64()),
        pa.field("doi", pa.string()),
        pa.field("title", pa.string()),
        pa.field("version", pa.string()),
        pa.field("publication_date", pa.string()),
        pa.field("license", pa.string()),
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
"""A row a record. `metadata` is the whole hit as canonical JSON."""

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
"""A row a record that is not in the dataset, and why."""

WITHDRAWN_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""A row a record that readers must no longer show, though its rows are still in place."""

TABLES = {
    "files": FILES_SCHEMA,
    "records": RECORDS_SCHEMA,
    "failures": FAILURES_SCHEMA,
    "withdrawn": WITHDRAWN_SCHEMA,
}
"""Table -> its columns. Each lies in parts, ``<table>.parquet/part-00000.parquet`` and so on;
``dataset.json`` names those that count."""


def part_path(table: str, number: int) -> str:
    """Where a part of a table lies within DATASET.

    Examples
    --------
    >>> part_path("files", 0)
    'files.parquet/part-00000.parquet'
    """
    return f"{table}.parquet/part-{number:05d}.parquet"


def extension_of(name: str) -> str:
    """Extension of a file's name as in 2018: what follows the last dot, or the whole name.

    Examples
    --------
    >>> extension_of("setup.py"), extension_of("Makefile"), extension_of(".gitignore")
    ('py', 'Makefile', 'gitignore')
    """
    return name.rpartition(".")[2]
