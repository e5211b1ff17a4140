"""64 numbers for every file and record, so that similar ones lie near each other.

A text is its counts of words, pairs and patterns (`learning.words`), and its numbers are sums
over these: weights, which come with the package, times ``1 + log(count)``. They were learnt
so that files of one language and of one project lie near each other
(``benchmarks/embedding.py``). A dataset keeps them beside its vectors, as the table
``embedding_weights``: whoever reads it, in whatever language, can compare a text.

A vector is stored as 64 signed bytes: only its direction counts. A record is the mean of
the directions of its files, each counted by its images up to eight, since the many small
files say less of it; beside it stands a MinHash signature of its tree, for comparing
how records are laid out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.derived.job import Recipe, Whole
from zml_dask.derived.near_duplicates import BINS, fill_empty
from zml_dask.learning.words import N_BUCKETS, count_words, mixed, pages_of
from zml_dask.raster.images import Images
from zml_dask.store.layout import derived_table
from zml_dask.store.snapshot import Snapshot

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]

SIZE: Final = 64
"""Numbers of a vector."""
_LOGARITHMS = 1 + np.log(np.maximum(np.arange(256), 1)).astype(np.float32)
_MOST_PAGES: Final = 8
"""Images of a file that count as its weight in a record."""
_ROWS_AT_ONCE: Final = 2**17
"""A row group of a table."""

_ONE = np.uint64(1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TO_BIN = np.uint64(57)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def _summed(
    buckets: NDArray[np.uint32],
    counts: NDArray[np.uint32],
    rows: Int8,
    scale: Float32,
    logarithms: Float32,
) -> Float32:  # pragma: no cover - compiled
    found = np.zeros(rows.shape[1], np.float32)
    for at in range(buckets.size):
        count, bucket = counts[at], buckets[at]
        if scale[bucket] == 0:
            continue
        value = logarithms[count] if count < logarithms.size else np.float32(1 + np.log(count))
        value *= scale[bucket]
        row = rows[bucket]
        for k in range(found.size):
            found[k] += value * np.float32(row[k])
    return found


@dataclass(frozen=True)
class Embedder:
    """Makes 64 numbers of images, or of a text.

    Attributes
    ----------
    rows : numpy.ndarray of int8, shape (262144, 64)
    scale : numpy.ndarray of float32, shape (262144,)
        What one step of a bucket's row is worth, a power of two, so that numbers of 16 bits
        hold the weights as well; 0 where a bucket has none.
    """

    rows: Int8
    scale: Float32

    @classmethod
    def of_weights(cls, weights: Float32) -> Embedder:
        """Round weights of shape (262144, 64).

        Examples
        --------
        >>> Embedder.of_weights(np.array([[1, 0.25], [0, 0]], np.float32)).rows.tolist()
        [[64, 16], [0, 0]]
        """
        most = np.abs(weights).max(axis=1)
        step = np.exp2(np.ceil(np.log2(np.maximum(most, 2.0**-17) / 127)))
        return cls(
            np.rint(weights / step[:, np.newaxis]).astype(np.int8),
            np.where(most > 0, step, 0).astype(np.float32),
        )

    @property
    def weights(self) -> Float32:
        """Of each bucket; shape (262144, 64)."""
        return self.rows * self.scale[:, np.newaxis]

    def to_bytes(self) -> bytes:
        """Spell the weights as a compressed ``.npz``."""
        kept = self.scale > 0
        target = io.BytesIO()
        np.savez_compressed(
            target,
            kept=np.packbits(kept),
            rows=self.rows[kept].T,
            exponent=np.log2(self.scale[kept]).astype(np.int8),
        )
        return target.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Embedder:
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            kept = np.unpackbits(found["kept"], count=N_BUCKETS).astype(bool)
            rows, scale = np.zeros((N_BUCKETS, SIZE), np.int8), np.zeros(N_BUCKETS, np.float32)
            rows[kept], scale[kept] = found["rows"].T, np.exp2(found["exponent"].astype(float))
            return cls(rows, scale)

    def __call__(self, images: Images | str) -> bytes | None:
        """Return the vector of a file's images, or of a text; None where it has no words."""
        pages = pages_of(images)
        counts = count_words(pages, [0, len(pages)], patterns=True)  # of all pages together
        return packed(_summed(counts.buckets, counts.counts, self.rows, self.scale, _LOGARITHMS))


