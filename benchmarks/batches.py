"""Batches into a training loop: shuffled images a second, by way of dealing them out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import zarr
from archive_to_commit import records_of, without_dask
from comparison import compare
from corpus import archives
from torch.utils.data import DataLoader

import zml_dask as zml

BATCH = 256
SINGLE_ROW_BATCHES = 4


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "dataset"
        without_dask(records_of(archives()), path)
        dataset = zml.open_dataset(path)
        n = len(dataset.images)
        array = zarr.open_group(path / "images.zarr", mode="r")["images"]
        random = np.random.default_rng(0)

        def rows_at_random() -> None:
            for _ in range(SINGLE_ROW_BATCHES):
                array.oindex[np.sort(random.choice(n, BATCH, replace=False))]

        compare(
            "Batches of rows drawn one by one from the whole array",
            SINGLE_ROW_BATCHES * BATCH,
            "images",
            {"zarr-python, random rows": rows_at_random},
            rounds=3,
        )
        compare(
            "Batches into a training loop, an epoch of shuffled images with labels",
            n,
            "images",
            {
                "batches(seed=0, labels='language')": lambda: [
                    images.shape for images, _ in dataset.batches(seed=0, labels="language")
                ],
                "the same as uint8": lambda: [
                    images.shape
                    for images, _ in dataset.batches(seed=0, labels="language", encoding="uint8")
                ],
                "to_torch through a DataLoader": lambda: [
                    images.shape
                    for images, _ in DataLoader(
                        dataset.to_torch(BATCH, seed=0, labels="language"), batch_size=None
                    )
                ],
            },
            rounds=3,
        )


if __name__ == "__main__":
    main()
