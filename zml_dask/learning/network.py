"""A neural network with attention over lines, with which the shipped model is compared.

Words have the same hashed features as in `words`: the word, its pair and two patterns. A line is
the sum of their embeddings, followed by two layers; a page is its lines weighted by attention,
together with the sum over all of them. Needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zml_dask.learning.words import N_BUCKETS, N_KINDS, find_words
from zml_dask.raster.images import Images

if TYPE_CHECKING:
    import torch

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How a network is built and trained.

    Attributes
    ----------
    size : int
        Size of the embeddings.
    heads : int
        Attention heads.
    epochs, batch : int
        Passes over the pages, and pages per step.
    dropout : float
        Share of a page's words that are left out at random in each pass.
    rate : float
        Learning rate, which decreases linearly to zero.
    """

    size: int = 32
    heads: int = 4
    epochs: int = 6
    batch: int = 64
    dropout: float = 0.5
    rate: float = 3e-3


class Lines(NamedTuple):
    """The words of pages, with their lines.

    Page `i` has the words ``pages[i]`` to ``pages[i + 1] - 1``; `rows` are their line numbers, and
    `buckets` (words, 4) those of `words.Words`.
    """

    pages: Int64
    rows: NDArray[np.uint16]
    buckets: NDArray[np.uint32]


def lines_of(portions: Iterator[Images]) -> Lines:
    """Find the words of pages."""
    rows, buckets, sizes = [np.empty(0, np.uint16)], [np.empty((0, N_KINDS), np.uint32)], [0]
    for images in portions:
        found = find_words(images)
        rows.append(found.places[:, 1].astype(np.uint16))
        buckets.append(found.buckets)
        sizes += np.bincount(found.places[:, 0], minlength=len(images)).tolist()
    return Lines(np.cumsum(sizes), np.concatenate(rows), np.concatenate(buckets))


def train_and_score(
    lines: Lines,
    train: Int64,
    labels: Int64,
    test: Int64,
    n_labels: int,
    options: NetworkOptions,
    seed: int,
) -> Float32:
    """Train a network on one core and return its scores, (test pages, labels).

    `train` and `test` are page numbers, `labels` those of the training pages, 0 to
    ``n_labels - 1``. The same arguments give the same scores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = _built(n_labels, options)
            _train(parts, lines, train, labels, options, np.random.default_rng(seed))
            parts.eval()
            with torch.no_grad():
                found = [
                    _scores(parts, *_batch(lines, test[at : at + options.batch])).numpy()
                    for at in range(0, test.size, options.batch)
                ]
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(found) if found else np.empty((0, n_labels), np.float32)


def _built(n_labels: int, options: NetworkOptions) -> Any:
    from torch import nn

    wide = 2 * options.size
    parts: Any = nn.ModuleDict(
        {
            "words": nn.EmbeddingBag(N_BUCKETS, options.size, mode="sum", sparse=True),
            "line": nn.Sequential(
                nn.LayerNorm(options.size), nn.Linear(options.size, wide), nn.ReLU(),
                nn.Linear(wide, wide), nn.ReLU(),
            ),
            "attention": nn.Linear(wide, options.heads),
            "out": nn.Sequential(
                nn.Dropout(0.3), nn.Linear(wide * options.heads + options.size, n_labels)
            ),
            "page": nn.LayerNorm(options.size),
        }
    )  # fmt: skip
    nn.init.normal_(parts["words"].weight, std=0.1)
    return parts


def _train(
    parts: Any,
    lines: Lines,
    train: Int64,
    labels: Int64,
    options: NetworkOptions,
    generator: np.random.Generator,
) -> None:
    import torch

    sparse: Any = torch.optim.SparseAdam(list(parts["words"].parameters()), lr=options.rate)
    others = [p for name, p in parts.named_parameters() if not name.startswith("words.")]
    dense = torch.optim.AdamW(others, lr=options.rate, weight_decay=1e-2)
    n_steps = options.epochs * -(-train.size // options.batch)
    step = 0
    for _ in range(options.epochs):
        order = generator.permutation(train.size)
        for at in range(0, order.size, options.batch):
            for group in (*sparse.param_groups, *dense.param_groups):
                group["lr"] = options.rate * (1 - step / n_steps)
            chosen = order[at : at + options.batch]
            batch = _batch(lines, train[chosen], options.dropout, generator)
            loss: Any = torch.nn.functional.cross_entropy(
                _scores(parts, *batch), torch.from_numpy(labels[chosen]), label_smoothing=0.05
            )
            sparse.zero_grad()
            dense.zero_grad()
            loss.backward()
            sparse.step()
            dense.step()
            step += 1


def _batch(
    lines: Lines, pages: Int64, dropout: float = 0.0, generator: np.random.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Return buckets, the first bucket and the page of each line, and the number of pages."""
    import torch

    starts, stops = lines.pages[pages], lines.pages[pages + 1]
    spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
    of_page = np.repeat(np.arange(pages.size), stops - starts)
    rows = np.concatenate([lines.rows[start:stop] for start, stop in spans])
    buckets = np.concatenate([lines.buckets[start:stop] for start, stop in spans])
    if generator is not None:
        kept = generator.random(rows.size) >= dropout
        of_page, rows, buckets = of_page[kept], rows[kept], buckets[kept]
    line = of_page * (np.iinfo(np.uint16).max + 1) + rows
    begins = np.flatnonzero(np.diff(line, prepend=-1))
    return (
        torch.from_numpy(buckets.astype(np.int64).ravel()),
        torch.from_numpy(begins * N_KINDS),
        torch.from_numpy(of_page[begins]),
        pages.size,
    )


def _scores(
    parts: Any, buckets: torch.Tensor, begins: torch.Tensor, of_page: torch.Tensor, n_pages: int
) -> torch.Tensor:
    import torch

    sums = parts["words"](buckets, begins)
    length = torch.diff(begins, append=begins.new_tensor([buckets.numel()]))
    found = parts["line"](sums / length.sqrt()[:, None])
    weights = parts["attention"](found).clamp(max=20).exp()
    totals = weights.new_full((n_pages, weights.shape[1]), 1e-6).index_add(0, of_page, weights)
    shares = weights / totals[of_page]
    taken = shares[:, :, None] * found[:, None, :]
    heads = found.new_zeros(n_pages, *taken.shape[1:]).index_add(0, of_page, taken)
    whole = sums.new_zeros(n_pages, sums.shape[1]).index_add(0, of_page, sums)
    scores: torch.Tensor = parts["out"](torch.cat([heads.flatten(1), parts["page"](whole)], dim=1))
    return scores
