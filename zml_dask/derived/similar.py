"""Similarity: the records and files nearest to a given one, and maps of all.

Vectors are compared by the cosine of their angle, trees by the share of names that they have in
common. All vectors are read, block by block, so that memory does not grow with the dataset; 65
million of them are 4.2 GB. An index would be faster, but would have to hold all of them.
"""

from __future__ import annotations

from collections.abc import Callable
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
_AT_ONCE: Final = 1_024


def similar(
    view: Dataset,
    record: int | None = None,
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


def _similar_records(view: Dataset, record: int, k: int, by: str) -> pd.DataFrame:
    snapshot = view.snapshot
    snapshot.record(record, ["record_id"])
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


def nearest(points: Float32, others: Float32, k: int) -> tuple[Int64, Float32]:
    """Find the rows of `others`, (m, 64), nearest to each of `points`, (n, 64), and the cosines.

    All have length 1. Both results have the shape (n, min(k, m)), the nearest first.
    """
    k = min(k, len(others))
    places = np.empty((len(points), k), np.int64)
    cosines = np.empty((len(points), k), np.float32)
    for at in range(0, len(points), _AT_ONCE):
        several = slice(at, at + _AT_ONCE)
        _keep_largest(points[several] @ others.T, places[several], cosines[several])
    return places, cosines


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


def draw(points: Float32) -> Float32:
    """Place points of length 1, (n, 64), in a plane by t-SNE; (n, 2), from -1 to 1.

    Of more than 10,000 points, a sample of that size is placed, and the others among their
    nearest five. `UsageError` if openTSNE is not installed.
    """
    require("openTSNE", "map", "a map")
    from openTSNE import TSNE

    n = len(points)
    chosen = np.arange(n)
    if n > LANDMARKS:
        chosen = np.sort(np.random.default_rng(0).choice(n, LANDMARKS, replace=False))
    if chosen.size < 4:  # too few to have neighbours
        drawn = points[chosen, :2].astype(np.float64)
    else:
        perplexity = min(30.0, (chosen.size - 1) / 3)
        options = {"metric": "cosine", "initialization": "pca", "random_state": 0}
        drawn = np.asarray(TSNE(perplexity=perplexity, **options).fit(points[chosen]))
    placed = drawn
    if chosen.size < n:
        places, cosines = nearest(points, points[chosen], _PLACED_BY)
        weight = 1 / np.maximum(1 - cosines, 1e-4)
        placed = (drawn[places] * (weight / weight.sum(axis=1, keepdims=True))[..., None]).sum(1)
        placed[chosen] = drawn
    low, high = placed.min(axis=0), placed.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9)
    found: Float32 = ((placed - (low + high) / 2) / half).astype(np.float32)
    return found


def _record_map(snapshot: Snapshot, say: Callable[[str], None]) -> list[pa.Array]:
    """Place every record on a map, and find the records nearest to it."""
    table = snapshot.scan(derived_table(RECORDS.name), ["record_id", "vector"], with_withdrawn=True)
    record_id = table["record_id"].to_numpy()
    vectors, there = unpack_vectors(table["vector"])
    points = unit_vectors(vectors)
    say(f"drawing {len(points):,} records")
    shown = record_id[there]
    visible = ~np.isin(shown, np.array([*snapshot.withdrawn], np.int64))
    own = np.flatnonzero(visible)
    xy = np.full((record_id.size, 2), np.nan, np.float32)
    rows = np.flatnonzero(there)[own]
    xy[rows] = draw(points[own])
    places, cosines = nearest(points[own], points[own], NEIGHBOURS + 1)
    neighbours: list[Int64 | None] = [None] * record_id.size
    similarity: list[Float32 | None] = [None] * record_id.size
    for position, row in enumerate(rows):
        others = places[position] != position
        neighbours[row] = shown[own][places[position][others][:NEIGHBOURS]]
        similarity[row] = cosines[position][others][:NEIGHBOURS]
    return [
        *_coordinates(xy),
        pa.array(_main_languages(snapshot, record_id), pa.string()),
        pa.array(neighbours, pa.list_(pa.int64())),
        pa.array(similarity, pa.list_(pa.float32())),
    ]


def _file_map(snapshot: Snapshot, say: Callable[[str], None]) -> list[pa.Array]:
    """Place every file on a map."""
    blocks = [(file_id, vectors) for file_id, _, vectors in vectors_of_files(snapshot)]
    rows = np.concatenate([np.empty(0, np.int64), *(file_id for file_id, _ in blocks)])
    vectors = np.concatenate([np.empty((0, SIZE), np.int8), *(v for _, v in blocks)])
    say(f"drawing {len(rows):,} files")
    xy = np.full((snapshot.info.counts.files, 2), np.nan, np.float32)
    xy[rows] = draw(unit_vectors(vectors))
    return _coordinates(xy)


def _coordinates(xy: Float32) -> list[pa.Array]:
    return [pa.array(xy[:, k], mask=np.isnan(xy[:, 0])) for k in (0, 1)]


_XY: Final = (("x", "float"), ("y", "float"))
RECORD_MAP: Final = Whole(
    "record_map",
    RECORDS,
    (
        *_XY,
        ("language", "string"),
        ("neighbours", "list<int64>"),
        ("similarity", "list<float>"),
    ),
    _record_map,
    "records",
    "1",
)
FILE_MAP: Final = Whole("file_map", EMBEDDING, _XY, _file_map, "files", "1")


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
