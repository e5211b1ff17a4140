"""Name the language of an image: ``python -m zml_dask.analysis.classify DATASET DIRECTORY``.

Trains the network, holds it to its baselines on records it has not seen, looks
at the neighbours of its embeddings and at one association with metadata, and
writes ``results.json``, plots and the embeddings. Needs the extra ``ml``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zml_dask.analysis.samples import SampleOptions, Samples, draw
from zml_dask.analysis.scores import agreement, confuse, embed_files, recall_of, score, worst
from zml_dask.errors import UsageError, ZmlError
from zml_dask.query.dataset import open_dataset

NETWORK, CHARACTERS, PAIRS = "network", "bag of characters", "bag of pairs"


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
    UsageError
    """
    _check_extra()
    # Imported here: torch takes seconds, and need not be installed.
    from zml_dask.analysis import network as net
    from zml_dask.analysis.association import associate
    from zml_dask.analysis.baselines import neighbours

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
    confusions = _confusions(train, test, scores.argmax(axis=1), len(languages))
    files = embed_files(test, embedded)
    near = neighbours(np.stack(files["embedding"].to_list()), files["record_id"].to_numpy(np.int64))
    association = associate(
        pd.concat([train.rows, test.rows], ignore_index=True),
        np.concatenate([net.run(model, train.tokens)[0], embedded]),
        options.samples.seed,
    )
    parts = {"train": train, "test": test}
    results = {
        "options": asdict(options),
        "languages": languages,
        "images": {name: len(part.labels) for name, part in parts.items()},
        "records": {name: int(part.rows["record_id"].nunique()) for name, part in parts.items()},
        "models": {name: score(confusion) for name, confusion in confusions.items()},
        "confusion": confusions[NETWORK].tolist(),
        "worst": worst(confusions[NETWORK], languages),
        "neighbours": agreement(files, near),
        "association": asdict(association) if association else None,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    files.to_parquet(directory / "embeddings.parquet")
    _plot(confusions, languages, directory)
    return results


def _check_extra() -> None:
    for package in ("torch", "sklearn", "matplotlib"):
        if find_spec(package) is None:
            raise UsageError(
                f"learning needs {package}: pip install 'zml-dask[ml]' (its extra 'ml')"
            )


def _confusions(
    train: Samples, test: Samples, named: NDArray[np.int64], n_languages: int
) -> dict[str, NDArray[np.int64]]:
    """Confusion matrices of the network, which named the test's images so, and of its baselines."""
    from zml_dask.analysis.baselines import predict

    found = {
        NETWORK: named,
        CHARACTERS: predict("characters", train, test),
        PAIRS: predict("pairs", train, test),
    }
    return {name: confuse(test.labels, labels, n_languages) for name, labels in found.items()}


def _plot(confusions: dict[str, NDArray[np.int64]], languages: list[str], directory: Path) -> None:
    from zml_dask.analysis.learning_plots import plot_confusion, plot_models

    confusion = confusions[NETWORK]
    plot_confusion(
        confusion,
        languages,
        directory / "confusion.png",
        f"language named from one image, %: accuracy {100 * score(confusion)['accuracy']:.1f} %",
    )
    recalls = {name: recall_of(confusion) for name, confusion in confusions.items()}
    plot_models(recalls, languages, directory / "models.png")


@click.command()
@click.argument("dataset")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the split and of all else."
)
@click.option(
    "--images",
    type=click.IntRange(3),
    default=250,
    show_default=True,
    help="Of each language, at most.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Passes of the network over what it learns from.",
)
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
