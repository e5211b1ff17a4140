"""Evaluation of how well languages are predicted, with baselines, and the final model.

Cross-validation over families: every page is predicted by models that saw no file of its family.
Settings are chosen within the training part of each fold, and a fold's confidence is calibrated
on the held-out pages of the others. Intervals are bootstrapped over families, since pages of one
family are right or wrong together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.learning.association import associate
from zml_dask.learning.model import (
    Calibration,
    LanguageModel,
    calibration_of,
    fit,
    log_softmax,
    probabilities,
    score,
    temperature_of,
)
from zml_dask.learning.network import NetworkOptions, lines_of, train_and_score
from zml_dask.learning.samples import (
    Sample,
    SampleOptions,
    concatenated,
    draw,
    folds_of,
    read_pages,
    take,
)
from zml_dask.learning.words import N_BUCKETS, WordCounts, count_words
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import to_text
from zml_dask.raster.language import MAGIKA_NAMES, magika
from zml_dask.text_safety import number_of

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

N_SYMBOLS: Final = 97
"""Space, the 94 visible ASCII characters, control characters, all others."""

_SYMBOLS: Final = np.array([95] * 32 + [*range(95), 96], np.uint16)
"""Symbol of each code point up to 126, and of all greater ones."""

RATES: Final = (1.0, 2.0, 4.0)
"""Learning rates, of which each fold chooses one."""

_FURTHER_NAMES: Final = {"lisp": "Common Lisp", "po": "Gettext Catalog", "manpage": "Roff"}
"""Labels of Magika that a build does not use, since it prefers the file's name."""

WORDS, PATTERNS, NETWORK = "words and pairs", "words, pairs and patterns", "network"


_LABELS: Final = """
SELECT DISTINCT language_group AS label FROM files
WHERE status = 'ok' AND language_group IS NOT NULL AND n_lines >= {min_lines} ORDER BY label
"""


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """Options of `learn`.

    Attributes
    ----------
    train_pages, test_pages : int
        At most so many pages of each label in a fold.
    programming : int
        Number of programming languages that are also evaluated by themselves, those in the most
        families.
    magika : int
        Pages of each label and fold that Magika predicts; 0 leaves it out.
    network : NetworkOptions, optional
        Evaluate a network too, on the programming languages.
    draws : int
        Bootstrap samples of families, for the intervals.
    """

    sample: SampleOptions = field(default_factory=SampleOptions)
    train_pages: int = 800
    test_pages: int = 150
    n_folds: int = 3
    programming: int = 20
    magika: int = 0
    network: NetworkOptions | None = None
    draws: int = 1_000


