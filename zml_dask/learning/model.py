"""The model of languages: a linear classifier of word counts, trained, calibrated and applied.

Being linear in the counts of `words`, it can tell how much each word contributed. Training is
softmax regression on ``log(1 + count)`` of each page, scaled to length one, by AdaGrad over single
pages in random order; the result is determined by the pages and the seed on machines of the same
kind. Small rows of the weights are then set to zero and the others rounded to 255 steps, so that
a weight of the shipped model (``languages.npz``, from ``zml-dask learn``) is one byte. Three
numbers calibrate the confidence. ``docs/learning.md`` describes training data and accuracy.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from zml_dask.arguments import checked, nearest
from zml_dask.compiled import compiled
from zml_dask.errors import UsageError
from zml_dask.learning.words import (
    N_BUCKETS,
    N_KINDS,
    WordCounts,
    count_words,
    find_words,
    pages_of,
)

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

SHIPPED: Final = "languages.npz"


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
    indptr: NDArray[np.int64],
    buckets: NDArray[np.uint32],
    values: NDArray[np.float32],
    place: NDArray[np.int32],
    rows: NDArray[np.int8] | Float32,
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    for page in range(indptr.size - 1):
        found = scores[page]
        found[:] = bias
        for i in range(indptr[page], indptr[page + 1]):
            at = place[buckets[i]]
            value = values[i] * scale[at]
            row = rows[at]
            for k in range(bias.size):
                found[k] += value * np.float32(row[k])


def score(model: Linear, counts: WordCounts) -> Float32:
    """Return the scores of each row of counts; shape (rows, labels)."""
    n_buckets = len(model.weights)
    scores = np.empty((counts.indptr.size - 1, model.bias.size), np.float32)
    _score(
        counts.indptr, counts.buckets, scaled(counts), np.arange(n_buckets, dtype=np.int32),
        model.weights, np.ones(n_buckets, np.float32), model.bias, scores,
    )  # fmt: skip
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

    `labels`, from 0 to ``n_labels - 1``, has the shape (pages,), and all buckets of the counts are
    below `n_buckets`. The `kept_rows` buckets with the largest weights keep them.
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


@dataclass(frozen=True)
class LanguageModel:
    """A linear model with one-byte weights.

    Attributes
    ----------
    labels : tuple of str
        Languages and kinds of text, as linguist names them.
    place : numpy.ndarray of int32, shape (buckets,)
        Row of each bucket's weights; the last row, which is zero, for buckets without weights.
    rows : numpy.ndarray of int8, shape (rows + 1, labels)
    scale : numpy.ndarray of float32, shape (rows + 1,)
        Factor of a row's weights.
    bias : numpy.ndarray of float32, shape (labels,)
    calibration : Calibration
        Makes the confidence match the share of correct predictions.
    """

    labels: tuple[str, ...]
    place: NDArray[np.int32]
    rows: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    calibration: Calibration

    @classmethod
    def of(cls, linear: Linear, labels: tuple[str, ...], calibration: Calibration) -> LanguageModel:
        """Compress a classifier fitted by `fit`, which has rounded its weights."""
        kept = np.flatnonzero(linear.weights.any(axis=1))
        place = np.full(N_BUCKETS, kept.size, np.int32)
        place[kept] = np.arange(kept.size)
        rows = np.zeros((kept.size + 1, len(labels)), np.int8)
        scale = np.zeros(kept.size + 1, np.float32)
        scale[:-1] = np.abs(linear.weights[kept]).max(axis=1) / 127
        rows[:-1] = np.rint(linear.weights[kept] / scale[:-1, None])
        return cls(labels, place, rows, scale, linear.bias, calibration)

    def to_bytes(self) -> bytes:
        """Return the model as a compressed ``.npz``."""
        target = io.BytesIO()
        np.savez_compressed(
            target,
            labels=np.array(self.labels),
            kept=np.packbits(self.place < len(self.rows) - 1),
            rows=self.rows[:-1].T,
            scale=self.scale[:-1],
            bias=self.bias,
            calibration=np.array(self.calibration),
        )
        return target.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> LanguageModel:
        """Read the output of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            kept = np.flatnonzero(np.unpackbits(found["kept"], count=N_BUCKETS))
            rows = np.ascontiguousarray(found["rows"].T)
            place = np.full(N_BUCKETS, kept.size, np.int32)
            place[kept] = np.arange(kept.size)
            return cls(
                tuple(map(str, found["labels"])),
                place,
                np.concatenate([rows, np.zeros((1, rows.shape[1]), np.int8)]),
                np.append(found["scale"], np.float32(0)),
                found["bias"],
                Calibration(*found["calibration"].tolist()),
            )

    def scores(
        self, source: ArrayLike | str, starts: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return scores for `probabilities`; shape (rows, labels)."""
        counts = count_words(source, starts, patterns=True)
        scores = np.empty((counts.indptr.size - 1, len(self.labels)), np.float32)
        _score(
            counts.indptr, counts.buckets, scaled(counts), self.place, self.rows, self.scale,
            self.bias, scores,
        )  # fmt: skip
        return scores


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted language of a text.

    Attributes
    ----------
    language : str
        The most probable one, as linguist names it; may be a kind of text such as Markdown.
    confidence : float
        Its probability, 0 to 1: of pages with a confidence of 0.9, nine in ten are right, if
        they are in languages that the model knows.
    probabilities : mapping of str to float
        Of all languages that the model knows, the most probable first.
    """

    language: str
    confidence: float
    probabilities: Mapping[str, float]


def shipped_bytes() -> bytes:
    """Return the file of the shipped model."""
    return (files(__package__) / SHIPPED).read_bytes()


@cache
def shipped_model() -> LanguageModel:
    """Return the shipped model, which is read once."""
    return LanguageModel.from_bytes(shipped_bytes())


@checked
def predict(source: ArrayLike | str, *, model: LanguageModel | None = None) -> Prediction:
    r"""Predict the language of a text, or of the images of one file.

    The model knows some eighty languages and kinds of text, and always predicts one of them;
    see `Prediction.confidence`. The scores of several pages are averaged. A page takes some
    0.1 ms.

    Parameters
    ----------
    source : str or array_like of uint32, shape (n, height, width) or (height, width)
    model : LanguageModel, optional
        Default: the model included in the package.

    Returns
    -------
    Prediction

    Raises
    ------
    UsageError
        If the source has no visible characters, or images have another shape.

    Examples
    --------
    >>> predict("def area(r):\n    return math.pi * r ** 2\n\nprint(area(2))\n").language
    'Python'
    """
    pages = pages_of(source)
    used = pages[(pages > ord(" ")).any(axis=(1, 2))]
    if not len(used):
        raise UsageError("there is no visible character to predict a language from")
    model = model or shipped_model()
    scores = model.scores(used).mean(axis=0, keepdims=True)
    found = probabilities(scores, model.calibration)[0]
    order = np.argsort(-found, kind="stable")
    chances = {model.labels[i]: float(found[i]) for i in order}
    language = model.labels[order[0]]
    return Prediction(language, chances[language], chances)


@checked
def explain(
    source: ArrayLike | str, language: str | None = None, *, model: LanguageModel | None = None
) -> pd.DataFrame:
    r"""Compute the contribution of each word of a text to the score of a language.

    Parameters
    ----------
    source : str or array_like of uint32, shape (n, height, width) or (height, width)
    language : str, optional
        Default: the one that `predict` returns.
    model : LanguageModel, optional

    Returns
    -------
    pandas.DataFrame
        One row per word: ``page``, ``row``, ``start``, ``stop`` (columns of the image),
        ``word``, and ``contribution``: what the word, its pair and the patterns that end
        with it add to the score of the language beyond the mean of all, averaged over pages.

    Raises
    ------
    UsageError
        If the model does not know the language.

    Examples
    --------
    >>> words = explain("import numpy as np\nx = np.zeros(3)\n")
    >>> str(words.loc[words.contribution.idxmax(), "word"])
    'import'
    """
    model = model or shipped_model()
    pages = pages_of(source)
    language = language or predict(pages, model=model).language
    if language not in model.labels:
        raise UsageError(
            f"the model does not know the language {language!r}; "
            + nearest(language, model.labels, "predict(source).probabilities lists all")
        )
    found = find_words(pages)
    counts = count_words(pages, patterns=True)
    share = np.zeros(len(found.places))
    k = model.labels.index(language)
    for page in range(len(pages)):
        part = slice(counts.indptr[page], counts.indptr[page + 1])
        at = model.place[counts.buckets[part]]
        rows = model.rows[at].astype(np.float32)
        worth = (rows[:, k] - rows.mean(axis=1)) * model.scale[at] * scaled(counts)[part]
        each = np.zeros(N_BUCKETS, np.float32)
        each[counts.buckets[part]] = worth / counts.counts[part]
        mine = found.places[:, 0] == page
        share[mine] = each[found.buckets[mine, :N_KINDS]].sum(axis=1)
    places = found.places
    words = [
        "".join(map(chr, pages[page, row, start:stop]))
        for page, row, start, stop in places.tolist()
    ]
    table = pd.DataFrame(places, columns=["page", "row", "start", "stop"])
    used = max(len(np.unique(places[:, 0])), 1)
    return table.assign(word=words, contribution=share / (model.calibration.temperature * used))
