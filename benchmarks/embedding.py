"""The weights of the embedding, and how near files of one kind lie by them.

    python benchmarks/embedding.py FOLDER

FOLDER holds the datasets of ``learning.py``. Files of a third of the families are embedded by
weights that were learnt from the others, for each third, so that none is measured by weights
that saw its project. Then weights are learnt from all, measured on ``FOLDER/held-out``, and
written to ``FOLDER/embedding.npz``, which lies in ``zml_dask/derived``.

They are learnt in two steps. A softmax regression of the languages, as in `learning.training`,
gives a score for each; 64 axes hold most of what the scores of files differ by. From there the
weights are changed so that a file's direction is that of its language, and, less, of its
family, rather than any other's (a softmax over cosines). Families are not those that files
are measured on: what tells them apart tells others apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import zml_dask as zml
from zml_dask.compiled import compiled
from zml_dask.derived.embedding import SIZE, Embedder, pack_vector, unit_vectors
from zml_dask.learning.model import fit
from zml_dask.learning.samples import concatenated, take
from zml_dask.learning.words import N_BUCKETS, WordCounts, count_words, mixed

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

N_FOLDS = 3
FILES_OF_A_FAMILY = 30
PAGES_OF_A_FILE = 8
LEAST_FILES = 5
"""A language of fewer is none."""
N_ROWS = 40_960
"""Buckets that have weights."""
RATE = np.float32(0.03)
SHARPNESS = np.float32(16)
FAMILIES = np.float32(0.1)
"""What being of a family counts, beside being in a language."""
KEPT = 0.8
"""Share of a file's rows that count each time."""
EPOCHS = 3
HALF = np.uint64(32)

EVEN = f"""
WITH one_of_a_text AS (
    SELECT file_id, record_id, COALESCE(concept_id, record_id) AS family,
        COALESCE(language_group, '') AS language, kind, first_image,
        least(files.n_images, {PAGES_OF_A_FILE}) AS pages, md5('0:' || file_id::VARCHAR) AS drawn
    FROM files JOIN records USING (record_id)
    WHERE status = 'ok' AND files.n_lines >= 5
    QUALIFY row_number() OVER (PARTITION BY text_sha256 ORDER BY file_id) = 1
), turns AS (
    SELECT *, row_number() OVER (PARTITION BY family, language ORDER BY drawn) AS turn
    FROM one_of_a_text
)
SELECT * FROM turns
QUALIFY row_number() OVER (PARTITION BY family ORDER BY turn, drawn) <= {FILES_OF_A_FAMILY}
ORDER BY file_id
"""


class Files(NamedTuple):
    """Files of a dataset; each array has one entry for each."""

    counts: WordCounts
    record: Int64
    family: Int64
    language: NDArray[np.str_]
    is_code: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Files:
        """Take some of them."""
        counts = take(self.counts, np.flatnonzero(chosen))
        return Files(counts, *(column[chosen] for column in self[1:]))

    @property
    def values(self) -> Float32:
        """Of each entry of the counts."""
        return (1 + np.log(self.counts.counts)).astype(np.float32)


def main(folder: Path) -> None:
    """Measure on held-out families, and write weights of all."""
    files = read(folder / "packages")
    families = np.unique(files.family)
    fold = np.random.default_rng(1).integers(0, N_FOLDS, families.size)
    fold = fold[np.searchsorted(families, files.family)]
    right = np.zeros((2, files.family.size), bool)
    for k in range(N_FOLDS):
        tested = fold == k
        measured = measure(files, tested, learn(files.where(~tested)))
        right[:, tested] = measured
        report(f"families of fold {k}", files, tested, measured)
    report("all families, held out", files, fold >= 0, right)
    weights = learn(files)
    write(folder / "embedding.npz", rounded(weights))
    others = read(folder / "held-out")
    everything = np.ones(others.family.size, bool)
    report("packages that nobody chose", others, everything, measure(others, everything, weights))


def rounded(weights: Float32) -> Embedder:
    """Round weights of shape (buckets, 64) to bytes, with a power of two for each bucket.

    Examples
    --------
    >>> rounded(np.array([[1, 0.25], [0, 0]], np.float32)).rows.tolist()
    [[64, 16], [0, 0]]
    """
    most = np.abs(weights).max(axis=1)
    step = np.exp2(np.ceil(np.log2(np.maximum(most, 2.0**-17) / 127)))
    return Embedder(
        np.rint(weights / step[:, np.newaxis]).astype(np.int8),
        np.where(most > 0, step, 0).astype(np.float32),
    )


