"""How well code predicts its record's licence, keyword and year, compared with its languages alone.

Each record is predicted by models that saw no record of its family. Scores are balanced
accuracies, the mean of the classes' recalls; guessing gives one over the number of classes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.learning.model import fit, score
from zml_dask.learning.samples import Sample, take
from zml_dask.learning.words import WordCounts
from zml_dask.query.dataset import Dataset

Int64 = NDArray[np.int64]

COPYLEFT: Final = ("gpl", "lgpl", "agpl", "mpl", "artistic", "cc-by-sa")
PERMISSIVE: Final = ("mit", "bsd", "apache", "isc", "expat", "zlib", "boost", "psf", "python")

_KEYWORDS = 8
_MIN_RECORDS = 12
"""Least number of records of a class."""
_SHUFFLES = 20
_DRAWS = 500


@dataclass(frozen=True, slots=True)
class Association:
    """How well a record's metadata are predicted from its files.

    Attributes
    ----------
    target : str
        ``license`` (copyleft or permissive), ``keyword`` or ``year``.
    classes : dict of str to int
        Number of records of each.
    scores : dict of str to float
        Balanced accuracy from ``language`` (the languages of the record's pages),
        ``first pages`` (words of files' first pages, where licences are stated) and
        ``later pages``.
    intervals : dict of str to list of float
        95 % intervals, bootstrapped over records.
    chance : float
        The 95 % quantile of the score from languages with randomly permuted classes.
    """

    target: str
    classes: dict[str, int]
    scores: dict[str, float]
    intervals: dict[str, list[float]]
    chance: float


def family_of_license(license_id: object) -> str | None:
    """Classify a licence as copyleft or permissive; None where it is neither or unknown.

    Examples
    --------
    >>> family_of_license("GPL-2+"), family_of_license("mit"), family_of_license("other-open")
    ('copyleft', 'permissive', None)
    """
    if not isinstance(license_id, str):
        return None
    name = license_id.lower()
    if name.startswith(COPYLEFT):
        return "copyleft"
    return "permissive" if name.startswith(PERMISSIVE) else None


def associate(dataset: Dataset, sample: Sample, fold: Int64, seed: int = 0) -> list[Association]:
    """Predict licence, keyword and year of each sampled record from its pages.

    A target is left out where fewer than two classes have enough records. For a record that states
    no licence, the one that it contains is taken, if `dataset` has the derived table
    ``license_detected``. `fold` is from `samples.folds_of`, which does not divide families.
    """
    records = dataset.records.set_index("record_id")
    if "license_detected" in dataset.info.derived:
        records["license"] = records["license"].fillna(contained_licenses(dataset))
    later = sample.rows["page"].to_numpy() > 0
    views = {
        "language": _language_counts(sample),
        "first pages": _of_records(sample, ~later),
        "later pages": _of_records(sample, later),
    }
    fold_of = pd.Series(fold).groupby(sample.rows["record_id"].to_numpy()).first()
    return [
        found
        for target, values in _targets(records.loc[fold_of.index]).items()
        if (found := _associate(target, values, views, fold_of, seed)) is not None
    ]


def contained_licenses(dataset: Dataset) -> pd.Series:
    """Return the licence whose text each record contains, the most frequent of several."""
    found: pd.DataFrame = dataset.sql(
        "SELECT record_id, mode(license) AS license FROM license_detected "
        "WHERE how = 'text' GROUP BY record_id",
        timeout=math.inf,
    ).df()
    licenses: pd.Series = found.set_index("record_id")["license"]
    return licenses


def _targets(records: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the class of each record, by target; None where it has none."""
    keywords = records["keywords"].map(lambda words: [str(word).lower() for word in words])
    common = Counter(word for words in keywords for word in set(words))
    # The rarest of a record's common keywords; one that all records share tells nothing.
    usual = {w: n for w, n in common.items() if _MIN_RECORDS <= n <= len(records) // 2}
    leading = sorted(usual, key=lambda word: (-usual[word], word))[:_KEYWORDS]
    year = pd.to_datetime(records["publication_date"], errors="coerce").dt.year
    middle = year.median()
    return {
        "license": records["license"].map(family_of_license),
        "keyword": keywords.map(
            lambda words: min(
                (w for w in words if w in leading), key=usual.__getitem__, default=None
            )
        ),
        "year": year.map(
            lambda y: None if pd.isna(y) else f"to {middle:.0f}" if y <= middle else "later"
        ),
    }


def _of_records(sample: Sample, chosen: NDArray[np.bool_]) -> tuple[Int64, WordCounts]:
    """Return record ids, and the counts of each record's pages together."""
    pages = np.flatnonzero(chosen)
    records = sample.rows["record_id"].to_numpy(np.int64)[pages]
    order = np.argsort(records, kind="stable")
    counts = take(sample.counts, pages[order])
    ids, starts = np.unique(records[order], return_index=True)
    edges = counts.indptr[np.append(starts, pages.size)]
    return ids, WordCounts(edges, counts.buckets, counts.counts)


def _language_counts(sample: Sample) -> tuple[Int64, WordCounts]:
    """Return record ids, and the number of each record's pages in each language."""
    table = pd.crosstab(sample.rows["record_id"], sample.rows["label"])
    rows, columns = np.nonzero(table.to_numpy())
    indptr = np.searchsorted(rows, np.arange(len(table) + 1))
    buckets = table.columns.to_numpy()[columns].astype(np.uint32)
    counts = table.to_numpy()[rows, columns].astype(np.uint32)
    return table.index.to_numpy(np.int64), WordCounts(indptr.astype(np.int64), buckets, counts)


def _associate(
    target: str,
    values: pd.Series,
    views: dict[str, tuple[Int64, WordCounts]],
    fold_of: pd.Series,
    seed: int,
) -> Association | None:
    known = values.dropna()
    sizes = known.value_counts()
    classes = sorted(map(str, sizes[sizes >= _MIN_RECORDS].index))
    known = known[known.isin(classes)]
    if len(classes) < 2:
        return None
    scores, intervals = {}, {}
    generator = np.random.default_rng(seed)
    dealt: list[float] = []
    for name, (ids, counts) in views.items():
        has = np.isin(ids, known.index)
        rows = take(counts, np.flatnonzero(has))
        labels = known.reindex(ids[has]).map(classes.index).to_numpy(np.int64)
        fold = fold_of.reindex(ids[has]).to_numpy(np.int64)
        named = _predicted(rows, labels, fold, len(classes), seed)
        scores[name] = _balanced(labels, named)
        draws = generator.integers(0, labels.size, (_DRAWS, labels.size))
        drawn = [_balanced(labels[draw], named[draw]) for draw in draws]
        intervals[name] = [float(each) for each in np.percentile(drawn, [2.5, 97.5])]
        if name == "language":
            for _ in range(_SHUFFLES):
                mixed = generator.permutation(labels)
                dealt.append(_balanced(mixed, _predicted(rows, mixed, fold, len(classes), seed)))
    classes_of = {name: int(sizes[name]) for name in classes}
    return Association(target, classes_of, scores, intervals, float(np.percentile(dealt, 95)))


def _predicted(counts: WordCounts, labels: Int64, fold: Int64, n_classes: int, seed: int) -> Int64:
    """Predict each fold's records by a model of the others, trained on balanced classes."""
    named = np.zeros(labels.size, np.int64)
    generator = np.random.default_rng(seed)
    n_buckets = int(counts.buckets.max(initial=0)) + 1
    for k in np.unique(fold):
        others = np.flatnonzero(fold != k)
        most = np.bincount(labels[others], minlength=n_classes).max()
        even = [
            np.resize(generator.permutation(mine), most)
            for c in range(n_classes)
            if (mine := others[labels[others] == c]).size
        ]
        train = np.concatenate(even)
        model = fit(take(counts, train), labels[train], n_classes, n_buckets, epochs=4, seed=seed)
        mine = np.flatnonzero(fold == k)
        named[mine] = score(model, take(counts, mine)).argmax(axis=1)
    return named


def _balanced(labels: Int64, named: Int64) -> float:
    recalls = [(named[labels == c] == c).mean() for c in np.unique(labels)]
    return float(np.mean(recalls))
