"""Rows of one stored array in order, shard by shard, every chunk checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zml_dask.store.commit.shards import ShardReader
from zml_dask.store.layout import ArraySpec, ImageShape, row_shape, shard_path
from zml_dask.store.storage import Storage


class StoredRows:
    """Reads runs of rows; keeps the shard and the chunk it read last.

    For going through an array in order, as verification does; queries use Zarr.

    Parameters
    ----------
    storage : Storage
    spec : ArraySpec
    shape : ImageShape
    """

    def __init__(self, storage: Storage, spec: ArraySpec, shape: ImageShape) -> None:
        self._storage = storage
        self._spec = spec
        self._row = row_shape(spec, shape)
        self._shard: tuple[int, ShardReader] | None = None
        self._chunk: tuple[int, NDArray[np.generic]] | None = None

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """Decode rows `start` to `stop` of the array.

        Raises
        ------
        ShardDamagedError
            If a chunk or an index does not fit its checksum.
        ObjectMissingError
            If a shard is not there.
        """
        size = self._spec.chunk
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            decoded = self._decode(chunk)
            parts.append(decoded[max(start - chunk * size, 0) : stop - chunk * size])
        if len(parts) == 1:
            return parts[0]
        empty = np.empty((0, *self._row), self._spec.dtype)
        return np.concatenate([empty, *parts])

    def _decode(self, chunk: int) -> NDArray[np.generic]:
        if self._chunk is None or self._chunk[0] != chunk:
            shard, within = divmod(chunk, self._spec.shard // self._spec.chunk)
            if self._shard is None or self._shard[0] != shard:
                path = shard_path(self._spec.name, shard, 1 + len(self._row))
                data = self._storage.read(path)
                self._shard = shard, ShardReader(self._spec, self._row, data)
            self._chunk = chunk, self._shard[1].chunk(within)
        return self._chunk[1]
