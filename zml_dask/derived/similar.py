"""Similarity: the records and files nearest to a given one, and maps of all.

Vectors are compared by the cosine of their angle, trees by the share of names that they have in
common. All vectors are read, block by block, so that memory does not grow with the dataset; 65
million of them are 4.2 GB. An index would be faster, but would have to hold all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.derived.compute import Recipe, Whole
from zml_dask.derived.embedding import (
    EMBEDDING,
    RECORDS,
    SIZE,
    shipped_embedder,
    unit_vectors,
    unpack_vectors,
    vectors_of_files,
)
from zml_dask.derived.near_duplicates import BINS
from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.errors import UsageError, require
from zml_dask.query.dataset import Dataset
from zml_dask.query.file_images import find_file
from zml_dask.query.selection import open_selected
from zml_dask.store.layout import derived_table
from zml_dask.store.snapshot import Snapshot

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

NEIGHBOURS: Final = 10
LANDMARKS: Final = 10_000
"""Points from which the map is computed; others are placed among their nearest of these."""
_PLACED_BY: Final = 5
_FEW: Final = 3_000
"""Points from which t-SNE's forces are computed on a grid: for fewer that takes longer."""
_COSINES_AT_ONCE: Final = 2**25
"""134 MB, however many records are compared with one another."""


def similar(
    view: Dataset,
    record: int | str | None = None,
    *,
    file: int | str | None = None,
    text: str | None = None,
    k: int = 10,
    by: str = "content",
) -> pd.DataFrame:
    """Find the nearest to a record, a file or a text; see `Dataset.similar`."""
    if sum(one is not None for one in (record, file, text)) != 1:
        raise UsageError("give exactly one of record, file and text")
    if k < 1:
        raise UsageError(f"k is the number of results, 1 or more, not {k!r}")
    if by not in ("content", "tree") or (by == "tree" and record is None):
        raise UsageError(f"by must be 'content', or for records also 'tree', not {by!r}")
    snapshot = view.snapshot
    if record is not None:
        return _similar_records(view, record, k, by)
    _check_derived(snapshot, EMBEDDING)
    own = -1
    if file is not None:
        row = find_file(Dataset(snapshot), file)
        own = row["record_id"]
        column = snapshot.take(
            derived_table(EMBEDDING.name), np.array([row["file_id"]]), ["vector"]
        )
        vector = column["vector"][0].as_py() if len(column) else None
    else:
        if snapshot.info.derived[EMBEDDING.name].fingerprint != EMBEDDING.fingerprint:
            raise UsageError(
                "the vectors of files were computed by another version of zml-dask; run "
                f"zml-dask derive DATASET {EMBEDDING.name}"
            )
        vector = shipped_embedder()(text or "")
    if vector is None:
        raise UsageError(
            "it has no words to compare, or is newer than the table; choose another, or run "
            f"zml-dask derive DATASET {EMBEDDING.name}"
        )
    wanted = unit_vectors(np.frombuffer(vector, np.int8)[np.newaxis])[0]
    best = (np.empty(0, np.int64), np.empty(0, np.float32))
    chosen = None if view.is_all else view.selection.files.mask()
    for file_id, record_id, vectors in vectors_of_files(snapshot):
        keep = record_id != own
        if chosen is not None:
            keep &= chosen[file_id]
        several = unit_vectors(vectors[keep]) @ wanted
        best = _best(np.append(best[0], file_id[keep]), np.append(best[1], several), k)
    order = np.argsort(best[0])
    rows = snapshot.take("files", best[0][order], ["file_id", "record_id", "path"])
    frame: pd.DataFrame = rows.to_pandas()
    frame.insert(1, "similarity", best[1][order])
    return frame.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def _similar_records(view: Dataset, name: int | str, k: int, by: str) -> pd.DataFrame:
    snapshot = view.snapshot
    record = snapshot.record(name, ["record_id"])["record_id"]
    _check_derived(snapshot, RECORDS)
    column = "vector" if by == "content" else "tree"
    table = snapshot.scan(derived_table(RECORDS.name), ["record_id", column])
    known = table["record_id"].to_numpy()
    there = table[column].is_valid().to_numpy()
    own = np.flatnonzero(known == record)
    if not own.size or not there[own[0]]:
        raise UsageError(
            f"record {record} has no words to compare, or is newer than the table; run "
            f"zml-dask derive DATASET {RECORDS.name}"
        )
    if by == "content":
        vectors = unit_vectors(unpack_vectors(table[column])[0])
    else:
        vectors = np.frombuffer(b"".join(table[column].drop_null().to_pylist()), "<u2")
        vectors = vectors.reshape(-1, BINS)
    place = int(np.flatnonzero(known[there] == record)[0])
    one = vectors[place]
    found = vectors @ one if by == "content" else (vectors == one).mean(axis=1)
    found = found.astype(np.float32)
    keep = known[there] != record
    if not view.is_unselected:
        of_view = snapshot.take("records", view.record_rows, ["record_id"])["record_id"]
        keep &= np.isin(known[there], of_view.to_numpy())
    numbers, scores = _best(known[there][keep], found[keep], k)
    frame = pd.DataFrame({"record_id": numbers, "similarity": scores})
    titles = snapshot.scan("records", ["record_id", "title"]).to_pandas()
    return frame.merge(titles, on="record_id", how="left")


