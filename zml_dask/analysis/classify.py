"""Name the language of an image: ``python -m zml_dask.analysis.classify DATASET DIRECTORY``.

Trains the network, holds it to its baselines on records it has not seen, looks
at the neighbours of its embeddings and at one association with metadata, and
writes ``results.json``, plots and the embeddings. Needs the extra ``ml``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.analysis.samples import SampleOptions, Samples, draw
from zml_dask.errors import UsageError, ZmlError
from zml_dask.store.dataset import open_dataset

NETWORK, CHARACTERS, PAIRS = "network", "bag of characters", "bag of pairs"


class ExtraMissingError(UsageError):
    """A package of the extra ``ml`` is not installed."""


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """Everything that a run depends on, but for the dataset.

    Attributes
    ----------
    samples : SampleOptions
    epochs : int
    """

    samples: SampleOptions = field(default_factory=SampleOptions)
    epochs: int = 8


def run(dataset: str, directory: Path, options: ClassifyOptions | None = None) -> dict[str, Any]:
    """Do all of it; the same seed gives the same results on the same machine.

    Parameters
    ----------
    dataset : str
        Path or URL.
    directory : Path
        Where results are written; made where it is missing.
    options : ClassifyOptions, optional

    Returns
    -------
    dict
        What ``results.json`` holds.

    Raises
    ------
    ExtraMissingError, TooFewSamplesError
    """
    for package in ("torch", "sklearn", "matplotlib"):
        if find_spec(package) is None:
            raise ExtraMissingError(
                f"learning needs {package}: pip install 'zml-dask[ml]' (its extra 'ml')"
            )
    from zml_dask.analysis import network as net
    from zml_dask.analysis.association import associate
    from zml_dask.analysis.baselines import neighbours, predict
    from zml_dask.analysis.learning_plots import plot_confusion, plot_models

    options = options or ClassifyOptions()
    languages, train, test = draw(open_dataset(dataset), options.samples)
    click.echo(
        f"{len(train.labels):,} images to learn from, {len(test.labels):,} to be tested by, "
        f"{len(languages)} languages",
        err=True,
    )
    model = net.train(
        train,
        len(languages),
        net.TrainOptions(epochs=options.epochs, seed=options.samples.seed),
        lambda epoch, loss: click.echo(f"epoch {epoch + 1}: loss {loss:.3f}", err=True),
    )
    embedded, scores = net.run(model, test.tokens)
    named: dict[str, NDArray[np.int64]] = {
        NETWORK: scores.argmax(axis=1),
        CHARACTERS: predict("characters", train, test),
        PAIRS: predict("pairs", train, test),
    }
    confusions = {
        name: confuse(test.labels, found, len(languages)) for name, found in named.items()
    }
    files = embed_files(test, embedded)
    near = neighbours(np.stack(files["embedding"].to_list()), files["record_id"].to_numpy(np.int64))
    everything, both = net.run(model, train.tokens)[0], pd.concat([train.rows, test.rows])
    association = associate(
        both.reset_index(drop=True), np.concatenate([everything, embedded]), options.samples.seed
    )
    results = {
        "options": asdict(options),
        "languages": languages,
        "images": {"train": len(train.labels), "test": len(test.labels)},
        "records": {
            name: int(part.rows["record_id"].nunique())
            for name, part in (("train", train), ("test", test))
        },
        "models": {name: score(confusion) for name, confusion in confusions.items()},
        "confusion": confusions[NETWORK].tolist(),
        "worst": worst(confusions[NETWORK], languages),
        "neighbours": agreement(files, near),
        "association": asdict(association) if association else None,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    accuracy = results["models"][NETWORK]["accuracy"]
    plot_confusion(
        confusions[NETWORK],
        languages,
        directory / "confusion.png",
        f"language named from one image, %: accuracy {100 * accuracy:.1f} %",
    )
    recalls = {name: recall_of(confusion) for name, confusion in confusions.items()}
    plot_models(recalls, languages, directory / "models.png")
    files.to_parquet(directory / "embeddings.parquet")
    return results


def confuse(truth: NDArray[np.int64], named: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Count how often each language (row) was named as each (column).

    Examples
    --------
    >>> confuse(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts: NDArray[np.int64] = np.bincount(truth * n + named, minlength=n * n).reshape(n, n)
    return counts


def recall_of(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each language that was named rightly."""
    recall: NDArray[np.float64] = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    return recall


def score(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Sum up a confusion matrix; precision and recall are means over the languages.

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
    """List the mistakes that are made most often, as shares of the language."""
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
    """Average the embeddings of each file's images: a row a file, column ``embedding``."""
    rows = samples.rows.reset_index(drop=True)
    found = [
        {**rows.iloc[places[0]][["file_id", "record_id", "path", "language"]].to_dict(),
         "embedding": embedded[places].mean(axis=0)}
        for places in rows.groupby("file_id").indices.values()
    ]  # fmt: skip
    return pd.DataFrame(found)


def agreement(files: pd.DataFrame, near: NDArray[np.int64]) -> dict[str, Any]:
    """Tell how often a file's nearest neighbours, of other records, share its language."""
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


@click.command()
@click.argument("dataset")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the split and of all else."
)
@click.option(
    "--images", type=click.IntRange(3), default=250, show_default=True, help="A language."
)
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
def main(dataset: str, directory: Path, seed: int, images: int, epochs: int) -> None:
    """Learn the languages of DATASET's images; write results and plots into DIRECTORY."""
    options = ClassifyOptions(SampleOptions(images_a_language=images, seed=seed), epochs)
    try:
        results = run(dataset, directory, options)
    except ZmlError as error:
        click.echo(f"classify: {error}", err=True)
        sys.exit(error.exit_status)
    for name, found in results["models"].items():
        click.echo(f"{name:18} accuracy {found['accuracy']:.3f}  recall {found['recall']:.3f}")


if __name__ == "__main__":
    main()
