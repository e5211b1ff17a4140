"""Reading images: only the chunks that hold the rows asked for, each once, in few requests.

zarr-python 3.1 awaits the chunks of a shard one after another, so that a shard
in an object store costs 64 round trips. Here neighbouring chunks come in one
range, and ranges at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zml_dask.raster.images import Images
from zml_dask.store.commit.shards import ShardDamagedError, ShardReader
from zml_dask.store.layout import ArraySpec, ImageShape, image_arrays, shard_path
from zml_dask.store.storage import Storage

_CONNECTIONS = 16
"""Ranges asked for at once of storage that is not local."""

_SHARDS_AT_ONCE = 4

Int64 = NDArray[np.int64]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _ShardRanges:
    """The bytes of a shard as far as they have been fetched; a slice gives them."""

    def __init__(self, storage: Storage, path: str, tail: int) -> None:
        self._storage = storage
        self._path = path
        self._tail = storage.read_tail(path, tail)
        self._ranges: dict[int, bytes] = {}

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        def read(span: tuple[int, int]) -> bytes:
            return self._storage.read_range(self._path, *span)

        for (start, _), data in zip(
            ranges, _map(self._storage, read, ranges, _CONNECTIONS), strict=True
        ):
            self._ranges[start] = data

    def __getitem__(self, key: slice, /) -> bytes:
        if key.start < 0:
            return self._tail[key]
        for start, data in self._ranges.items():
            if start <= key.start < start + len(data):
                return data[key.start - start : key.stop - start]
        return b""


@dataclass(frozen=True, slots=True)
class ImageReader:
    """Reads rows of ``images``; small, and can be pickled.

    Attributes
    ----------
    storage : Storage
    shape : ImageShape
    """

    storage: Storage
    shape: ImageShape

    def read(self, rows: Int64, *, target: Images | None = None, decoders: int = 1) -> Images:
        """Read some images.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n,)
            Ascending, each once.
        target : numpy.ndarray of uint32, shape (n, height, width), optional
            Where to put them. Default: new memory.
        decoders : int
            Chunks of local storage that are decoded at once, by threads. One is
            right for a Dask task, whose neighbours have the other processors.

        Returns
        -------
        numpy.ndarray of uint32, shape (n, height, width)

        Raises
        ------
        ShardDamagedError
            If a shard is not what was written.
        ObjectMissingError
            If a shard is not there.
        """
        spec = image_arrays(self.shape)[0]
        shape = (rows.size, self.shape.height, self.shape.width)
        images: Images = np.empty(shape, np.uint32) if target is None else target

        def read(task: tuple[int, int, int]) -> None:
            shard, begin, end = task
            within = rows[begin:end] - shard * spec.shard
            self._read_shard(spec, shard, within, images[begin:end], decoders)

        for _ in _map(self.storage, read, _runs(rows // spec.shard), _SHARDS_AT_ONCE):
            pass
        return images

    def _read_shard(
        self, spec: ArraySpec, shard: int, rows: Int64, target: Images, decoders: int
    ) -> None:
        path = shard_path(spec.name, shard, 3)
        try:
            self._read_chunks(spec, path, rows, target, decoders)
        except ShardDamagedError:
            # The dataset's last shard is replaced by a commit that fills it up;
            # one that came between the index and a chunk leaves the same rows.
            try:
                self._read_chunks(spec, path, rows, target, decoders)
            except ShardDamagedError as error:
                raise ShardDamagedError(
                    f"{self.storage.url}/{path}: {error}; run zml-dask verify on the dataset"
                ) from error

    def _read_chunks(
        self, spec: ArraySpec, path: str, rows: Int64, target: Images, decoders: int
    ) -> None:
        row = (self.shape.height, self.shape.width)
        ranges = _ShardRanges(self.storage, path, ShardReader.tail_bytes(spec))
        reader = ShardReader(spec, row, ranges)
        runs = _runs(rows // spec.chunk)
        spans = (reader.span(chunk) for chunk, _, _ in runs)
        ranges.fetch(_joined(span for span in spans if span is not None))

        def decode(run: tuple[int, int, int]) -> None:
            chunk, begin, end = run
            if end - begin == spec.chunk:
                reader.chunk(chunk, target[begin:end])
            else:
                decoded = reader.chunk(chunk)
                target[begin:end] = decoded[rows[begin:end] - chunk * spec.chunk]

        # Shards of storage far away are decoded by the threads that wait for them.
        for _ in _in_threads(decode, runs, decoders if self.storage.is_local else 1):
            pass


def _runs(numbers: Int64) -> list[tuple[int, int, int]]:
    """Find where each number of an ascending array begins and ends in it."""
    values, begins = np.unique(numbers, return_index=True)
    ends = np.append(begins[1:], numbers.size)[: values.size]
    return list(zip(values.tolist(), begins.tolist(), ends.tolist(), strict=True))


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans of bytes that touch."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _map(
    storage: Storage,
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    threads: int,
) -> Iterator[_Result]:
    """Map in order: at once where waiting is most of the work, one by one on a local disk."""
    return _in_threads(function, items, 1 if storage.is_local else threads)


def _in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int
) -> Iterator[_Result]:
    """Map in order, as many items at once as there are threads."""
    if threads < 2 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        yield from pool.map(function, items)
