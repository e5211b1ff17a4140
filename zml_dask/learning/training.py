"""A linear classifier of sparse counts: trained in seconds, pruned, and calibrated.

Softmax regression on ``log(1 + count)`` of each page, scaled to length one, by AdaGrad over
single pages in a drawn order. It is the same function of the pages and the seed on every
machine of one kind. Then rows that say little are set to zero, the others
rounded to 255 steps, and one number, the temperature, makes the confidence mean what it says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.learning.words import WordCounts

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a classifier is fitted.

    Attributes
    ----------
    epochs : int
        Passes over the pages.
    rate : float
        Of learning.
    rows : int
        How many buckets keep their weights: those with the largest.
    seed : int
    """

    epochs: int = 6
    rate: float = 1.0
    rows: int = 55_296
    seed: int = 0


@dataclass(frozen=True)
class Linear:
    """A classifier of counts: scores are ``values @ weights + bias``.

    Attributes
    ----------
    weights : numpy.ndarray of float32, shape (buckets, labels)
    bias : numpy.ndarray of float32, shape (labels,)
    """

    weights: Float32
    bias: Float32


def scaled(counts: WordCounts) -> Float32:
    """Return ``log(1 + count)`` of each entry, each row scaled to length one."""
    values = np.log1p(counts.counts).astype(np.float32)
    squares = np.concatenate([[0.0], np.cumsum(np.square(values, dtype=np.float64))])
    lengths = np.sqrt(np.maximum(np.diff(squares[counts.indptr]), 1e-12))
    found: Float32 = (values / np.repeat(lengths, np.diff(counts.indptr))).astype(np.float32)
    return found


@compiled
def _fit(
    indptr: Int64,
    buckets: NDArray[np.uint32],
    values: Float32,
    labels: Int64,
    orders: NDArray[np.int64],
    weights: Float32,
    bias: Float32,
    rate: float,
) -> None:  # pragma: no cover - compiled
    """Change weights and bias by showing the pages in the orders given."""
    n_labels = bias.size
    seen = np.full(weights.shape[0], np.float32(1e-6))
    seen_bias = np.float32(1e-6)
    error = np.empty(n_labels, np.float32)
    for epoch in range(orders.shape[0]):
        for page in orders[epoch]:
            for k in range(n_labels):
                error[k] = bias[k]
            for i in range(indptr[page], indptr[page + 1]):
                row = weights[buckets[i]]
                value = values[i]
                for k in range(n_labels):
                    error[k] += value * row[k]
            top = error.max()
            total = np.float32(0)
            for k in range(n_labels):
                error[k] = np.exp(error[k] - top)
                total += error[k]
            length = np.float32(0)
            for k in range(n_labels):
                error[k] /= total
                if k == labels[page]:
                    error[k] -= np.float32(1)
                length += error[k] * error[k]
            if length < 1e-10:
                continue
            for i in range(indptr[page], indptr[page + 1]):
                bucket = buckets[i]
                value = values[i]
                seen[bucket] += length * value * value
                step = np.float32(rate) * value / np.sqrt(seen[bucket])
                row = weights[bucket]
                for k in range(n_labels):
                    row[k] -= step * error[k]
            seen_bias += length
            step = np.float32(0.1 * rate) / np.sqrt(seen_bias)
            for k in range(n_labels):
                bias[k] -= step * error[k]


@compiled
def _score(
    indptr: Int64,
    buckets: NDArray[np.uint32],
    values: Float32,
    weights: Float32,
    bias: Float32,
    scores: Float32,
) -> None:  # pragma: no cover - compiled
    for page in range(indptr.size - 1):
        for k in range(bias.size):
            scores[page, k] = bias[k]
        for i in range(indptr[page], indptr[page + 1]):
            row = weights[buckets[i]]
            for k in range(bias.size):
                scores[page, k] += values[i] * row[k]


def score(model: Linear, counts: WordCounts) -> Float32:
    """Score the labels for each row of counts; float32, shape (rows, labels)."""
    scores = np.empty((counts.indptr.size - 1, model.bias.size), np.float32)
    _score(counts.indptr, counts.buckets, scaled(counts), model.weights, model.bias, scores)
    return scores


def fit(
    counts: WordCounts, labels: Int64, n_labels: int, options: TrainOptions, n_buckets: int
) -> Linear:
    """Fit a classifier; the same arguments give the same weights.

    Parameters
    ----------
    counts : WordCounts
        A row for each page.
    labels : numpy.ndarray of int64, shape (pages,)
        0 to ``n_labels - 1``.
    n_labels : int
    options : TrainOptions
    n_buckets : int
        Buckets of the counts lie below.

    Returns
    -------
    Linear
    """
    generator = np.random.default_rng(options.seed)
    orders = np.stack([generator.permutation(labels.size) for _ in range(options.epochs)])
    weights = np.zeros((n_buckets, n_labels), np.float32)
    bias = np.zeros(n_labels, np.float32)
    _fit(
        counts.indptr, counts.buckets, scaled(counts), labels, orders, weights, bias,
        options.rate,
    )  # fmt: skip
    kept = np.argsort(-np.square(weights).sum(axis=1), kind="stable")[: options.rows]
    steps = np.abs(weights[kept]).max(axis=1, keepdims=True) / 127
    steps[steps == 0] = 1
    rounded = np.zeros_like(weights)
    rounded[kept] = np.rint(weights[kept] / steps) * steps
    return Linear(rounded, bias)


def temperature_of(scores: Float32, labels: Int64) -> float:
    """Find the number by which scores are divided for their softmax to be a probability.

    It is the one under which held-out labels are likeliest, to one in a thousand. The
    likelihood has one maximum, so that each step leaves out a third of what is left.
    """
    rows = np.arange(labels.size)
    low, high = np.log(0.01), np.log(100.0)

    def loss(at: float) -> float:
        return float(-log_softmax(scores / np.float32(np.exp(at)))[rows, labels].mean())

    while high - low > 1e-3:
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return float(np.exp((low + high) / 2))


def log_softmax(scores: Float32) -> Float32:
    """Turn scores into logarithms of probabilities, along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    found: Float32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
