"""64 numbers for every file and record, so that similar ones lie near each other.

A text is its counts of words and pairs of words (`learning.words`), each with the logarithm
of its count and weighted by how few files hold it. What turns these counts into 64 numbers
is fitted once, on some files of the dataset: a singular value decomposition keeps 256 axes
in which texts differ most, and of those the 64 are chosen in which files of different
languages differ most by the measure of how files of one language do. It is kept as a table of
its own, ``embedding_weights``, so that the rows of an update are computed as all others were.

A vector is stored as 64 signed bytes: only its direction counts. A record is the mean of
the directions of its files, each counted by its images up to eight, since the many small
files say less of it; beside it stands a MinHash signature of its tree, for comparing
how records are laid out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.derived.job import Recipe, derive_on, put_columns, software
from zml_dask.derived.near_duplicates import BINS, fill_empty
from zml_dask.engine.job import OpenExecutor
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.learning.words import N_BUCKETS, WordCounts, count_words, mixed, pages_of
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import Images
from zml_dask.store.info import DerivedTable, Part
from zml_dask.store.layout import derived_table
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]

EMBEDDING: Final = "embedding"
WEIGHTS: Final = "embedding_weights"
RECORDS: Final = "record_embedding"

SIZE: Final = 64
"""Numbers of a vector."""
_N_WEIGHTED: Final = 2**16
"""Rows of the weights: neighbouring buckets of words share one."""
_TO_ROW: Final = int(np.log2(N_BUCKETS // _N_WEIGHTED))
_AXES: Final = 256
_OVERSAMPLED: Final = 32
_SAMPLE: Final = 12_000
"""Files that the weights are fitted on."""
_PER_RECORD: Final = 100
"""Of those, from one record at most."""
_PAGES: Final = 8
"""Images of a file that are counted, for the fit and as its weight in a record."""
_MOST_OF_A_LANGUAGE: Final = 50
"""A language counts by its files in the sample, up to so many."""
_RIDGE: Final = 0.03
_ROWS_AT_ONCE: Final = 2**17
"""A row group of a table."""
_IMAGES_AT_ONCE: Final = 2_048

_ONE = np.uint64(1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TO_BIN = np.uint64(57)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def _times(
    indptr: Int64, columns: NDArray[np.uint32], values: Float32, dense: Float32
) -> Float32:  # pragma: no cover - compiled
    """Multiply a sparse matrix with a dense one."""
    out = np.zeros((indptr.size - 1, dense.shape[1]), np.float32)
    for row in range(out.shape[0]):
        for at in range(indptr[row], indptr[row + 1]):
            for k in range(dense.shape[1]):
                out[row, k] += values[at] * dense[columns[at], k]
    return out


@compiled
def _transposed_times(
    indptr: Int64, columns: NDArray[np.uint32], values: Float32, dense: Float32, n_columns: int
) -> Float32:  # pragma: no cover - compiled
    """Multiply the transpose of a sparse matrix with a dense one."""
    out = np.zeros((n_columns, dense.shape[1]), np.float32)
    for row in range(indptr.size - 1):
        for at in range(indptr[row], indptr[row + 1]):
            for k in range(dense.shape[1]):
                out[columns[at], k] += values[at] * dense[row, k]
    return out


def fit_weights(counts: WordCounts, languages: Sequence[str | None], seed: int = 0) -> Float32:
    """Find the weights of words and pairs that make 64 numbers of a text's counts.

    Parameters
    ----------
    counts : WordCounts
        A row for each file.
    languages : sequence of str or None
        Of each file.
    seed : int

    Returns
    -------
    numpy.ndarray of float32, shape (65,536, 64)
        The numbers of a text are the sum, over its rows, of weight times
        ``1 + log(count)``. Columns are 0 where there are fewer files than numbers.
    """
    indptr, n = counts.indptr, len(languages)
    columns = counts.buckets >> np.uint32(_TO_ROW)
    held_by = np.bincount(columns, minlength=_N_WEIGHTED)
    rarity = np.log((1 + n) / (1 + np.minimum(held_by, n))).astype(np.float32)
    values = (1 + np.log(counts.counts)).astype(np.float32) * rarity[columns]
    squares = np.add.reduceat(np.append(values, 0) ** 2, indptr[:-1]) * (np.diff(indptr) > 0)
    length = np.sqrt(np.maximum(squares, 1e-12)).astype(np.float32)
    values /= np.repeat(length, np.diff(indptr))

    # Randomised, by powers (Halko, Martinsson and Tropp 2011).
    axes = min(_AXES, n - 1)
    weights = np.zeros((_N_WEIGHTED, SIZE), np.float32)
    if axes < 1:
        return weights
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((_N_WEIGHTED, min(n, axes + _OVERSAMPLED)), np.float32)
    basis = _times(indptr, columns, values, drawn)
    for _ in range(2):
        basis = np.linalg.qr(basis)[0]
        basis = _transposed_times(indptr, columns, values, basis, _N_WEIGHTED)
        basis = _times(indptr, columns, values, basis)
    basis = np.linalg.qr(basis)[0]
    small = _transposed_times(indptr, columns, values, basis, _N_WEIGHTED)
    squared, turned = np.linalg.eigh(small.T @ small)
    scale = np.sqrt(np.maximum(squared[-axes:], 1e-9))
    right = (small @ (turned[:, -axes:] / scale))[:, ::-1]

    right = np.ascontiguousarray(right, np.float32)
    chosen = _telling_axes(_times(indptr, columns, values, right), languages)
    weights[:, : chosen.shape[1]] = rarity[:, np.newaxis] * (right @ chosen)
    weights /= max(float(np.abs(weights).max()), 1e-12)
    return weights


def _telling_axes(points: Float32, languages: Sequence[str | None]) -> Float32:
    """Choose the axes in which languages lie far apart (linear discriminant analysis)."""
    known = np.array([name is not None for name in languages])
    known |= not known.any()
    named = [name or "" for name, is_known in zip(languages, known, strict=True) if is_known]
    language = np.unique(named, return_inverse=True)[1]
    count = np.bincount(language)
    mean = np.zeros((count.size, points.shape[1]))
    np.add.at(mean, language, points[known])
    mean /= count[:, np.newaxis]
    within = points[known] - mean[language]
    spread, turned = np.linalg.eigh(within.T @ within / len(within))
    even = turned / np.sqrt(np.maximum(spread, 0) + _RIDGE * max(spread.mean(), 1e-9))
    weight = np.minimum(count, _MOST_OF_A_LANGUAGE)
    between = (mean - points[known].mean(axis=0)) * np.sqrt(weight / weight.sum())[:, np.newaxis]
    # Where languages are fewer than numbers, the rest are those in which texts differ most.
    apart = between.T @ between + 1e-3 * np.cov(points.T)
    ordered = np.linalg.eigh(even.T @ apart @ even)[1][:, ::-1]
    found: Float32 = (even @ ordered[:, :SIZE]).astype(np.float32)
    return found


@compiled
def _summed(
    buckets: NDArray[np.uint32], counts: NDArray[np.uint32], weights: Float32
) -> Float32:  # pragma: no cover - compiled
    found = np.zeros(weights.shape[1], np.float32)
    for at in range(buckets.size):
        scale = np.float32(1 + np.log(counts[at]))
        for k in range(found.size):
            found[k] += scale * weights[buckets[at] >> _TO_ROW, k]
    return found


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


@dataclass(frozen=True)
class Embedder:
    """Makes 64 numbers of images by the weights of a dataset; what a worker calls.

    Attributes
    ----------
    storage : Storage
    parts : tuple of Part
        Of the weights' table.
    """

    storage: Storage
    parts: tuple[Part, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # Weights that were read are read again where they are needed.
        return type(self), (self.storage, self.parts)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Embedder:
        """Return that of a dataset whose weights were fitted."""
        return cls(snapshot.storage, snapshot.info.tables[derived_table(WEIGHTS)])

    @property
    def fingerprint(self) -> str:
        """Hash of what the numbers depend on; the first one counts the changes of the code."""
        parts = " ".join(part.sha256 for part in self.parts)
        return hashlib.sha256(f"1 {parts}".encode()).hexdigest()

    @cached_property
    def weights(self) -> Float32:
        """Shape (65,536, 64)."""
        import pyarrow.parquet as pq

        tables = [pq.read_table(pa.BufferReader(self.storage.read(p.path))) for p in self.parts]
        column = pa.concat_tables(tables)["weights"].combine_chunks().cast(pa.binary(2 * SIZE))
        read = np.frombuffer(column.buffers()[1], "<f2").reshape(_N_WEIGHTED, SIZE)
        return read.astype(np.float32)

    def __call__(self, images: Images | str) -> bytes | None:
        """Return the vector of a file's images, or of a text; None where it has no words."""
        pages = pages_of(images)
        counts = count_words(pages, [0, len(pages)])  # of all together
        return packed(_summed(counts.buckets, counts.counts, self.weights))