def write(path: Path, embedder: Embedder) -> None:
    """Write weights as they ship with the package."""
    kept = embedder.scale > 0
    np.savez_compressed(
        path,
        kept=np.packbits(kept),
        rows=embedder.rows[kept].T,
        exponent=np.log2(embedder.scale[kept]).astype(np.int8),
    )


def read(dataset: Path) -> Files:
    """Draw files, even over families and, within them, over languages."""
    ds = zml.open_dataset(dataset)
    rows = ds.sql(EVEN).df()
    first, pages = rows["first_image"].to_numpy(np.int64), rows["pages"].to_numpy(np.int64)
    counts = []
    for at in range(0, len(rows), 400):
        several = slice(at, at + 400)
        edges = np.concatenate([[0], np.cumsum(pages[several])])
        images = np.repeat(first[several] - edges[:-1], pages[several]) + np.arange(edges[-1])
        counts.append(count_words(ds.snapshot.images.read(images), edges, patterns=True))
    return Files(
        concatenated(counts),
        rows["record_id"].to_numpy(np.int64),
        rows["family"].to_numpy(np.int64),
        rows["language"].to_numpy().astype(str),
        (rows["kind"] == "programming").to_numpy(),
    )


def learn(files: Files) -> Float32:
    """Learn weights, of shape (buckets, 64)."""
    _, language, count = np.unique(files.language, return_inverse=True, return_counts=True)
    language[(count[language] < LEAST_FILES) | (files.language == "")] = -1
    chosen, language[language >= 0] = np.unique(language[language >= 0], return_inverse=True)
    n_languages = chosen.size
    family = np.unique(files.family, return_inverse=True)[1] + n_languages

    named = np.flatnonzero(language >= 0)
    counts = take(files.counts, named)
    scores = fit(
        counts, language[named], n_languages, N_BUCKETS, epochs=5, kept_rows=N_ROWS
    ).weights
    kept = np.flatnonzero(scores.any(axis=1))
    place = np.full(N_BUCKETS, -1)
    place[kept] = np.arange(kept.size)
    rows = place[files.counts.buckets]
    is_kept = rows >= 0
    indptr = np.append(0, np.cumsum(is_kept))[files.counts.indptr]
    rows, values = rows[is_kept], files.values[is_kept]

    scores = scores[kept] - scores[kept].mean(axis=1, keepdims=True)
    points = unit(_embed(indptr, rows, values, scores))
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:SIZE].T
    weights = np.ascontiguousarray(scores @ axes, np.float32)

    points = unit(_embed(indptr, rows, values, weights))
    means = np.zeros((family.max() + 1, SIZE), np.float32)
    np.add.at(means, family, points)
    np.add.at(means, language[named], points[named])
    random = np.random.default_rng(0)
    labels = np.column_stack([language, family])
    edges = np.array([0, n_languages, len(means)])
    seen, seen_means = np.full(kept.size, 1e-6, np.float32), np.full(len(means), 1e-3, np.float32)
    means = unit(means)
    for _ in range(EPOCHS):
        order = random.permutation(family.size)
        keys = random.integers(0, 2**63, order.size, np.uint64)
        _pull(
            indptr, rows, values, order, keys, labels, edges, means, seen_means, weights, seen,
        )  # fmt: skip
    found = np.zeros((N_BUCKETS, SIZE), np.float32)
    found[kept] = weights / np.abs(weights).max()
    return found


def unit(points: Float32) -> Float32:
    """Scale to length 1 what has one."""
    found: Float32 = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return found


def measure(files: Files, tested: NDArray[np.bool_], weights: Float32) -> NDArray[np.bool_]:
    """Tell of which files the nearest one is rightly so.

    Returns
    -------
    numpy.ndarray of bool, shape (2, files)
        Whether the nearest file of another record is of the same project or language, and
        whether the nearest of all files is of the same project.
    """
    sums = _embed(files.counts.indptr, files.counts.buckets, files.values, rounded(weights).weights)
    data = b"".join(pack_vector(row) or bytes([1] * SIZE) for row in sums)
    points = unit_vectors(np.frombuffer(data, np.int8).reshape(-1, SIZE))
    own = np.flatnonzero(tested)
    right = np.empty((2, own.size), bool)
    family, language = files.family, files.language
    for at in range(0, own.size, 1_024):
        several = own[at : at + 1_024]
        cosines = points[several] @ points.T
        cosines[np.arange(several.size), several] = -2
        other = cosines.argmax(axis=1)
        right[1, at : at + 1_024] = family[other] == family[several]
        cosines[files.record[several, np.newaxis] == files.record] = -2
        other = cosines.argmax(axis=1)
        alike = (family[other] == family[several]) | (language[other] == language[several])
        right[0, at : at + 1_024] = alike
    return right


