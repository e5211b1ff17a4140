"""What a network has to beat: counts of characters, and of pairs of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from zml_dask.analysis.samples import N_TOKENS, Samples


def characters(tokens: NDArray[np.uint8]) -> sparse.csr_matrix:
    """Count the characters of each image, as log(1 + n): (n, `N_TOKENS`)."""
    return _log_counts(tokens.reshape(len(tokens), -1).astype(np.int64), N_TOKENS)


def pairs(tokens: NDArray[np.uint8]) -> sparse.csr_matrix:
    """Count the pairs of neighbouring characters of each image: (n, `N_TOKENS` squared)."""
    left, right = tokens[:, :, :-1].astype(np.int64), tokens[:, :, 1:]
    return _log_counts((left * N_TOKENS + right).reshape(len(tokens), -1), N_TOKENS**2)


def _log_counts(symbols: NDArray[np.int64], n_symbols: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(symbols)), symbols.shape[1])
    ones = np.ones(symbols.size, np.float32)
    counts = sparse.csr_matrix((ones, (rows, symbols.ravel())), shape=(len(symbols), n_symbols))
    counts.data = np.log1p(counts.data)
    return counts


def predict(features: str, train: Samples, test: Samples) -> NDArray[np.int64]:
    """Name the test images by logistic regression on ``"characters"`` or ``"pairs"``.

    Parameters
    ----------
    features : str
    train, test : Samples

    Returns
    -------
    numpy.ndarray of int64, shape (test images,)
        Positions in the list of languages.
    """
    extract = {"characters": characters, "pairs": pairs}[features]
    model = make_pipeline(
        MaxAbsScaler(), LogisticRegression(C=10.0, max_iter=300, class_weight="balanced")
    )
    model.fit(extract(train.tokens), train.labels)
    named: NDArray[np.int64] = model.predict(extract(test.tokens))
    return named


def neighbours(
    embedded: NDArray[np.float32], records: NDArray[np.int64], n: int = 5
) -> NDArray[np.int64]:
    """Find each row's nearest rows of *other* records by cosine, -1 where there are too few.

    Returns
    -------
    numpy.ndarray of int64, shape (rows, n)
    """
    searched = NearestNeighbors(n_neighbors=len(embedded), metric="cosine").fit(embedded)
    order = searched.kneighbors(embedded, return_distance=False)
    found = np.full((len(embedded), n), -1, np.int64)
    for row, candidates in enumerate(order):
        others = candidates[records[candidates] != records[row]][:n]
        found[row, : len(others)] = others
    return found