@cache
def _shipped_bytes() -> bytes:
    return (files(__package__) / "embedding.npz").read_bytes()


@cache
def shipped_embedder() -> Embedder:
    """Read the weights that come with the package, once."""
    return Embedder.from_bytes(_shipped_bytes())


def _weights(_snapshot: Snapshot, _say: Callable[[str], None]) -> list[pa.Array]:
    embedder = shipped_embedder()
    halves = embedder.weights.astype("<f2")
    rows = [
        row.tobytes() if step else None for row, step in zip(halves, embedder.scale, strict=True)
    ]
    return [pa.array(rows, pa.binary())]


def _vector(_weights: str, images: Images) -> bytes | None:
    return shipped_embedder()(images)


_VERSION: Final = hashlib.sha256(_shipped_bytes()).hexdigest()
WEIGHTS: Final = Whole(
    "embedding_weights", None, (("weights", "binary"),), _weights, "nothing", _VERSION
)
EMBEDDING: Final = replace(
    Recipe.of("embedding", partial(_vector, _VERSION), {"vector": "binary"}), base=WEIGHTS
)
"""Tied to the weights' bytes, so that a table by other weights is out of date."""


def packed(vector: Float32) -> bytes | None:
    """Write a vector as 64 signed bytes of the same direction; None for one of length 0.

    Examples
    --------
    >>> list(packed(np.array([0.5, -1.0, 0.0], np.float32)))
    [64, 129, 0]
    """
    most = np.abs(vector).max()
    return np.rint(vector * (127 / most)).astype(np.int8).tobytes() if most > 0 else None


def unpacked(column: pa.Array | pa.ChunkedArray) -> tuple[Int8, NDArray[np.bool_]]:
    """Return the vectors of a column as int8, shape (n, 64), without nulls; and which are none."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    there = np.concatenate([np.empty(0, bool), *(np.asarray(c.is_valid()) for c in chunks)])
    data = b"".join(
        memoryview(fixed.buffers()[1])[fixed.offset * SIZE :][: len(fixed) * SIZE]
        for fixed in (chunk.drop_null().cast(pa.binary(SIZE)) for chunk in chunks)
        if len(fixed)
    )
    return np.frombuffer(data, np.int8).reshape(-1, SIZE), there


def directions(vectors: Int8) -> Float32:
    """Return vectors as float32 of length 1."""
    found = vectors.astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def vectors_of_files(snapshot: Snapshot) -> Iterator[tuple[Int64, Int64, Int8]]:
    """Yield file numbers, their records' numbers and vectors, in blocks of bounded size."""
    table = derived_table(EMBEDDING.name)
    total = snapshot.rows(table)
    for at in range(0, total, _ROWS_AT_ONCE):
        rows = np.arange(at, min(at + _ROWS_AT_ONCE, total))
        found = snapshot.take(table, rows, ["record_id", "vector"])
        vectors, there = unpacked(found["vector"])
        yield rows[there], found["record_id"].to_numpy()[there], vectors