def derive_embedding(
    dataset: str | Storage,
    open_executor: OpenExecutor,
    *,
    again: bool = False,
    progress: BuildProgress | None = None,
) -> Dataset:
    """Compute the vectors of files that have none; the weights are fitted the first time.

    With `again` they are fitted anew.
    """
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    snapshot = Snapshot.open(storage)
    if WEIGHTS not in snapshot.info.derived or again:
        with dataset_lock(storage, on_wait=progress.say) as lock:
            snapshot = Snapshot.open(storage)
            progress.say("fitting the weights of words")
            weights = fit_weights(*_sample(snapshot))
            half = weights.astype("<f2")
            column = pa.array([row.tobytes() for row in half], pa.binary())
            title = f"{__name__}.{fit_weights.__name__}"
            columns = (("weights", "binary"),)
            fingerprint = hashlib.sha256(half.tobytes()).hexdigest()
            described = DerivedTable(columns, title, fingerprint, software(title), of="nothing")
            put_columns(snapshot, WEIGHTS, described, [column], lock)
        snapshot = Snapshot.open(storage)
    embed = Embedder.of(snapshot)
    recipe = Recipe(EMBEDDING, embed, (("vector", "binary"),), ("images",), embed.fingerprint)
    return derive_on(storage, open_executor, recipe=recipe, again=again, progress=progress)


