"""Writes valid datasets of a million images in a second: one shard, linked again and again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from zml_dask.raster.images import rasterize_into
from zml_dask.store.commit.tasks import in_language_order, index_columns
from zml_dask.store.info import Counts, DatasetInfo
from zml_dask.store.layout import (
    DATASET_JSON,
    FILES_BY_LANGUAGE_SCHEMA,
    FILES_SCHEMA,
    INDICES,
    ImageShape,
    image_arrays,
    shard_path,
)
from zml_dask.store.shards import ShardBuilder, zarr_objects
from zml_dask.store.storage import Storage
from zml_dask.store.summary import summarise
from zml_dask.store.tables import records_table, write_part

SHAPE = ImageShape()
FILES_A_SHARD = 1024
IMAGES_A_FILE = 4
LANGUAGES = ["Python"] * 60 + ["C"] * 30 + ["R"] * 9 + ["Fortran"]
LICENSES = ["mit", "apache-2.0", None, "gpl-3.0"]


def write_large_dataset(folder: Path, shards: int = 245, seed: int = 0) -> Storage:
    """Write `shards` times 4,096 images; a record a shard, every hundredth file Fortran."""
    storage = Storage.open(folder)
    first = shard_path("images", 0, 3)
    storage.write(first, _shard())
    for shard in range(1, shards):
        path = Path(storage.url, shard_path("images", shard, 3))
        path.parent.mkdir(parents=True)
        os.link(Path(storage.url, first), path)
    files = _files(shards, np.random.default_rng(seed))
    records = _records(shards)
    _write_indices(storage, files, shards)
    images = shards * FILES_A_SHARD * IMAGES_A_FILE
    for path, data in zarr_objects(DatasetInfo().arrays, ImageShape(), images):
        storage.write(path, data)
    projection = files.select(FILES_BY_LANGUAGE_SCHEMA.names)
    parts = {
        "files": (write_part(storage, "files", 0, [files]),),
        "files_by_language": (
            write_part(storage, "files_by_language", 0, in_language_order(projection)),
        ),
        "records": (write_part(storage, "records", 0, [records]),),
        "failures": (),
        "withdrawn": (),
        "summary": (write_part(storage, "summary", 0, [summarise(files, records)]),),
    }
    counts = Counts(images, len(files), len(records), 0)
    info = DatasetInfo(shape=SHAPE, counts=counts, tables=parts, commits=(counts,))
    storage.write(DATASET_JSON, info.to_bytes())
    return storage


def _shard() -> bytes:
    builder = ShardBuilder(image_arrays(SHAPE)[0], (SHAPE.height, SHAPE.width))
    line = 0
    while builder.rows < FILES_A_SHARD * IMAGES_A_FILE:
        texts = []
        for _ in range(16):
            lines = SHAPE.height * IMAGES_A_FILE
            texts.append(
                "".join(f"x{n} = f({n * 7})\n" for n in range(line, line + lines)).encode()
            )
            line += lines
        room = builder.room
        rasterize_into(texts, room, np.empty(len(room), np.uint8))
        builder.advance(len(room))
    return builder.finish()


def _files(shards: int, random: np.random.Generator) -> pa.Table:
    n = shards * FILES_A_SHARD
    numbers = np.arange(n)
    languages = pa.array(LANGUAGES).take(pa.array(random.integers(0, len(LANGUAGES), n)))
    paths = pa.array([f"src/{i}.x" for i in range(FILES_A_SHARD)]).take(
        pa.array(numbers % FILES_A_SHARD)
    )
    columns = {
        "file_id": numbers,
        "record_id": numbers // FILES_A_SHARD,
        "path": paths,
        "name": paths,
        "extension": pa.array(["x"] * n),
        "language": languages,
        "language_group": languages,
        "size": 1_000 + numbers * 7_919 % 9_973,
        "sha256": pa.array([random.bytes(32).hex() for _ in range(n)]),
        "status": pa.array(["ok"] * n),
        "n_lines": np.full(n, SHAPE.height * IMAGES_A_FILE),
        "n_cut": np.zeros(n, np.int32),
        "first_image": numbers * IMAGES_A_FILE,
        "n_images": np.full(n, IMAGES_A_FILE),
    }
    return pa.table(
        [
            pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(n, field.type)
            for field in FILES_SCHEMA
        ],
        schema=FILES_SCHEMA,
    )


def _records(shards: int) -> pa.Table:
    rows = [
        {
            "record_id": i,
            "concept_id": i // 2,
            "title": f"record {i}",
            "license": LICENSES[i % len(LICENSES)],
            "licenses": [LICENSES[i % len(LICENSES)]] if i % len(LICENSES) != 2 else [],
            "keywords": ["a", f"k{i % 7}"],
            "publication_date": f"{2014 + i % 10}-01-01",
            "n_files": FILES_A_SHARD,
            "n_images": FILES_A_SHARD * IMAGES_A_FILE,
        }
        for i in range(shards)
    ]
    return records_table(rows)


def _write_indices(storage: Storage, files: pa.Table, shards: int) -> None:
    columns = index_columns(
        *(
            files[name].to_numpy().astype(np.int64)
            for name in ("record_id", "file_id", "n_images", "n_lines")
        ),
        SHAPE.height,
    )
    for spec in INDICES:
        builder = ShardBuilder(spec)
        for shard, start in enumerate(range(0, columns[spec.name].size, spec.shard)):
            builder = ShardBuilder(spec)
            builder.extend(columns[spec.name][start : start + spec.shard])
            storage.write(shard_path(spec.name, shard, 1), builder.finish())
