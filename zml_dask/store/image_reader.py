"""Reading images: only the chunks that hold the rows asked for, each once, many at once.

zarr-python 3.1 awaits the chunks of a shard one after another, so that a shard
in an object store costs 64 round trips. Here the indexes of all shards come in
one round of requests and the chunks of all shards in another.

Only what was committed is returned. It is an error that names the shard if an index or a
chunk does not fit its checksum, or if a shard is an older state, from a cache say. If another
dataset is there by now, that is an error too: ``dataset.json`` is read again with the first
chunks of a shard.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zml_dask.allocator import keep_freed_buffers
from zml_dask.errors import DatasetDamagedError, ObjectMissingError
from zml_dask.raster.images import Images
from zml_dask.store.info import DatasetInfo, ensure_same
from zml_dask.store.layout import DATASET_JSON, IMAGES, row_shape, shard_path
from zml_dask.store.shards import ShardReader
from zml_dask.store.storage import Range, Storage

Int64 = NDArray[np.int64]

_INDEXES_KEPT = 16_384
"""Of shards, about a kilobyte each."""


class ImageReader:
    """Reads rows of ``images``; keeps the indexes of the shards that it has seen.

    Small, and can be pickled. May be used from several threads. `row` is the shape of an image.
    """

    def __init__(self, storage: Storage, info: DatasetInfo) -> None:
        keep_freed_buffers()  # also where Dask itself computes a view's images
        self.storage = storage
        self.info = info
        self.spec = info.array(IMAGES.name)
        self.row = row_shape(self.spec, info.shape)
        self._indexes: dict[int, bytes] = {}
        self._seen = info.to_bytes()
        self._last_rows = {
            shard.path: (shard.rows, shard.last_rows_sha256) for shard in info.boundary_shards
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.storage, self.info)

    def read(self, rows: Int64, *, target: Images | None = None, decoders: int = 1) -> Images:
        """Read some images, uint32, shape (n, height, width), into `target` if it is given.

        `rows` are ascending, each once. So many chunks as `decoders` are decoded at once, by
        threads; one is right for a Dask task, whose neighbours have the other processors.
        `DatasetDamagedError` if a shard is not what was committed, or there are no such images;
        `StorageError` if a shard is missing, or another dataset is there by now.
        """
        if rows.size and not 0 <= rows[0] <= rows[-1] < self.info.counts.images:
            raise DatasetDamagedError(
                f"{self.storage.url} has {self.info.counts.images:,} images, but {rows[0]:,} to "
                f"{rows[-1]:,} are read, by its tables; run zml-dask verify on the dataset"
            )
        images: Images = np.empty((rows.size, *self.row), np.uint32) if target is None else target
        try:
            self._read(rows, images, decoders)
        except ObjectMissingError:
            ensure_same(self.storage, self.info)
            raise
        except DatasetDamagedError:
            # Read again: a commit replaces the dataset's last shard, a repack every one, with
            # the same rows. Shard by shard, to have little time between index and chunks.
            for shard, begin, end in _runs(rows // self.spec.shard):
                self._indexes.pop(shard, None)
                self._read(rows[begin:end], images[begin:end], decoders)
        return images

    def _read(self, rows: Int64, images: Images, decoders: int) -> None:
        spec = self.spec
        numbers = [shard for shard, _, _ in _runs(rows // spec.shard)]
        is_new = not self._indexes.keys() >= set(numbers)
        shards = self._open(numbers)
        runs = _runs(rows // spec.chunk)
        places = [divmod(chunk, spec.shard // spec.chunk) for chunk, _, _ in runs]
        ranges: list[Range] = []
        for shard, chunk in places:
            with self._named(shard):
                ranges.append((self._path(shard), *shards[shard].span(chunk)))
        if is_new:  # together with the chunks, so it costs no time
            ranges.append((DATASET_JSON, 0, None))
        found = self.storage.read_ranges(ranges)
        if is_new and found[-1] != self._seen:
            ensure_same(self.storage, self.info, found[-1])
            self._seen = found[-1]

        def decode(number: int) -> None:
            first, begin, end = runs[number]
            shard, chunk = places[number]
            is_whole = end - begin == spec.chunk
            with self._named(shard):
                target = images[begin:end] if is_whole else None
                decoded = shards[shard].decode(chunk, found[number], target)
                self._check_last_rows(shard, chunk, decoded)
            if not is_whole:
                images[begin:end] = decoded[rows[begin:end] - first * spec.chunk]

        if decoders < 2 or len(runs) < 2:
            for number in range(len(runs)):
                decode(number)
        else:
            with ThreadPoolExecutor(min(decoders, len(runs))) as pool:
                list(pool.map(decode, range(len(runs))))

    def _open(self, shards: Sequence[int]) -> dict[int, ShardReader]:
        """Open shards, after reading the indexes that are not known yet, all at once.

        Each must hold as many rows as are committed: a cache, or a copy made while a commit
        ran, may have an older state of a shard that a later commit has filled up.
        """
        known = {shard: self._indexes[shard] for shard in shards if shard in self._indexes}
        missing = [shard for shard in shards if shard not in known]
        size = ShardReader.tail_bytes(self.spec)
        tails = self.storage.read_ranges([(self._path(shard), -size, None) for shard in missing])
        known.update(zip(missing, tails, strict=True))
        opened: dict[int, ShardReader] = {}
        for shard in shards:
            with self._named(shard):
                opened[shard] = ShardReader(self.spec, self.row, known[shard])
                rows = min(self.info.counts.images - shard * self.spec.shard, self.spec.shard)
                needed = -(-rows // self.spec.chunk)
                if opened[shard].chunks < needed:
                    raise DatasetDamagedError(
                        f"it holds {opened[shard].chunks} of {needed} chunks: it is damaged, or "
                        "an older state of it, from a cache say"
                    )
        if len(self._indexes) + len(missing) > _INDEXES_KEPT:
            self._indexes.clear()
        self._indexes.update((shard, known[shard]) for shard in missing)
        return opened

    def _check_last_rows(self, shard: int, chunk: int, decoded: NDArray[np.generic]) -> None:
        """Check the rows of a chunk in which a commit ended."""
        rows, sha256 = self._last_rows.get(self._path(shard), (0, None))
        last, rest = divmod(rows - 1, self.spec.chunk)
        if sha256 is None or chunk != last:
            return
        if hashlib.sha256(decoded[: rest + 1].tobytes()).hexdigest() != sha256:
            raise DatasetDamagedError(
                f"chunk {chunk} does not hold the rows that dataset.json describes: it is an older "
                "state of it, from a cache say"
            )

    def _path(self, shard: int) -> str:
        return shard_path(self.spec.name, shard, 1 + len(self.row))

    @contextlib.contextmanager
    def _named(self, shard: int) -> Iterator[None]:
        """Name the shard in errors."""
        try:
            yield
        except DatasetDamagedError as error:
            where = f"{self.storage.url}/{self._path(shard)}"
            message = f"{where}: {error}; run zml-dask verify on the dataset"
            raise DatasetDamagedError(message) from error


def _runs(numbers: Int64) -> list[tuple[int, int, int]]:
    """List each different number of an ascending array, with where it begins and ends."""
    values, begins = np.unique(numbers, return_index=True)
    ends = np.append(begins[1:], numbers.size)[: values.size]
    return list(zip(values.tolist(), begins.tolist(), ends.tolist(), strict=True))