def _sample(snapshot: Snapshot) -> tuple[WordCounts, list[str | None]]:
    """Count the words of some files, of as many records as there are."""
    names = ["record_id", "status", "n_lines", "first_image", "n_images", "language_group"]
    rng = np.random.default_rng(0)
    files = snapshot.scan("files", names[:2])
    usable = np.flatnonzero(pc.equal(files["status"], "ok").to_numpy())
    record = files["record_id"].to_numpy()[usable]
    mixed_up = rng.permutation(usable.size)
    # The first so many of each record, in an order that chance makes.
    order = np.argsort(record[mixed_up], kind="stable")
    starts = np.flatnonzero(np.diff(record[mixed_up][order], prepend=-1))
    rank = np.arange(order.size) - np.repeat(starts, np.diff(np.append(starts, order.size)))
    kept = mixed_up[order[rank < _PER_RECORD]]
    if kept.size > _SAMPLE:
        kept = rng.choice(kept, _SAMPLE, replace=False)
    table = snapshot.take("files", np.sort(usable[kept]), names)
    first = table["first_image"].to_numpy()
    count = np.minimum(table["n_images"].to_numpy(), _PAGES).astype(np.int64)
    found: list[WordCounts] = []
    at = 0
    while at < first.size:
        stop = max(at + 1, int(np.searchsorted(np.cumsum(count[at:]), _IMAGES_AT_ONCE)) + at)
        several = slice(at, stop)
        edges = np.concatenate([[0], np.cumsum(count[several])])
        rows = np.repeat(first[several] - edges[:-1], count[several]) + np.arange(edges[-1])
        found.append(count_words(snapshot.images.read(rows), edges))
        at = stop
    sizes = np.concatenate([[0], *(np.diff(one.indptr) for one in found)])
    counts = WordCounts(
        np.cumsum(sizes),
        np.concatenate([np.empty(0, np.uint32), *(one.buckets for one in found)]),
        np.concatenate([np.empty(0, np.uint32), *(one.counts for one in found)]),
    )
    return counts, table["language_group"].to_pylist()


