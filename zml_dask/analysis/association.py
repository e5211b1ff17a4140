"""Does code tell its licence? One association with metadata, tested so that it can fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

COPYLEFT = ("gpl", "lgpl", "agpl", "mpl", "artistic", "cc-by-sa")
PERMISSIVE = ("mit", "bsd", "apache", "isc", "expat", "zlib", "boost", "psf", "python")

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Association:
    """How well a licence's family is predicted, each record by models that never saw it.

    Attributes
    ----------
    records, copyleft : int
        Records with a known family, and how many of them are copyleft.
    from_language : float or None
        Balanced accuracy of each record's family from its languages alone.
    from_first, from_later : float or None
        From embeddings of first images (with their licence headers), and of
        later images of files; 0.5 is chance. None where too few records have such
        images to learn from some and be tested by others.
    shuffled : float or None
        The 95th percentile of `from_first` where families are dealt out at random.
    """

    records: int
    copyleft: int
    from_language: float | None
    from_first: float | None
    from_later: float | None
    shuffled: float | None


def family(license_id: object) -> int | None:
    """Tell copyleft (1) from permissive (0) licences; None where it is neither or unknown.

    Examples
    --------
    >>> family("GPL-2+"), family("mit"), family("other-open"), family(None)
    (1, 0, None, None)
    """
    if not isinstance(license_id, str):
        return None
    name = license_id.lower()
    if name.startswith(COPYLEFT):
        return 1
    return 0 if name.startswith(PERMISSIVE) else None


def associate(
    rows: pd.DataFrame, embedded: NDArray[np.float32], seed: int = 0, *, shuffles: int = 20
) -> Association | None:
    """Predict each record's licence family from its code; None where too few are known.

    Parameters
    ----------
    rows : pandas.DataFrame
        A row an image, as `samples.Samples` has them.
    embedded : numpy.ndarray, shape (images, features)
    seed : int
    shuffles : int
        How often families are dealt out at random, to see what chance can do.
    """
    families = rows["license"].map(family)
    known = families.notna().to_numpy()
    by_record = families[known].groupby(rows["record_id"][known]).first().astype(int)
    if (
        len(by_record) < 2 * _FOLDS
        or by_record.value_counts().min() < _FOLDS
        or by_record.nunique() < 2
    ):
        return None
    first = (rows["segment"] == 0).to_numpy()
    languages = pd.get_dummies(rows["language"]).to_numpy(np.float32)
    generator = np.random.default_rng(seed)
    target: NDArray[np.int64] = np.asarray(by_record, np.int64)

    def score(
        features: NDArray[np.float32], chosen: NDArray[np.bool_], y: NDArray[np.int64]
    ) -> float | None:
        means = pd.DataFrame(features[chosen]).groupby(rows["record_id"][chosen].to_numpy()).mean()
        means = means.reindex(by_record.index)
        has = means.notna().all(axis=1).to_numpy()
        return _told(means[has].to_numpy(np.float32), y[has])

    dealt = [
        score(embedded, known & first, np.asarray(generator.permutation(target), np.int64))
        for _ in range(shuffles)
    ]
    shuffled = [each for each in dealt if each is not None]
    return Association(
        len(target),
        int(target.sum()),
        score(languages, known, target),
        score(embedded, known & first, target),
        score(embedded, known & ~first, target),
        float(np.percentile(shuffled, 95)) if shuffled else None,
    )


def _told(features: NDArray[np.float32], families: NDArray[np.int64]) -> float | None:
    """Score the prediction of each record by models that were fitted to others.

    None where there are too few others: of both families in each fold.
    """
    if len(families) < _FOLDS:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    folds = GroupKFold(_FOLDS)
    groups = np.arange(len(families))
    if any(
        np.unique(families[others]).size < 2 for others, _ in folds.split(features, groups=groups)
    ):
        return None
    predicted = cross_val_predict(model, features, families, cv=folds, groups=groups)
    return float(balanced_accuracy_score(families, predicted))
