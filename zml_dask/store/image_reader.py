"""Reading images: only the chunks that hold the rows asked for, each once, many at once.

zarr-python 3.1 awaits the chunks of a shard one after another, so that a shard
in an object store costs 64 round trips. Here the indexes of all shards come in
one round of requests and the chunks of all shards in another.

Only what was committed is returned. An index or a chunk that does not fit its
checksum, or a shard that ends before its committed rows do, as an older state of
it from a cache does, is an error that names the shard. So is another dataset that has come
to be there: ``dataset.json`` is read again with the first chunks of a shard.
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
from zml_dask.store.layout import DATASET_JSON, IMAGES, ArraySpec, row_shape, shard_path
from zml_dask.store.shards import ShardReader, chunk_bytes
from zml_dask.store.storage import Range, Storage

Int64 = NDArray[np.int64]

_INDEXES_KEPT = 16_384
"""Of shards, about a kilobyte each."""

_CODEC_BYTES = 64
"""By which a chunk that does not compress may be larger than its rows."""

_LARGEST_SHARD = 2**48
"""Bytes; an offset beyond is no place in a file."""


class ImageReader:
    """Reads rows of ``images``; keeps the indexes of the shards that it has seen.

    Small, and can be pickled. May be used from several threads.

    Parameters
    ----------
    info : DatasetInfo
        What is committed.

    Attributes
    ----------
    spec : ArraySpec
        Chunk and shard sizes.
    row : tuple of int
        Shape of an image.
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
        """Read some images.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n,)
            Ascending, each once.
        target : numpy.ndarray of uint32, shape (n, height, width), optional
            Where to put them. Default: new memory.
        decoders : int
            Chunks that are decoded at once, by threads. One is right for a Dask
            task, whose neighbours have the other processors.

        Returns
        -------
        numpy.ndarray of uint32, shape (n, height, width)

        Raises
        ------
        DatasetDamagedError
            If a shard is not what was committed, or there are no such images.
        ObjectMissingError
            If a shard is not there.
        StorageError
            If another dataset is there by now.
        """
        if rows.size and not 0 <= rows[0] <= rows[-1] < self.info.counts.images:
            raise DatasetDamagedError(
                f"{self.storage.url} has {self.info.counts.images:,} images, but {rows[0]:,} to "
                f"{rows[-1]:,} are asked for, as its tables say; run zml-dask verify on the dataset"
            )
        images: Images = np.empty((rows.size, *self.row), np.uint32) if target is None else target
        try:
            self._read(rows, images, decoders)
        except ObjectMissingError:
            ensure_same(self.storage, self.info)
            raise
        except DatasetDamagedError:
            # A commit replaces the dataset's last shard, a repack every one, and the rows in
            # them are the same. Shard by shard, so that little time is between the index
            # and the chunks.
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
        spans = [(shard, shards[shard].span(chunk)) for shard, chunk in places]
        ranges: list[Range] = [(shards[shard].path, *span) for shard, span in spans]
        if is_new:  # with the chunks, so it costs no time; a known index fits its own chunks only
            ranges.append((DATASET_JSON, 0, None))
        found = self.storage.read_ranges(ranges)
        if is_new and found[-1] != self._seen:
            ensure_same(self.storage, self.info, found[-1])
            self._seen = found[-1]
        for (shard, span), data in zip(spans, found, strict=False):
            shards[shard].fetched[span[0]] = data

        def decode(number: int) -> None:
            _, begin, end = runs[number]
            shard, chunk = places[number]
            within = rows[begin:end] - (shard * spec.shard + chunk * spec.chunk)
            shards[shard].decode(chunk, within, images[begin:end])

        if decoders < 2 or len(runs) < 2:
            for number in range(len(runs)):
                decode(number)
        else:
            with ThreadPoolExecutor(min(decoders, len(runs))) as pool:
                list(pool.map(decode, range(len(runs))))

    def _open(self, shards: Sequence[int]) -> dict[int, _Shard]:
        """Open shards, after reading the indexes that are not known yet, all at once."""
        paths = {shard: shard_path(self.spec.name, shard, 1 + len(self.row)) for shard in shards}
        known = {shard: self._indexes[shard] for shard in shards if shard in self._indexes}
        missing = [shard for shard in shards if shard not in known]
        size = ShardReader.tail_bytes(self.spec)
        found = self.storage.read_ranges([(paths[shard], -size, None) for shard in missing])
        known.update(zip(missing, found, strict=True))
        opened = {
            shard: _Shard(self.storage.url, paths[shard], known[shard], self.spec, self.row)
            for shard in shards
        }
        for number, shard in opened.items():
            rows = min(self.info.counts.images - number * self.spec.shard, self.spec.shard)
            shard.expect(rows, self._last_rows.get(shard.path))
        if len(self._indexes) + len(missing) > _INDEXES_KEPT:
            self._indexes.clear()
        self._indexes.update((shard, known[shard]) for shard in missing)
        return opened


