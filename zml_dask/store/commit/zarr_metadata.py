"""The JSON of ``images.zarr``: one Zarr v3 group with consolidated metadata.

Written by hand and not by a library, so that the same dataset has the same
bytes whatever release of zarr-python is installed; a test holds them to what
zarr-python makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from zml_dask.store.layout import (
    IMAGES_ZARR,
    SCHEMA_VERSION,
    ArraySpec,
    ImageShape,
    row_shape,
)
from zml_dask.store.shards import chunk_bytes

_COORDINATES = "record_id file_id segment n_lines"
_CRC: dict[str, Any] = {"name": "crc32c"}
_NODE = "zarr.json"


def array_metadata(spec: ArraySpec, shape: ImageShape, n_images: int) -> dict[str, Any]:
    """Metadata of one array with `n_images` rows."""
    row = row_shape(spec, shape)
    itemsize = np.dtype(spec.dtype).itemsize
    serializer: dict[str, Any] = {"name": "bytes"}
    if itemsize > 1:
        serializer["configuration"] = {"endian": "little"}
    compressor = {
        "name": "blosc",
        "configuration": {
            "typesize": itemsize,
            "cname": "zstd",
            "clevel": spec.level,
            "shuffle": "shuffle",
            "blocksize": chunk_bytes(spec, row),
        },
    }
    index = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [spec.chunk, *row],
            "codecs": [serializer, compressor, _CRC],
            "index_codecs": [index, _CRC],
            "index_location": "end",
        },
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_images, *row],
        "data_type": spec.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [spec.shard, *row]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": spec.fill_value,
        "codecs": [sharding],
        # CF's way to say which arrays are coordinates: xarray gives them as such.
        "attributes": {"coordinates": _COORDINATES} if row else {},
        "dimension_names": ["image", "row", "column"][: 1 + len(row)],
        "storage_transformers": [],
    }


def zarr_objects(
    specs: Iterable[ArraySpec], shape: ImageShape, n_images: int
) -> Iterator[tuple[str, bytes]]:
    """Give path and bytes of every metadata object; the group, which is read first, last."""
    arrays = {
        spec.name: array_metadata(spec, shape, n_images)
        for spec in sorted(specs, key=lambda spec: spec.name)
    }
    for name, metadata in arrays.items():
        yield f"{IMAGES_ZARR}/{name}/{_NODE}", _to_bytes(metadata)
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"zml_dask": {"schema_version": SCHEMA_VERSION}},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    yield f"{IMAGES_ZARR}/{_NODE}", _to_bytes(group)


def _to_bytes(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata, indent=1).encode() + b"\n"
