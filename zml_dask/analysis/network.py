"""A small convolutional network that names a language from an image, and embeds it.

Characters are symbols, not brightness: each pixel is looked up in an embedding
before the convolutions, which then see words and their arrangement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zml_dask.analysis.samples import N_TOKENS, Samples

EMBEDDING = 64
_BATCH = 256


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How the network is trained.

    Attributes
    ----------
    epochs, batch_size, seed : int
    learning_rate : float
        Highest of the one-cycle schedule.
    """

    epochs: int = 8
    batch_size: int = 16
    learning_rate: float = 3e-3
    seed: int = 0


class LanguageNet(nn.Module):
    """Tokens (n, height, width) to scores (n, languages), by way of an embedding.

    Parameters
    ----------
    n_languages : int
    """

    def __init__(self, n_languages: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(N_TOKENS, 12)
        self.body = nn.Sequential(
            nn.Conv2d(12, 24, (1, 5), stride=(1, 2), padding=(0, 2)),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, (3, 5), stride=2, padding=(1, 2)),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.squeeze = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, EMBEDDING), nn.ReLU())
        self.name = nn.Linear(EMBEDDING, n_languages)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed images: (n, `EMBEDDING`)."""
        found = self.body(self.characters(tokens.int()).permute(0, 3, 1, 2))
        # What occurs anywhere, and how much of it.
        pooled = torch.cat([found.amax(dim=(2, 3)), found.mean(dim=(2, 3))], dim=1)
        embedded: torch.Tensor = self.squeeze(pooled)
        return embedded

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Score the languages."""
        scores: torch.Tensor = self.name(self.embed(tokens))
        return scores


def train(
    samples: Samples,
    n_languages: int,
    options: TrainOptions,
    tell: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> LanguageNet:
    """Train a network; the same seed gives the same network on the same machine.

    Parameters
    ----------
    samples : Samples
    n_languages : int
    options : TrainOptions
    tell : callable
        Called with the number and the mean loss of every epoch.
    """
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    generator = np.random.default_rng(options.seed)
    network = LanguageNet(n_languages)
    tokens, labels = torch.from_numpy(samples.tokens), torch.tensor(samples.labels)
    steps = -(-len(labels) // options.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, epochs=options.epochs, steps_per_epoch=steps
    )
    # Languages of fewer images weigh as much as the others.
    counts = torch.bincount(labels, minlength=n_languages).clamp(min=1)
    loss_of = nn.CrossEntropyLoss(len(labels) / (n_languages * counts), label_smoothing=0.05)
    for epoch in range(options.epochs):
        network.train()
        total = 0.0
        for batch in np.array_split(generator.permutation(len(labels)), steps):
            optimizer.zero_grad()
            loss = loss_of(network(_window(tokens[batch], generator)), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        tell(epoch, total / steps)
    return network.eval()


def _window(tokens: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Cut half of the lines out of a batch, so that no place on the page is learnt by heart."""
    lines = tokens.shape[1]
    start = int(generator.integers(lines - lines // 2 + 1))
    return tokens[:, start : start + lines // 2]


def run(network: LanguageNet, tokens: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """Return embeddings (n, `EMBEDDING`) and scores (n, languages)."""
    embedded, scores = [], []
    with torch.inference_mode():
        for start in range(0, len(tokens), _BATCH):
            one = network.embed(torch.from_numpy(tokens[start : start + _BATCH]))
            embedded.append(one.numpy())
            scores.append(network.name(one).numpy())
    return np.concatenate(embedded), np.concatenate(scores)