def report(name: str, files: Files, tested: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:
    """Print shares, with intervals of 95 % over families."""
    own = files.where(tested)
    families, family = np.unique(own.family, return_inverse=True)
    drawn = np.random.default_rng(0).integers(0, families.size, (1000, families.size))
    print(f"{name}: {own.family.size:,} files of {families.size} families")
    of = {
        "same project or language, of those with a language": (right[0], own.language != ""),
        "same project or language, code": (right[0], own.is_code),
        "same project or language, all": (right[0], own.family >= 0),
        "nearest of all files of the same project": (right[1], own.family >= 0),
    }
    for what, (is_right, counted) in of.items():
        hits = np.bincount(family[counted], is_right[counted], families.size)
        total = np.bincount(family[counted], minlength=families.size)
        shares = hits[drawn].sum(axis=1) / total[drawn].sum(axis=1)
        low, high = np.percentile(shares, [2.5, 97.5])
        print(f"  {what}: {hits.sum() / total.sum():.1%} [{low:.1%}, {high:.1%}]", flush=True)


@compiled
def _embed(
    indptr: Int64, rows: Int64, values: Float32, weights: Float32
) -> Float32:  # pragma: no cover - compiled
    found = np.zeros((indptr.size - 1, weights.shape[1]), np.float32)
    for file in range(found.shape[0]):
        for at in range(indptr[file], indptr[file + 1]):
            for k in range(found.shape[1]):
                found[file, k] += values[at] * weights[rows[at], k]
    return found


@compiled
def _pull(
    indptr: Int64,
    rows: Int64,
    values: Float32,
    order: Int64,
    keys: NDArray[np.uint64],
    labels: Int64,
    edges: Int64,
    means: Float32,
    seen_means: Float32,
    weights: Float32,
    seen: Float32,
) -> None:  # pragma: no cover - compiled
    """Turn each file towards the directions of its language and family, away from others'.

    Steps are AdaGrad's. Of each file some rows are left out, others each time. `edges` say
    where in `means` languages begin, families, and where these end.
    """
    size = weights.shape[1]
    point, pull = np.empty(size, np.float32), np.empty(size, np.float32)
    score = np.empty(means.shape[0], np.float32)
    least = np.uint64((1 - KEPT) * 2**32)
    for turn in range(order.size):
        file = order[turn]
        point[:] = 0
        for at in range(indptr[file], indptr[file + 1]):
            if mixed(keys[turn] ^ np.uint64(rows[at])) >> HALF >= least:
                for k in range(size):
                    point[k] += values[at] * weights[rows[at], k]
        length = np.sqrt(np.sum(point * point)) + np.float32(1e-6)
        point /= length
        pull[:] = 0
        for kind in range(2):
            label = labels[file, kind]
            if label < 0:
                continue
            share = SHARPNESS if kind == 0 else SHARPNESS * FAMILIES
            top = np.float32(-1e9)
            for one in range(edges[kind], edges[kind + 1]):
                cosine = np.float32(0)
                for k in range(size):
                    cosine += point[k] * means[one, k]
                score[one] = SHARPNESS * cosine
                top = max(top, score[one])
            total = np.float32(0)
            for one in range(edges[kind], edges[kind + 1]):
                score[one] = np.exp(score[one] - top)
                total += score[one]
            for one in range(edges[kind], edges[kind + 1]):
                error = share * (score[one] / total - np.float32(one == label))
                if abs(error) < 1e-5:
                    continue
                seen_means[one] += error * error
                step = RATE * error / np.sqrt(seen_means[one])
                norm = np.float32(0)
                for k in range(size):
                    pull[k] += error * means[one, k]
                    means[one, k] -= step * point[k]
                    norm += means[one, k] * means[one, k]
                norm = np.sqrt(norm)
                for k in range(size):
                    means[one, k] /= norm
        along = np.sum(pull * point)
        pull -= along * point
        pull /= length
        squares = np.sum(pull * pull) / np.float32(size)
        for at in range(indptr[file], indptr[file + 1]):
            row = rows[at]
            if mixed(keys[turn] ^ np.uint64(row)) >> HALF >= least:
                seen[row] += squares * values[at] * values[at]
                step = RATE * values[at] / np.sqrt(seen[row])
                for k in range(size):
                    weights[row, k] -= step * pull[k]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
