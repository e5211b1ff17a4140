"""The shipped model: which language a page of text is written in, and why.

It is linear in the counts of `words`, so that it can tell how much each word contributed. Its
weights (``languages.npz``, from ``zml-dask learn``) have one byte each. ``docs/learning.md``
describes the training data and the accuracy.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from zml_dask.arguments import checked, nearest
from zml_dask.compiled import compiled
from zml_dask.errors import UsageError
from zml_dask.learning.training import Calibration, Linear, probabilities, scaled
from zml_dask.learning.words import N_BUCKETS, N_KINDS, count_words, find_words, pages_of

SHIPPED: Final = "languages.npz"


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
        """Compress a classifier fitted by `training.fit`, which has rounded its weights."""
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
        """Return scores for `training.probabilities`; shape (rows, labels)."""
        counts = count_words(source, starts, patterns=True)
        scores = np.empty((counts.indptr.size - 1, len(self.labels)), np.float32)
        _score(
            counts.indptr, counts.buckets, scaled(counts), self.place, self.rows, self.scale,
            self.bias, scores,
        )  # fmt: skip
        return scores


@compiled
def _score(
    indptr: NDArray[np.int64],
    buckets: NDArray[np.uint32],
    values: NDArray[np.float32],
    place: NDArray[np.int32],
    rows: NDArray[np.int8],
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
