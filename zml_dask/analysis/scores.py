"""How well images were named, and files placed beside their like: counts, shares and examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.analysis.samples import Samples


def confuse(truth: NDArray[np.int64], named: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Count how often each language (row) was named as each (column).

    Parameters
    ----------
    truth, named : numpy.ndarray of int64, shape (images,)
        Positions in the list of languages.
    n : int
        How many languages there are.

    Returns
    -------
    numpy.ndarray of int64, shape (n, n)

    Examples
    --------
    >>> confuse(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts: NDArray[np.int64] = np.bincount(truth * n + named, minlength=n * n).reshape(n, n)
    return counts


def recall_of(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each language that was named rightly.

    Parameters
    ----------
    confusion : numpy.ndarray of int64, shape (n, n)
        From `confuse`.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        0 to 1.
    """
    recall: NDArray[np.float64] = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    return recall


def score(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Sum up a confusion matrix; precision and recall are means over the languages.

    Parameters
    ----------
    confusion : numpy.ndarray of int64, shape (n, n)
        From `confuse`.

    Examples
    --------
    >>> score(np.array([[1, 1], [0, 2]]))["accuracy"]
    0.75
    """
    precision = confusion.diagonal() / np.maximum(confusion.sum(axis=0), 1)
    return {
        "accuracy": float(confusion.trace() / max(confusion.sum(), 1)),
        "precision": float(precision.mean()),
        "recall": float(recall_of(confusion).mean()),
    }


def worst(confusion: NDArray[np.int64], languages: list[str], n: int = 8) -> list[dict[str, Any]]:
    """List the mistakes that are made most often, as shares of the language.

    Parameters
    ----------
    confusion : numpy.ndarray of int64, shape (n, n)
        From `confuse`.
    languages : list of str
    n : int
        At most so many.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:n]
    pairs = [divmod(int(place), len(languages)) for place in order]
    return [
        {"is": languages[i], "named": languages[j], "share": float(shares[i, j])}
        for i, j in pairs
        if shares[i, j] > 0
    ]


def embed_files(samples: Samples, embedded: NDArray[np.float32]) -> pd.DataFrame:
    """Average the embeddings of each file's images: one row per file, column ``embedding``.

    Parameters
    ----------
    samples : Samples
    embedded : numpy.ndarray of float32, shape (images, dimensions)
        Of the samples, in their order.
    """
    rows = samples.rows.reset_index(drop=True)
    found = [
        {**rows.iloc[places[0]][["file_id", "record_id", "path", "language"]].to_dict(),
         "embedding": embedded[places].mean(axis=0)}
        for places in rows.groupby("file_id").indices.values()
    ]  # fmt: skip
    return pd.DataFrame(found)


def agreement(files: pd.DataFrame, near: NDArray[np.int64]) -> dict[str, Any]:
    """Tell how often a file's nearest neighbours, of other records, share its language.

    Parameters
    ----------
    files : pandas.DataFrame
        From `embed_files`.
    near : numpy.ndarray of int64, shape (files, neighbours)
        Rows of `files`, nearest first, -1 where there are too few.
    """
    languages = files["language"].to_numpy()
    there = near >= 0
    same = (languages[near] == languages[:, None]) & there
    shares = np.array(list(Counter(languages).values())) / len(languages)
    examples = [
        {"file": str(files["path"][row]), "nearest": str(files["path"][int(near[row, 0])])}
        for row in range(0, len(files), max(1, len(files) // 6))
    ]
    return {
        "files": len(files),
        "same_language": float(same.sum() / max(there.sum(), 1)),
        "by_chance": float((shares**2).sum()),
        "examples": examples,
    }
