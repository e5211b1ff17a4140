"""Plots of what was learnt, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def plot_confusion(
    confusion: NDArray[np.int64], languages: Sequence[str], path: Path, title: str
) -> None:
    """Draw a confusion matrix, rows the truth, each row's shares in per cent.

    Parameters
    ----------
    confusion : numpy.ndarray of int, shape (languages, languages)
    languages : sequence of str
    path : Path
        Of the picture; its suffix says in which format.
    title : str
    """
    shares = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.42 * len(languages)
    figure = Figure(figsize=(size, size * 0.95), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        if shares[row, column] >= 0.5:
            colour = "white" if shares[row, column] > 55 else "black"
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center",
                      fontsize=8, color=colour)  # fmt: skip
    axes.set_xticks(range(len(languages)), languages, rotation=60, ha="right")
    axes.set_yticks(range(len(languages)), languages)
    axes.set_xlabel("named")
    axes.set_ylabel("is")
    axes.set_title(title)
    figure.savefig(path, dpi=110)


def plot_models(
    recalls: Mapping[str, NDArray[np.float64]], languages: Sequence[str], path: Path
) -> None:
    """Draw each model's recall by language, side by side.

    Parameters
    ----------
    recalls : mapping of str to numpy.ndarray, shape (languages,)
    languages : sequence of str
    path : Path
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(recalls)
    for number, (model, recall) in enumerate(recalls.items()):
        axes.bar(np.arange(len(languages)) + number * width, recall, width, label=model)
    axes.set_xticks(np.arange(len(languages)) + 0.4 - width / 2, languages, rotation=45, ha="right")
    axes.set_ylabel("recall")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(recalls), frameon=False)
    figure.savefig(path, dpi=110)
