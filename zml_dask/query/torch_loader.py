"""Batches as PyTorch takes them. Needs the extra ``ml``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zml_dask.errors import UsageError
from zml_dask.query.batches import Batches

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise UsageError("to_torch() needs PyTorch; install zml-dask[ml]") from error


class TorchImages(IterableDataset[Any]):
    """Batches of images as tensors; give it to a ``DataLoader`` with ``batch_size=None``.

    The loader's workers divide the chunks among themselves, and so do the
    processes of a distributed training (``rank`` of ``world_size``): every image
    comes once an epoch. Code points come as int32, since PyTorch's uint32 does
    little.

    Parameters
    ----------
    batches : Batches
    rank, world_size : int
        Number of this process and how many there are.
    """

    def __init__(self, batches: Batches, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        self._batches = batches
        self._rank = rank
        self._world_size = world_size

    def __repr__(self) -> str:
        return f"<TorchImages of {self._batches!r}>"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Label of each code."""
        return self._batches.classes

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; another one is shuffled differently.

        Needed with worker processes, which each have a copy of this.
        """
        self._batches.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        share = self._rank * workers + worker
        for batch in self._batches.share(share, self._world_size * workers):
            yield tuple(map(_tensor, batch)) if isinstance(batch, tuple) else _tensor(batch)
        self._batches.epoch += 1


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype == np.uint32:  # code points need 21 bits of it
        array = array.view(np.int32)
    elif array.dtype == np.uint16:
        array = array.astype(np.int32)
    return torch.from_numpy(array)
