"""A linear classifier of sparse counts: trained in seconds, pruned, and calibrated.

Softmax regression on ``log(1 + count)`` of each page, scaled to length one, by AdaGrad over
single pages in random order. The result is determined by the pages and the seed on machines of
the same kind. Small rows of the weights are then set to zero and the others rounded to 255
steps, and three numbers calibrate the confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zml_dask.compiled import compiled
from zml_dask.learning.words import WordCounts

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Linear:
    """A classifier of counts: scores are ``values @ weights + bias``.

    `weights` has the shape (buckets, labels), `bias` the shape (labels,).
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
    """Train weights and bias in place, on the pages in the given orders."""
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
    """Return the scores of each row of counts; shape (rows, labels)."""
    scores = np.empty((counts.indptr.size - 1, model.bias.size), np.float32)
    _score(counts.indptr, counts.buckets, scaled(counts), model.weights, model.bias, scores)
    return scores


def fit(
    counts: WordCounts,
    labels: Int64,
    n_labels: int,
    n_buckets: int,
    *,
    rate: float = 1.0,
    epochs: int = 6,
    kept_rows: int = 53_248,
    seed: int = 0,
) -> Linear:
    """Fit a classifier; the same arguments give the same weights.

    Parameters
    ----------
    counts : WordCounts
        One row per page.
    labels : numpy.ndarray of int64, shape (pages,)
        0 to ``n_labels - 1``.
    n_buckets : int
        All buckets of the counts are below it.
    rate : float
        Learning rate.
    kept_rows : int
        Number of buckets that keep their weights, those with the largest.
    """
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(labels.size) for _ in range(epochs)])
    weights = np.zeros((n_buckets, n_labels), np.float32)
    bias = np.zeros(n_labels, np.float32)
    _fit(counts.indptr, counts.buckets, scaled(counts), labels, orders, weights, bias, rate)
    kept = np.argsort(-np.square(weights).sum(axis=1), kind="stable")[:kept_rows]
    steps = np.abs(weights[kept]).max(axis=1, keepdims=True) / 127
    steps[steps == 0] = 1
    rounded = np.zeros_like(weights)
    rounded[kept] = np.rint(weights[kept] / steps) * steps
    return Linear(rounded, bias)


def temperature_of(scores: Float32, labels: Int64) -> float:
    """Find the temperature: the divisor of the scores that maximises the likelihood of the labels.

    The likelihood has one maximum; ternary search finds it to one in a thousand.
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


class Calibration(NamedTuple):
    """What turns scores into calibrated probabilities.

    Scores are divided by `temperature`; then the log-odds of the likeliest label are mapped by a
    line with a slope and an offset.
    """

    temperature: float = 1.0
    slope: float = 1.0
    offset: float = 0.0


def calibration_of(scores: Float32, labels: Int64) -> Calibration:
    """Calibrate the confidence on held-out pages: a temperature, then a line.

    A temperature alone does not fit both guesses and near certainty: where some labels are wrong,
    no prediction is as certain as the words suggest.
    """
    temperature = temperature_of(scores, labels)
    right = (scores.argmax(axis=1) == labels).astype(np.float64)
    x = np.column_stack([_log_odds(scores / np.float32(temperature)), np.ones(labels.size)])
    identity = np.array([1.0, 0.0])
    line = identity.copy()
    for _ in range(30):  # Newton's method, with a prior for the identity in case of few pages
        chance = 1 / (1 + np.exp(-x @ line))
        gradient = x.T @ (chance - right) + (line - identity)
        line -= np.linalg.solve((x.T * (chance * (1 - chance))) @ x + np.eye(2), gradient)
    return Calibration(temperature, float(line[0]), float(line[1]))


def _log_odds(scores: Float32) -> NDArray[np.float64]:
    """Return the log-odds of the likeliest label of each row."""
    top = np.minimum(log_softmax(scores).max(axis=1).astype(np.float64), -1e-6)
    odds: NDArray[np.float64] = top - np.log(-np.expm1(top))
    return odds


def probabilities(scores: Float32, calibration: Calibration) -> NDArray[np.float64]:
    """Turn scores into calibrated probabilities of the labels; shape (rows, labels).

    The likeliest label has the calibrated confidence; the others divide the rest in proportion.
    """
    scores = scores / np.float32(calibration.temperature)
    line = calibration.slope * _log_odds(scores) + calibration.offset
    confidence = 1 / (1 + np.exp(-line))
    found = np.exp(log_softmax(scores).astype(np.float64))
    rows, top = np.arange(len(found)), scores.argmax(axis=1)
    found[rows, top] = 0
    found *= ((1 - confidence) / np.maximum(found.sum(axis=1), 1e-300))[:, None]
    found[rows, top] = confidence
    return found


def log_softmax(scores: Float32) -> Float32:
    """Return the logarithm of the softmax along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    found: Float32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
