"""Labelled pages for learning, sampled from a dataset evenly over labels and families.

A *family* is a concept of the dataset: all versions of a record. Since files of one project
resemble each other, a family is never in both the training and the test set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.learning.words import WordCounts, count_words
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import Images

Int64 = NDArray[np.int64]

_PAGES_AT_ONCE = 2_048


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """How pages are sampled: at most so many of a label, and of a file.

    Pages with fewer lines than `min_lines` are left out, since an empty page has no language, and
    so are labels with fewer families or pages than `min_families` and `min_pages`.
    """

    pages_a_label: int = 2_400
    pages_a_file: int = 3
    min_lines: int = 20
    min_families: int = 6
    min_pages: int = 60
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Sampled pages.

    `labels` are languages and kinds of text, sorted. `rows` and `counts` have one row per page,
    with ``file_id``, ``record_id``, ``family``, ``path``, ``kind``, ``page`` (its number within the
    file), ``image`` (within the dataset), and ``label`` (a position in `labels`).
    """

    labels: list[str]
    rows: pd.DataFrame
    counts: WordCounts

    @property
    def label(self) -> Int64:
        """The label of each page, a position in `labels`; shape (pages,)."""
        return self.rows["label"].to_numpy(np.int64)

    @property
    def family(self) -> Int64:
        """The concept of each page; shape (pages,)."""
        return self.rows["family"].to_numpy(np.int64)


_ELIGIBLE = """
SELECT file_id, record_id, COALESCE(concept_id, record_id) AS family, path, kind,
    language_group AS label,
    first_image, files.n_lines AS n_lines, text_sha256,
    least(files.n_images, {pages_a_file}) AS n_pages,
    md5('{seed}:' || file_id::VARCHAR) AS drawn
FROM files JOIN records USING (record_id)
WHERE status = 'ok' AND language_group IS NOT NULL AND files.n_lines >= {min_lines}
QUALIFY row_number() OVER (PARTITION BY text_sha256 ORDER BY file_id) = 1
"""
_EVEN = """
WITH eligible AS ({eligible}),
labels AS (
    SELECT label FROM eligible GROUP BY label
    HAVING count(DISTINCT family) >= {min_families} AND sum(n_pages) >= {min_pages}
)
SELECT * EXCLUDE (text_sha256, turn) FROM (
    SELECT *, row_number() OVER (PARTITION BY label, family ORDER BY drawn) AS turn
    FROM eligible SEMI JOIN labels USING (label)
)
QUALIFY row_number() OVER (PARTITION BY label ORDER BY turn, drawn) <= {pages_a_label}
ORDER BY label, turn, drawn
"""


def draw(dataset: Dataset, options: SampleOptions, labels: list[str] | None = None) -> Sample:
    """Sample pages with a known language, evenly over labels and, within these, over families.

    Of files with the same text one is kept. With `labels`, only these are sampled, however few
    families they have. `UsageError` if fewer than two labels are left.
    """
    given = {
        "seed": options.seed,
        "min_lines": options.min_lines,
        "min_families": options.min_families if labels is None else 1,
        "min_pages": options.min_pages if labels is None else 1,
        "pages_a_file": options.pages_a_file,
        "pages_a_label": options.pages_a_label,
    }
    query = _EVEN.format(eligible=_ELIGIBLE.format(**given), **given)
    files = dataset.sql(query, timeout=math.inf).df()
    if labels is not None:
        files = files[files["label"].isin(labels)]
    found = sorted(map(str, files["label"].unique()))
    if len(found) < 2:
        raise UsageError(
            f"{dataset.url} has {len(found)} languages in at least {options.min_families} "
            "concepts; learning needs two: give a dataset of more records"
        )
    rows = _pages(files, options, dataset.info.shape.height)
    names = labels if labels is not None else found
    rows["label"] = rows["label"].map({name: i for i, name in enumerate(names)})
    rows = rows.sort_values("image").reset_index(drop=True)
    counts = [count_words(images, patterns=True) for images in read_pages(dataset, rows)]
    return Sample(names, rows, concatenated(counts))


def _pages(files: pd.DataFrame, options: SampleOptions, height: int) -> pd.DataFrame:
    """Choose `pages_a_label` pages: one of each file, then a second one, and so on."""
    full = files["n_lines"].to_numpy() // height
    rest = files["n_lines"].to_numpy() % height >= options.min_lines
    n_pages = full + rest
    generator = np.random.default_rng(options.seed)
    chosen = [
        generator.choice(n, min(n, options.pages_a_file), replace=False).tolist() for n in n_pages
    ]
    rows = files.assign(page=chosen).explode("page", ignore_index=True).dropna(subset=["page"])
    rows["page"] = rows["page"].astype(np.int64)
    rows["again"] = rows.groupby("file_id").cumcount()
    rows["turn"] = rows.groupby(["label", "family", "again"]).cumcount()
    ordered = rows.sort_values(["again", "turn"], kind="stable")
    rows = ordered.groupby("label").head(options.pages_a_label)
    rows["image"] = rows["first_image"] + rows["page"]
    return rows[["file_id", "record_id", "family", "path", "kind", "page", "image", "label"]]


def read_pages(dataset: Dataset, rows: pd.DataFrame) -> Iterator[Images]:
    """Read the images of pages, some thousand at a time, in the order of `rows`."""
    images = rows["image"].to_numpy(np.int64)
    for start in range(0, images.size, _PAGES_AT_ONCE):
        yield dataset.snapshot.images.read(images[start : start + _PAGES_AT_ONCE])


def concatenated(parts: list[WordCounts]) -> WordCounts:
    """Concatenate the rows of several counts."""
    sizes = np.cumsum([0, *(part.buckets.size for part in parts)])
    indptr = [part.indptr[1:] + size for part, size in zip(parts, sizes[:-1], strict=True)]
    return WordCounts(
        np.concatenate([np.zeros(1, np.int64), *indptr]),
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def take(counts: WordCounts, rows: NDArray[np.int64]) -> WordCounts:
    """Return some rows of counts, in the order given."""
    lengths = np.diff(counts.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(indptr[-1]) + np.repeat(counts.indptr[rows] - indptr[:-1], lengths)
    return WordCounts(indptr.astype(np.int64), counts.buckets[places], counts.counts[places])


def folds_of(sample: Sample, n_folds: int, seed: int) -> Int64:
    """Assign each page to a fold, 0 to ``n_folds - 1``, evenly over labels; shape (pages,).

    No family is divided. Families are assigned in random order, the largest shares of a label
    first, each to the fold in which the labels then are most even.
    """
    families, of_page = np.unique(sample.family, return_inverse=True)
    shares = np.zeros((families.size, len(sample.labels)))
    np.add.at(shares, (of_page, sample.label), 1)
    shares /= np.maximum(shares.sum(axis=0), 1)
    there = (shares > 0).astype(float)
    shares = shares + there / np.maximum(there.sum(axis=0), 1)
    drawn = np.random.default_rng(seed).permutation(families.size)
    order = drawn[np.argsort(-shares[drawn].max(axis=1), kind="stable")]
    held = np.zeros((n_folds, len(sample.labels)))
    fold = np.empty(families.size, np.int64)
    for family in order:
        # How uneven the labels would be with the family in each of the folds.
        cost = [
            (np.square(held + np.outer(np.arange(n_folds) == k, shares[family]))).sum()
            for k in range(n_folds)
        ]
        fold[family] = int(np.argmin(cost))
        held[fold[family]] += shares[family]
    found: Int64 = fold[of_page]
    return found