def vectors_of_files(snapshot: Snapshot) -> Iterator[tuple[Int64, Int64, Int8]]:
    """Yield file numbers, their records' numbers and vectors, in blocks of bounded size."""
    table = derived_table(EMBEDDING)
    total = snapshot.rows(table)
    for at in range(0, total, _ROWS_AT_ONCE):
        rows = np.arange(at, min(at + _ROWS_AT_ONCE, total))
        found = snapshot.take(table, rows, ["record_id", "vector"])
        vectors, there = unpacked(found["vector"])
        yield rows[there], found["record_id"].to_numpy()[there], vectors


def derive_records(
    dataset: str | Storage,
    open_executor: OpenExecutor,
    *,
    again: bool = False,
    progress: BuildProgress | None = None,
) -> Dataset:
    """Compute the vectors and trees of records, and the vectors of files that have none."""
    progress = progress or SilentProgress()
    embedded = derive_embedding(dataset, open_executor, again=again, progress=progress)
    storage = embedded.snapshot.storage
    fingerprint = hashlib.sha256(
        f"2 {embedded.info.derived[EMBEDDING].fingerprint}".encode()
    ).hexdigest()
    if is_current(embedded.snapshot, RECORDS, fingerprint) and not again:
        return embedded
    with dataset_lock(storage, on_wait=progress.say) as lock:
        snapshot = Snapshot.open(storage)
        progress.say(f"putting the files of {snapshot.info.counts.records:,} records together")
        known = snapshot.scan("records", ["record_id"], with_withdrawn=True)
        record_id = known["record_id"].to_numpy()
        order = np.argsort(record_id)
        total = np.zeros((record_id.size, SIZE), np.float32)
        for file_id, record, vectors in vectors_of_files(snapshot):
            pages = snapshot.take("files", file_id, ["n_images"])["n_images"].to_numpy()
            weight = np.minimum(pages, _PAGES).astype(np.float32)
            place = order[np.searchsorted(record_id[order], record)]
            starts = np.flatnonzero(np.diff(place, prepend=-1))
            if starts.size:
                sums = np.add.reduceat(directions(vectors) * weight[:, np.newaxis], starts)
                np.add.at(total, place[starts], sums)
        columns = (("vector", "binary"), ("tree", "binary"))
        title = f"{__name__}.{derive_records.__name__}"
        described = DerivedTable(columns, title, fingerprint, software(title), of="records")
        arrays = [
            pa.array([packed(row) for row in total], pa.binary()),
            pa.array(_trees(snapshot, record_id, order), pa.binary()),
        ]
        put_columns(snapshot, RECORDS, described, arrays, lock)
    return Dataset(Snapshot.open(storage))


def is_current(snapshot: Snapshot, name: str, fingerprint: str) -> bool:
    """Whether a table is there, of all files or records, as the same code computes it."""
    known = snapshot.info.derived.get(name)
    if known is None or known.fingerprint != fingerprint:
        return False
    return bool(snapshot.rows(derived_table(name)) == getattr(snapshot.info.counts, known.of))


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