class _Shard:
    """A shard as far as it has been read: its index, and the bytes of some chunks."""

    def __init__(
        self, url: str, path: str, index: bytes, spec: ArraySpec, row: tuple[int, ...]
    ) -> None:
        self.path = path
        self.fetched: dict[int, bytes] = {}
        self._url = url
        self._index = index
        self._spec = spec
        self._most = chunk_bytes(spec, row) + _CODEC_BYTES
        self._last: tuple[int, str | None] | None = None
        with self._named():
            self._reader = ShardReader(spec, row, self)

    def __getitem__(self, key: slice, /) -> bytes:
        return self._index[key] if key.start < 0 else self.fetched.get(key.start, b"")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DatasetDamagedError as error:
            raise DatasetDamagedError(
                f"{self._url}/{self.path}: {error}; run zml-dask verify on the dataset"
            ) from error

    def expect(self, rows: int, last: tuple[int, str | None] | None) -> None:
        """Check that it holds as many rows as are committed, and say what the last ones are.

        A cache, or a copy made while a commit ran, may give an older state of a
        shard that a later commit has filled up.

        Parameters
        ----------
        last : (int, str or None), optional
            Rows of a shard that the end of a commit lies in, and the SHA-256 of
            those of them that its last chunk holds.
        """
        with self._named():
            needed = -(-rows // self._spec.chunk)
            if self._reader.chunks < needed:
                raise DatasetDamagedError(
                    f"it holds {self._reader.chunks} of {needed} chunks: it is damaged, or an "
                    "older state of it, from a cache say"
                )
        self._last = last

    def span(self, chunk: int) -> tuple[int, int]:
        """Where a chunk's bytes begin and end."""
        with self._named():
            start, stop = self._reader.span(chunk)
            if stop - start > self._most or stop > _LARGEST_SHARD:
                raise DatasetDamagedError(f"chunk {chunk} cannot be where its index says")
            return start, stop

    def decode(self, chunk: int, rows: Int64, target: Images) -> None:
        """Decode some rows of a chunk into `target`."""
        with self._named():
            if rows.size == self._spec.chunk:
                decoded = self._reader.chunk(chunk, target)
            else:
                decoded = self._reader.chunk(chunk)
                target[...] = decoded[rows]
            if self._last is None or self._last[1] is None:
                return
            last, rest = divmod(self._last[0] - 1, self._spec.chunk)
            if chunk == last:
                digest = hashlib.sha256(decoded[: rest + 1].tobytes()).hexdigest()
                if digest != self._last[1]:
                    raise DatasetDamagedError(
                        f"chunk {chunk} does not hold the rows that dataset.json says it does: it "
                        "is an older state of it, from a cache say"
                    )


def _runs(numbers: Int64) -> list[tuple[int, int, int]]:
    """Find where each number of an ascending array begins and ends in it."""
    values, begins = np.unique(numbers, return_index=True)
    ends = np.append(begins[1:], numbers.size)[: values.size]
    return list(zip(values.tolist(), begins.tolist(), ends.tolist(), strict=True))