def _best(numbers: Int64, scores: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the `k` with the highest scores in order; of equal scores the smallest numbers."""
    order = np.lexsort((numbers, -scores))[:k]
    return numbers[order], scores[order]


def _check_derived(snapshot: Snapshot, table: Recipe | Whole) -> None:
    if table.name not in snapshot.info.derived:
        raise UsageError(
            f"{snapshot.storage.url} has no table {table.name!r}; "
            f"run zml-dask derive DATASET {table.name}"
        )


def nearest(points: Float32, others: Float32, k: int) -> Iterator[tuple[int, Int64, Float32]]:
    """Find the rows of `others`, (m, 64), nearest to each of `points`, (n, 64), and the cosines.

    All have length 1. Yields, for several points at a time, the number of the first, and both
    results, of shape (several, min(k, m)), the nearest first.
    """
    several = max(1, _COSINES_AT_ONCE // max(1, len(others)))
    for first in range(0, len(points), several):
        found = points[first : first + several] @ others.T
        shape = len(found), min(k, len(others))
        places, cosines = np.empty(shape, np.int64), np.empty(shape, np.float32)
        _keep_largest(found, places, cosines)
        yield first, places, cosines


@compiled
def _keep_largest(
    found: Float32, places: Int64, cosines: Float32
) -> None:  # pragma: no cover - compiled
    """Keep the largest of each row, in order; ten times as fast as NumPy's partition."""
    k = places.shape[1]
    for row in range(found.shape[0]):
        n = 0
        for column in range(found.shape[1]):
            value = found[row, column]
            if n == k and value <= cosines[row, k - 1]:
                continue
            n = min(n + 1, k)
            at = n - 1
            while at > 0 and cosines[row, at - 1] < value:
                cosines[row, at] = cosines[row, at - 1]
                places[row, at] = places[row, at - 1]
                at -= 1
            cosines[row, at] = value
            places[row, at] = column


def draw(
    n: int, blocks: Callable[[], Iterable[Float32]], progress: BuildProgress | None = None
) -> Float32:
    """Place `n` points of length 1 in a plane by t-SNE; (n, 2), from -1 to 1.

    `blocks` yields them, (m, 64), in the same order whenever it is called. Of more than 10,000
    points, a sample of that size is placed, and the others among their nearest five.
    `UsageError` if openTSNE is not installed.
    """
    require("openTSNE", "map", "a map")
    from openTSNE import TSNE

    progress = progress or SilentProgress()
    chosen = np.arange(n)
    if n > LANDMARKS:
        chosen = np.sort(np.random.default_rng(0).choice(n, LANDMARKS, replace=False))
    sample, done = [np.empty((0, SIZE), np.float32)], 0
    for points in blocks():
        low, high = np.searchsorted(chosen, [done, done + len(points)])
        sample.append(points[chosen[low:high] - done])
        done += len(points)
    landmarks = np.concatenate(sample)
    if chosen.size < 4:  # too few to have neighbours
        drawn = landmarks[:, :2].astype(np.float64)
    else:
        perplexity = min(30.0, (chosen.size - 1) / 3)
        options = {
            "metric": "cosine",
            "initialization": "pca",
            "random_state": 0,
            "neighbors": "exact",
            "negative_gradient_method": "fft" if chosen.size > _FEW else "bh",
            # Of 10,000 points, this grid takes 19 s instead of 56 (or 49 without any), and keeps
            # 43 % of each point's ten nearest near it, instead of 45 %.
            "ints_in_interval": 2,
        }
        drawn = np.asarray(TSNE(perplexity=perplexity, **options).fit(landmarks))
    placed = drawn
    if chosen.size < n:
        placed, done = np.empty((n, 2)), 0
        for points in blocks():
            for _, places, cosines in nearest(points, landmarks, _PLACED_BY):
                weight = 1 / np.maximum(1 - cosines, 1e-4)
                weight /= weight.sum(axis=1, keepdims=True)
                stop = done + len(places)
                placed[done:stop] = (drawn[places] * weight[..., np.newaxis]).sum(axis=1)
                progress.update("points", ProgressCounts(stop, n))
                done = stop
        placed[chosen] = drawn
    least, most = placed.min(axis=0), placed.max(axis=0)
    placed -= (least + most) / 2
    placed /= max(float((most - least).max()) / 2, 1e-9)
    return placed.astype(np.float32)


def _record_map(snapshot: Snapshot, progress: BuildProgress) -> list[pa.Array]:
    """Place every record on a map, and find the records nearest to it."""
    table = snapshot.scan(derived_table(RECORDS.name), ["record_id", "vector"], with_withdrawn=True)
    record_id = table["record_id"].to_numpy()
    vectors, there = unpack_vectors(table["vector"])
    points = unit_vectors(vectors)
    progress.say(f"drawing {len(points):,} records")
    shown = record_id[there]
    visible = ~np.isin(shown, np.array([*snapshot.withdrawn], np.int64))
    shown, points, rows = shown[visible], points[visible], np.flatnonzero(there)[visible]
    xy = np.full((record_id.size, 2), np.nan, np.float32)
    xy[rows] = draw(len(points), lambda: [points], progress)
    neighbours: list[Int64 | None] = [None] * record_id.size
    similarity: list[Float32 | None] = [None] * record_id.size
    for first, *found in nearest(points, points, NEIGHBOURS + 1):
        for position, (places, cosines) in enumerate(zip(*found, strict=True), first):
            others = places != position
            neighbours[rows[position]] = shown[places[others][:NEIGHBOURS]]
            similarity[rows[position]] = cosines[others][:NEIGHBOURS]
        progress.update("records", ProgressCounts(position + 1, len(points)))
    return [
        *_coordinates(xy),
        pa.array(_main_languages(snapshot, record_id), pa.string()),
        pa.array(neighbours, pa.list_(pa.int64())),
        pa.array(similarity, pa.list_(pa.float32())),
    ]


def _file_map(snapshot: Snapshot, progress: BuildProgress) -> list[pa.Array]:
    """Place every file on a map."""

    def points() -> Iterator[Float32]:
        return (unit_vectors(vectors) for _, _, vectors in vectors_of_files(snapshot))

    rows = np.concatenate([np.empty(0, np.int64), *(f for f, _, _ in vectors_of_files(snapshot))])
    progress.say(f"drawing {len(rows):,} files")
    xy = np.full((snapshot.info.counts.files, 2), np.nan, np.float32)
    xy[rows] = draw(len(rows), points, progress)
    return _coordinates(xy)


def _coordinates(xy: Float32) -> list[pa.Array]:
    return [pa.array(xy[:, k], mask=np.isnan(xy[:, 0])) for k in (0, 1)]


_XY: Final = (("x", "float"), ("y", "float"))
RECORD_MAP: Final = Whole(
    "record_map",
    RECORDS,
    (*_XY, ("language", "string"), ("neighbours", "list<int64>"), ("similarity", "list<float>")),
    _record_map,
    "records",
    "2",
)
FILE_MAP: Final = Whole("file_map", EMBEDDING, _XY, _file_map, "files", "2")


def _main_languages(snapshot: Snapshot, record_id: Int64) -> list[str | None]:
    """Return the language group of most of each record's images."""
    with open_selected(Dataset(snapshot), {"record_id", "language_group", "n_images"}) as database:
        found = database.table(
            "SELECT record_id, arg_max(language_group, images) AS language FROM ("
            "SELECT record_id, language_group, sum(images)::BIGINT AS images FROM selected "
            "WHERE language_group IS NOT NULL GROUP BY ALL ORDER BY ALL) GROUP BY record_id"
        )
    of_record = dict(zip(*(found[name].to_pylist() for name in found.column_names), strict=True))
    return [of_record.get(number) for number in record_id.tolist()]
