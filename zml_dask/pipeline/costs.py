"""What each array and table of a dataset takes on disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq
import zarr
from zarr.codecs import BloscCodec

from zml_dask.store.info import DatasetInfo, open_arrays
from zml_dask.store.storage import Storage


@dataclass(frozen=True, slots=True)
class Cost:
    """What an array or a table takes.

    Attributes
    ----------
    name : str
    rows : int
    stored : int
        Bytes on disk.
    size : int
        Bytes uncompressed.
    ratio : float
        `size` over `stored`.
    chunks, shards : int
        How many; of a table its row groups and its parts.
    codec : str
    """

    name: str
    rows: int
    stored: int
    size: int
    ratio: float
    chunks: int
    shards: int
    codec: str

    def to_json(self) -> dict[str, Any]:
        """Return the cost as a JSON object."""
        return asdict(self)


def array_costs(storage: Storage, info: DatasetInfo) -> list[Cost]:
    """Measure the arrays of ``images.zarr``.

    Parameters
    ----------
    storage : Storage
    info : DatasetInfo
    """
    if not info.commits:
        return []
    group = open_arrays(storage)
    arrays = [array for _, array in group.arrays()]
    return [_array_cost(array) for array in sorted(arrays, key=lambda array: -array.nbytes)]


def _array_cost(array: zarr.Array[Any]) -> Cost:
    stored = int(array.nbytes_stored())
    rows, chunk = array.shape[0], array.chunks[0]
    shard = (array.shards or array.chunks)[0]
    return Cost(
        array.name.strip("/"),
        rows,
        stored,
        array.nbytes,
        _ratio(array.nbytes, stored),
        math.ceil(rows / chunk),
        math.ceil(rows / shard),
        ", ".join(_codec_name(codec) for codec in array.compressors) or "none",
    )


def _codec_name(codec: Any) -> str:
    if isinstance(codec, BloscCodec):
        return f"blosc {codec.cname.value}-{codec.clevel} {codec.shuffle.value}"
    return type(codec).__name__.removesuffix("Codec").lower()


def table_costs(storage: Storage, info: DatasetInfo) -> list[Cost]:
    """Measure the tables.

    Parameters
    ----------
    storage : Storage
    info : DatasetInfo
    """
    costs = []
    for name, parts in info.tables.items():
        size = groups = 0
        codecs = set()
        for part in parts:
            with storage.open_reader(part.path) as stream:
                metadata = pq.read_metadata(stream)
            groups += metadata.num_row_groups
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                size += group.total_byte_size
                codecs |= {group.column(i).compression for i in range(group.num_columns)}
        stored = sum(part.size for part in parts)
        rows = sum(part.rows for part in parts)
        codec = f"parquet {'/'.join(sorted(codecs)).lower()}".strip()
        costs.append(
            Cost(name, rows, stored, size, _ratio(size, stored), groups, len(parts), codec)
        )
    return costs


def _ratio(size: int, stored: int) -> float:
    return round(size / stored, 2) if stored else 0.0