def count_symbols(dataset: Dataset, rows: pd.DataFrame, *, pairs: bool) -> WordCounts:
    """Count the characters, or pairs of neighbouring ones, of each page: a baseline."""
    indptr, buckets, counts = [0], [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    for page in chain.from_iterable(read_pages(dataset, rows)):
        symbols = _SYMBOLS[np.minimum(page, 127)]
        if pairs:
            symbols = symbols[:, :-1] * N_SYMBOLS + symbols[:, 1:]
        tally = np.bincount(symbols.ravel())
        found = np.flatnonzero(tally)
        buckets.append(found.astype(np.uint32))
        counts.append(tally[found].astype(np.uint32))
        indptr.append(indptr[-1] + found.size)
    return WordCounts(np.array(indptr), np.concatenate(buckets), np.concatenate(counts))


@dataclass(frozen=True)
class Tested:
    """Held-out pages, as rows of the sample, their folds, and a model's scores (pages, labels)."""

    pages: Int64
    fold: Int64
    scores: Float32

    @classmethod
    def of(cls, found: list[tuple[Int64, Float32]], fold: Int64) -> Tested:
        """Combine the pages and scores of all folds."""
        pages = np.concatenate([test for test, _ in found])
        return cls(pages, fold[pages], np.concatenate([scores for _, scores in found]))


def choose_pages(sample: Sample, pages: Int64, n: int, seed: int) -> Int64:
    """Choose at most `n` pages of each label from some pages, evenly over families; sorted."""
    rows = sample.rows.iloc[pages][["label", "family"]].assign(page=pages)
    drawn = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
    turn = drawn.groupby(["label", "family"]).cumcount()
    even = drawn.assign(turn=turn).sort_values("turn", kind="stable").groupby("label").head(n)
    return np.sort(even["page"].to_numpy(np.int64))


def cross_validate(
    sample: Sample,
    counts: WordCounts,
    fold: Int64,
    options: LearnOptions,
    n_buckets: int = N_BUCKETS,
    rates: Sequence[float] = RATES,
) -> tuple[Tested, list[float]]:
    """Predict each fold by a model of the others; also return the learning rates chosen."""
    labels = sample.label

    def named(split: tuple[Int64, Int64]) -> tuple[float, Float32]:
        train, test = split
        rate = rates[0]
        if len(rates) > 1:
            rate = _best_rate(sample, counts, train, fold[train], rates, options, n_buckets)
        model = fit(
            take(counts, train), labels[train], len(sample.labels), n_buckets,
            rate=rate, seed=options.sample.seed,
        )  # fmt: skip
        return rate, score(model, take(counts, test))

    parts = list(splits(sample, fold, options))
    with ThreadPoolExecutor(options.n_folds) as pool:  # compiled code releases the GIL
        found = list(pool.map(named, parts))
    scores = [(test, each) for (_, test), (_, each) in zip(parts, found, strict=True)]
    return Tested.of(scores, fold), [rate for rate, _ in found]


def splits(sample: Sample, fold: Int64, options: LearnOptions) -> Iterator[tuple[Int64, Int64]]:
    """Choose, for each fold, the pages for training and those for testing."""
    for k in range(options.n_folds):
        yield (
            choose_pages(
                sample, np.flatnonzero(fold != k), options.train_pages, options.sample.seed
            ),
            choose_pages(
                sample, np.flatnonzero(fold == k), options.test_pages, options.sample.seed
            ),
        )


def _best_rate(
    sample: Sample,
    counts: WordCounts,
    train: Int64,
    fold: Int64,
    rates: Sequence[float],
    options: LearnOptions,
    n_buckets: int,
) -> float:
    """Choose a learning rate on the training part alone, one of whose folds is for testing."""
    labels = sample.label
    inner = fold == fold.max()
    few = options.train_pages // 3
    inner_train = choose_pages(sample, train[~inner], few, options.sample.seed)
    inner_test = choose_pages(sample, train[inner], options.test_pages, options.sample.seed)

    def likelihood(rate: float) -> float:
        model = fit(
            take(counts, inner_train), labels[inner_train], len(sample.labels), n_buckets,
            rate=rate, seed=options.sample.seed,
        )  # fmt: skip
        scores = score(model, take(counts, inner_test))
        calm = log_softmax(scores / temperature_of(scores, labels[inner_test]))
        return float(calm[np.arange(inner_test.size), labels[inner_test]].mean())

    return max(rates, key=likelihood)


def summary(
    sample: Sample, tested: Tested, options: LearnOptions, calibration: Calibration | None = None
) -> dict[str, Any]:
    """Summarise a model's predictions: shares from 0 to 1, with 95 % intervals over families.

    Without a calibration, each fold is calibrated on the others.
    """
    labels = sample.label[tested.pages]
    named = tested.scores.argmax(axis=1)
    right = named == labels
    n_labels = len(sample.labels)
    _, family = np.unique(sample.family[tested.pages], return_inverse=True)
    cells = family * n_labels + labels
    shape = (int(family.max()) + 1, n_labels)
    total = np.bincount(cells, minlength=shape[0] * n_labels).reshape(shape)
    hits = np.bincount(cells, right, minlength=shape[0] * n_labels).reshape(shape)
    generator = np.random.default_rng(options.sample.seed)
    weights = generator.multinomial(
        shape[0], np.full(shape[0], 1 / shape[0]), size=options.draws
    ).astype(np.float64)
    drawn_total, drawn_hits = weights @ total, weights @ hits
    with np.errstate(invalid="ignore"):
        recalls = drawn_hits / drawn_total
    accuracies = drawn_hits.sum(axis=1) / drawn_total.sum(axis=1)
    recall = hits.sum(axis=0) / np.maximum(total.sum(axis=0), 1)
    there = total.sum(axis=0) > 0
    chances = (
        _calibrated(tested, labels)
        if calibration is None
        else probabilities(tested.scores, calibration)
    )
    confidence = chances.max(axis=1)
    surest = np.argsort(-confidence, kind="stable")[: int(0.9 * confidence.size)]
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": _interval(accuracies),
        "recall": float(recall[there].mean()),
        "recall_interval": _interval(np.nanmean(recalls[:, there], axis=1)),
        "folds": [float(right[tested.fold == k].mean()) for k in range(options.n_folds)],
        "surest_90": float(right[surest].mean()),
        "calibration_error": _calibration_error(confidence, right),
        "log_loss": float(-np.log(chances[np.arange(labels.size), labels]).mean()),
        "pages": int(right.size),
        "families": shape[0],
        "by_label": {
            name: {
                "recall": float(recall[k]),
                "interval": _interval(recalls[:, k]),
                "pages": int(total[:, k].sum()),
                "families": int((total[:, k] > 0).sum()),
                "named": _most_named(sample.labels, named[labels == k], k),
            }
            for k, name in enumerate(sample.labels)
            if there[k]
        },
    }


