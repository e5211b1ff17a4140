"""Vectors of 64 numbers for every file and record, near each other for similar ones.

A text is represented by its counts of words, pairs and patterns (`learning.words`). Its vector
is the sum over these of weights, which come with the package, times ``1 + log(count)``. The
weights were learnt so that files of one language and of one project are near each other
(``benchmarks/embedding.py``). They are also stored in the dataset, as the table
``embedding_weights``, so that a reader in any programming language can compare a text.

A vector is stored as 64 signed bytes, since only its direction counts. The vector of a record is
the mean of its files' directions, weighted by their number of images up to eight, because its
many small files say less about it. Records also have a MinHash signature of their tree, to
compare how they are organised.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.derived.compute import Recipe, Whole, in_blocks
from zml_dask.derived.near_duplicates import BINS, EMPTY, TO_BIN, fill_empty
from zml_dask.engine.progress import BuildProgress
from zml_dask.learning.words import MULTIPLIER, N_BUCKETS, ONE, count_words, mixed, pages_of
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
"""Largest weight of a file in a record, in images."""


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
    """Computes the vector of images, or of a text.

    The weights of a bucket are its row of `rows`, int8 of shape (262144, 64), times its `scale`,
    a power of two, so that they are exact as 16-bit floats too; 0 for a bucket without weights.
    """

    rows: Int8
    scale: Float32

    @property
    def weights(self) -> Float32:
        """Weights of each bucket; shape (262144, 64)."""
        return self.rows * self.scale[:, np.newaxis]

    @classmethod
    def from_bytes(cls, data: bytes) -> Embedder:
        """Read the ``.npz`` that ``benchmarks/embedding.py`` writes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            kept = np.unpackbits(found["kept"], count=N_BUCKETS).astype(bool)
            rows, scale = np.zeros((N_BUCKETS, SIZE), np.int8), np.zeros(N_BUCKETS, np.float32)
            rows[kept], scale[kept] = found["rows"].T, np.exp2(found["exponent"].astype(float))
            return cls(rows, scale)

    def __call__(self, images: Images | str) -> bytes | None:
        """Return the vector of a file's images, or of a text; None where it has no words."""
        pages = pages_of(images)
        counts = count_words(pages, [0, len(pages)], patterns=True)  # of all pages together
        return pack_vector(
            _summed(counts.buckets, counts.counts, self.rows, self.scale, _LOGARITHMS)
        )


@cache
def _shipped_bytes() -> bytes:
    return (files(__package__) / "embedding.npz").read_bytes()


@cache
def shipped_embedder() -> Embedder:
    """Return the weights that come with the package."""
    return Embedder.from_bytes(_shipped_bytes())


def _weights(_snapshot: Snapshot, _progress: BuildProgress) -> list[pa.Array]:
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
"""The fingerprint includes the weights, so that other weights compute the table again."""


def pack_vector(vector: Float32) -> bytes | None:
    """Return a vector as signed bytes of the same direction; None for one of length 0.

    Examples
    --------
    >>> list(pack_vector(np.array([0.5, -1.0, 0.0], np.float32)))
    [64, 129, 0]
    """
    most = np.abs(vector).max()
    return np.rint(vector * (127 / most)).astype(np.int8).tobytes() if most > 0 else None


def unpack_vectors(column: pa.Array | pa.ChunkedArray) -> tuple[Int8, NDArray[np.bool_]]:
    """Return the vectors of a column, int8 (n, 64), without nulls; and which rows are not null."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    there = np.concatenate([np.empty(0, bool), *(np.asarray(c.is_valid()) for c in chunks)])
    data = b"".join(
        memoryview(fixed.buffers()[1])[fixed.offset * SIZE :][: len(fixed) * SIZE]
        for fixed in (chunk.drop_null().cast(pa.binary(SIZE)) for chunk in chunks)
        if len(fixed)
    )
    return np.frombuffer(data, np.int8).reshape(-1, SIZE), there


def unit_vectors(vectors: Int8) -> Float32:
    """Return vectors scaled to length 1, as float32."""
    found = vectors.astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def vectors_of_files(snapshot: Snapshot) -> Iterator[tuple[Int64, Int64, Int8]]:
    """Yield file numbers, their records' numbers and vectors, in blocks of bounded size."""
    table = derived_table(EMBEDDING.name)
    for rows, found in in_blocks(snapshot, table, ["record_id", "vector"]):
        vectors, there = unpack_vectors(found["vector"])
        yield rows[there], found["record_id"].to_numpy()[there], vectors


def _records(snapshot: Snapshot, progress: BuildProgress) -> list[pa.Array]:
    """Return the vectors and trees of records."""
    progress.say(f"combining the files of {snapshot.info.counts.records:,} records")
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
            sums = np.add.reduceat(unit_vectors(vectors) * weight[:, np.newaxis], starts)
            np.add.at(total, place[starts], sums)
    return [
        pa.array([pack_vector(row) for row in total], pa.binary()),
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
    """Add the names in paths, each alone and together with its folder, to a signature."""
    for row in range(edges.size - 1):
        before = ONE
        depth = 0
        name = np.uint64(0)
        for at in range(edges[row], edges[row + 1] + 1):
            if at < edges[row + 1] and text[at] != 47:
                name = (name + np.uint64(text[at]) + ONE) * MULTIPLIER
                continue
            if depth >= skip:
                for element in (mixed(name), mixed(before * MULTIPLIER + mixed(name))):
                    own = element >> TO_BIN
                    if element < least[own]:
                        least[own] = element
                before = name
            depth += 1
            name = np.uint64(0)


def _trees(snapshot: Snapshot, record_id: Int64, order: Int64) -> list[bytes | None]:
    """Return the signature of each record's tree; None for records without files."""
    found: list[bytes | None] = [None] * record_id.size
    waiting: list[pa.Table] = []
    for rows, block in in_blocks(snapshot, "files", ["record_id", "path"]):
        waiting.append(block)
        table = pa.concat_tables(waiting).combine_chunks()
        record = table["record_id"].to_numpy()
        starts = np.flatnonzero(np.diff(record, prepend=-1))
        # The last record may continue in the next block.
        is_last = rows[-1] + 1 == snapshot.info.counts.files
        done = starts.size if is_last else starts.size - 1
        for start, stop in zip(starts[:done], np.append(starts, record.size)[1:], strict=False):
            place = order[np.searchsorted(record_id[order], record[start])]
            found[place] = sign_tree(table["path"].slice(start, stop - start).combine_chunks())
        waiting = [table.slice(starts[-1])] if done < starts.size else []
    return found


def sign_tree(paths: pa.Array) -> bytes:
    """Return the signature of a tree, 256 bytes, from the names of its files and folders.

    The share of equal 16-bit numbers in two signatures is about the share of names that they have
    in common. A single folder around everything is left out.

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
    least = np.full(BINS, EMPTY, np.uint64)
    edges = np.frombuffer(plain.buffers()[1], np.int32)[plain.offset :][: len(plain) + 1]
    text = plain.buffers()[2]
    _add_paths(np.frombuffer(text or b"", np.uint8), edges, least, int(around))
    signature = np.empty(BINS, np.uint16)
    fill_empty(least, signature)
    return signature.astype("<u2", copy=False).tobytes()