def _records(snapshot: Snapshot, say: Callable[[str], None]) -> list[pa.Array]:
    """Return the vectors and trees of records."""
    say(f"putting the files of {snapshot.info.counts.records:,} records together")
    known = snapshot.scan("records", ["record_id"], with_withdrawn=True)
    record_id = known["record_id"].to_numpy()
    order = np.argsort(record_id)
    total = np.zeros((record_id.size, SIZE), np.float32)
    for file_id, record, vectors in vectors_of_files(snapshot):
        pages = snapshot.take("files", file_id, ["n_images"])["n_images"].to_numpy()
        weight = np.minimum(pages, _MOST_PAGES).astype(np.float32)
        place = order[np.searchsorted(record_id[order], record)]
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        if starts.size:
            sums = np.add.reduceat(directions(vectors) * weight[:, np.newaxis], starts)
            np.add.at(total, place[starts], sums)
    return [
        pa.array([packed(row) for row in total], pa.binary()),
        pa.array(_trees(snapshot, record_id, order), pa.binary()),
    ]


RECORDS: Final = Whole(
    "record_embedding",
    EMBEDDING,
    (("vector", "binary"), ("tree", "binary")),
    _records,
    "records",
    "2",
)


@compiled
def _add_paths(
    text: NDArray[np.uint8], edges: NDArray[np.int32], least: NDArray[np.uint64], skip: int
) -> None:  # pragma: no cover - compiled
    """Add the names in paths, each alone and with the folder it is in, to a signature."""
    for row in range(edges.size - 1):
        before = _ONE
        depth = 0
        name = np.uint64(0)
        for at in range(edges[row], edges[row + 1] + 1):
            if at < edges[row + 1] and text[at] != 47:
                name = (name + np.uint64(text[at]) + _ONE) * _MULTIPLIER
                continue
            if depth >= skip:
                for element in (mixed(name), mixed(before * _MULTIPLIER + mixed(name))):
                    own = element >> _TO_BIN
                    if element < least[own]:
                        least[own] = element
                before = name
            depth += 1
            name = np.uint64(0)


def _trees(snapshot: Snapshot, record_id: Int64, order: Int64) -> list[bytes | None]:
    """Sign the names of files and folders of each record; the one folder around all is none."""
    found: list[bytes | None] = [None] * record_id.size
    total = snapshot.info.counts.files
    waiting: list[pa.Table] = []
    for at in range(0, total, _ROWS_AT_ONCE):
        rows = np.arange(at, min(at + _ROWS_AT_ONCE, total))
        waiting.append(snapshot.take("files", rows, ["record_id", "path"]))
        table = pa.concat_tables(waiting).combine_chunks()
        record = table["record_id"].to_numpy()
        starts = np.flatnonzero(np.diff(record, prepend=-1))
        # The last record may go on in the next block.
        done = starts.size if at + rows.size == total else starts.size - 1
        for start, stop in zip(starts[:done], np.append(starts, record.size)[1:], strict=False):
            place = order[np.searchsorted(record_id[order], record[start])]
            found[place] = sign_tree(table["path"].slice(start, stop - start).combine_chunks())
        waiting = [table.slice(starts[-1])] if done < starts.size else []
    return found


def sign_tree(paths: pa.Array) -> bytes:
    """Return the signature of a tree, 256 bytes: two agree in about what they have in common.

    Examples
    --------
    >>> one = sign_tree(pa.array(["a-1/src/a.c", "a-1/README"]))
    >>> one == sign_tree(pa.array(["a-2/README", "a-2/src/a.c"])), len(one)
    (True, 256)
    """
    first = pc.split_pattern(paths, "/", max_splits=1)
    tops = set(pc.list_element(first, 0).to_pylist())
    around = len(tops) == 1 and pc.min(pc.list_value_length(first)).as_py() == 2
    plain = paths.cast(pa.string())
    least = np.full(BINS, _EMPTY, np.uint64)
    edges = np.frombuffer(plain.buffers()[1], np.int32)[plain.offset :][: len(plain) + 1]
    text = plain.buffers()[2]
    _add_paths(np.frombuffer(text or b"", np.uint8), edges, least, int(around))
    signature = np.empty(BINS, np.uint16)
    fill_empty(least, signature)
    return signature.astype("<u2", copy=False).tobytes()