def _interval(values: NDArray[np.float64]) -> list[float]:
    return [float(each) for each in np.nanpercentile(values, [2.5, 97.5])]


def _most_named(names: list[str], named: Int64, own: int) -> dict[str, float]:
    """Return the labels most often predicted for a label, except itself, as shares."""
    counts = np.bincount(named, minlength=len(names)) / max(named.size, 1)
    if own >= 0:
        counts[own] = 0
    return {names[k]: float(counts[k]) for k in np.argsort(-counts, kind="stable")[:3] if counts[k]}


def _calibrated(tested: Tested, labels: Int64) -> NDArray[np.float64]:
    """Return the labels' probabilities, each fold calibrated on the others."""
    found = np.empty(tested.scores.shape)
    for k in np.unique(tested.fold):
        mine = tested.fold == k
        calibration = calibration_of(tested.scores[~mine], labels[~mine])
        found[mine] = probabilities(tested.scores[mine], calibration)
    return found


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error, over ten bins of equal width."""
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def restricted(sample: Sample, labels: list[str]) -> tuple[Sample, Int64]:
    """Return the pages of some labels, and their rows in the sample."""
    places = np.flatnonzero(np.isin(np.array(sample.labels)[sample.label], labels))
    rows = sample.rows.iloc[places].reset_index(drop=True)
    numbers = {sample.labels.index(name): i for i, name in enumerate(labels)}
    rows = rows.assign(label=rows["label"].map(numbers))
    return Sample(labels, rows, take(sample.counts, places)), places


def largest(sample: Sample, n: int) -> list[str]:
    """Return the programming languages in the most families, sorted by name."""
    own = sample.rows[sample.rows["kind"] == "programming"]
    families = own.groupby("label")["family"].nunique().sort_values(ascending=False, kind="stable")
    return sorted(sample.labels[int(k)] for k in families.index[:n])


def learn(
    dataset: Dataset, options: LearnOptions | None = None, say: Callable[[str], None] = print
) -> tuple[dict[str, Any], LanguageModel]:
    """Evaluate how well the languages of a dataset can be predicted, and train a model of them.

    Returns the scores of each model on held-out families with the association with metadata, and a
    model trained on all families and calibrated on held-out ones. `say` receives lines about the
    progress. `UsageError` if the dataset has fewer than two languages in enough concepts.
    """
    options = options or LearnOptions()
    say(f"choosing pages of {number_of(file=dataset.counted['files'])}")
    sample = draw(dataset, options.sample)
    warnings = warnings_of(sample)
    for warning in warnings:
        say(f"warning: {warning}")
    say(
        f"{len(sample.rows):,} pages of {sample.rows['family'].nunique():,} families in "
        f"{len(sample.labels)} languages and kinds of text"
    )
    fold = folds_of(sample, options.n_folds, options.sample.seed)
    characters = count_symbols(dataset, sample.rows, pairs=False)
    pairs = count_symbols(dataset, sample.rows, pairs=True)
    words = concatenated([count_words(images) for images in read_pages(dataset, sample.rows)])
    inputs = {
        "characters": (characters, N_SYMBOLS),
        "pairs of characters": (pairs, N_SYMBOLS**2),
        WORDS: (words, N_BUCKETS),
        PATTERNS: (sample.counts, N_BUCKETS),
    }
    tasks = {
        "all": (sample, np.arange(len(sample.rows))),
        "programming": restricted(sample, largest(sample, options.programming)),
    }
    results: dict[str, Any] = {"options": asdict(options), "warnings": warnings, "tasks": {}}
    calibration, rate = Calibration(), 1.0
    for task, (part, places) in tasks.items():
        found: dict[str, Any] = {}
        with ThreadPoolExecutor(len(inputs)) as pool:
            running = {
                name: pool.submit(
                    cross_validate, part, take(counts, places), fold[places], options, n_buckets
                )
                for name, (counts, n_buckets) in inputs.items()
            }
        for name, answer in running.items():
            tested, rates = answer.result()
            found[name] = summary(part, tested, options) | {"rates": rates}
            say(f"{task}, {name}: accuracy {found[name]['accuracy']:.3f}")
        counted = np.bincount(part.label[tested.pages])
        found["majority"] = {"accuracy": float(counted.max() / tested.pages.size)}
        if task == "all":
            calibration = calibration_of(tested.scores, part.label[tested.pages])
            rate = float(np.median(rates))
        if options.network and task == "programming":
            lines = lines_of(read_pages(dataset, part.rows))
            scores = [
                (
                    test,
                    train_and_score(
                        lines, train, part.label[train], test, len(part.labels), options.network,
                        options.sample.seed,
                    ),
                )
                for train, test in splits(part, fold[places], options)
            ]  # fmt: skip
            found[NETWORK] = summary(part, Tested.of(scores, fold[places]), options)
            say(f"{task}, {NETWORK}: accuracy {found[NETWORK]['accuracy']:.3f}")
        if options.magika:
            found |= evaluate_magika(dataset, part, tested, options)
        results["tasks"][task] = {"labels": part.labels, "models": found}
    results["association"] = [
        asdict(each) for each in associate(dataset, sample, fold, options.sample.seed)
    ]
    train = choose_pages(
        sample, np.arange(len(sample.rows)), options.train_pages * 3 // 2, options.sample.seed
    )
    linear = fit(
        take(sample.counts, train), sample.label[train], len(sample.labels), N_BUCKETS,
        rate=rate, seed=options.sample.seed,
    )  # fmt: skip
    model = LanguageModel.of(linear, tuple(sample.labels), calibration)
    results["unknown"] = unknown(dataset, model, options)
    return results, model


def warnings_of(sample: Sample) -> list[str]:
    """Return warnings about a sample that is too small to be meaningful."""
    families = sample.rows["family"].nunique()
    found = []
    if families < 100:
        found.append(f"only {families} families: intervals will be wide, over ten points")
    if len(sample.labels) < 10:
        found.append(
            f"only {len(sample.labels)} languages: the figures say little about naming any other"
        )
    return found


def evaluate_magika(
    dataset: Dataset, sample: Sample, tested: Tested, options: LearnOptions
) -> dict[str, Any]:
    """Evaluate Magika on some of the same pages, with all its labels and with ours only.

    Pages with labels that it does not know are left out. The accuracy of our model on the same
    pages and labels is included. `UsageError` if Magika is not installed.
    """
    model = magika()
    from magika.types.seekable import Seekable

    outputs = [str(label) for label in model._model_config.target_labels_space]  # noqa: SLF001
    places = {name.lower(): k for k, name in enumerate(sample.labels)}
    of_output = np.array(
        [
            places.get(_FURTHER_NAMES.get(label, MAGIKA_NAMES.get(label, label)).lower(), -1)
            for label in outputs
        ]
    )
    pages = np.concatenate(
        [
            choose_pages(
                sample, tested.pages[tested.fold == k], options.magika, options.sample.seed
            )
            for k in range(options.n_folds)
        ]
    )
    pages = np.sort(pages[np.isin(sample.label[pages], of_output)])
    features = [
        (Path(), model._get_result_or_features_from_seekable(Seekable(BytesIO(text)))[1])  # noqa: SLF001
        for images in read_pages(dataset, sample.rows.iloc[pages])
        for text in (to_text(image).encode("utf-8", "replace") for image in images)
    ]
    judged = np.array([each is not None for _, each in features])  # others are too small for it
    features, pages = [each for each in features if each[1] is not None], pages[judged]
    raw = np.array(model._get_raw_predictions(features))  # noqa: SLF001
    given = np.full((len(pages), len(sample.labels)), -1.0)
    for output in np.flatnonzero(of_output >= 0):
        given[:, of_output[output]] = np.maximum(given[:, of_output[output]], raw[:, output])
    order = np.argsort(tested.pages)
    mine = order[np.searchsorted(tested.pages, pages, sorter=order)]
    ours = tested.scores[mine].copy()
    ours[:, ~np.isin(np.arange(len(sample.labels)), of_output)] = -np.inf
    labels, fold = sample.label[pages], tested.fold[mine]
    named = {
        "Magika, as shipped": of_output[raw.argmax(axis=1)],
        "Magika, among these labels": given.argmax(axis=1),
        f"{PATTERNS}, among these labels": ours.argmax(axis=1),
    }
    return {
        name: {
            "accuracy": float((answers == labels).mean()),
            "recall": float(
                np.mean([(answers[labels == k] == k).mean() for k in np.unique(labels)])
            ),
            "folds": [float((answers == labels)[fold == k].mean()) for k in range(options.n_folds)],
            "pages": len(pages),
        }
        for name, answers in named.items()
    }


def held_out(dataset: Dataset, model: LanguageModel, options: LearnOptions) -> dict[str, Any]:
    """Evaluate a model on another dataset, with the model's labels."""
    sample = draw(dataset, options.sample, list(model.labels))
    pages = np.arange(len(sample.rows))
    chosen_pages = choose_pages(sample, pages, options.test_pages, options.sample.seed)
    scores = np.concatenate(
        [model.scores(images) for images in read_pages(dataset, sample.rows.iloc[chosen_pages])]
    )
    tested = Tested(chosen_pages, np.zeros(chosen_pages.size, np.int64), scores)
    return summary(sample, tested, replace(options, n_folds=1), model.calibration)


def unknown(dataset: Dataset, model: LanguageModel, options: LearnOptions) -> dict[str, Any]:
    """Return a model's predictions for languages that it does not know, and their confidence."""
    query = _LABELS.format(min_lines=options.sample.min_lines)
    labels = dataset.sql(query, timeout=math.inf).df()["label"]
    others = [label for label in labels if label not in model.labels]
    if len(others) < 2:
        return {}
    sample = draw(dataset, replace(options.sample, pages_a_label=options.test_pages), others)
    scores = np.concatenate([model.scores(images) for images in read_pages(dataset, sample.rows)])
    confidence = probabilities(scores, model.calibration).max(axis=1)
    named = scores.argmax(axis=1)
    families = sample.rows.groupby("label")["family"].nunique()
    return {
        others[k]: {
            "families": int(families[k]),
            "pages": int((sample.label == k).sum()),
            "confidence": float(confidence[sample.label == k].mean()),
            "named": _most_named(list(model.labels), named[sample.label == k], -1),
        }
        for k in np.unique(sample.label).tolist()
    }
