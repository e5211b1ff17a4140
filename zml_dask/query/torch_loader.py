"""Batches as PyTorch takes them. Needs the extra ``ml``."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import IterableDataset, get_worker_info

from zml_dask.arguments import checked
from zml_dask.errors import UsageError
from zml_dask.query.batches import Batches

_LOADERS = 16
"""Iterations whose epoch is remembered, for workers of theirs that begin late."""
_SLOTS = 1 + 3 * _LOADERS


@checked
class TorchImages(IterableDataset[Any]):
    """Batches of images as tensors; give it to a ``DataLoader`` with ``batch_size=None``.

    The processes of a distributed training (``rank`` of ``world_size``) get the
    same number of batches each, and the loader's workers divide those among
    themselves. Every iteration is an epoch, in another order than the one before,
    with and without workers. Code points come as int32, since PyTorch's uint32
    does little.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches
        self._epochs = _Epochs(batches.epoch)
        self._resumed: int | None = None

    def __repr__(self) -> str:
        return f"<TorchImages of {self._batches!r}>"

    def __len__(self) -> int:
        """Batches per epoch, the same for every rank and number of workers."""
        return len(self._batches)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Label of each code."""
        return self._batches.classes

    @property
    def vocabulary_size(self) -> int | None:
        """Number of values of ``index``, and planes of ``onehot``; else None."""
        return self._batches.vocabulary_size

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, in all workers of the loader, persistent ones too."""
        self._batches.set_epoch(epoch)
        self._epochs.set_next(self._batches.epoch)
        self._resumed = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this worker's iteration, for torchdata's StatefulDataLoader.

        Without workers ``load_state_dict`` on another such object lets its next
        iteration continue from there.
        """
        worker, workers = _worker()
        return {**self._batches.state_dict(), "worker": [worker, workers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration continue where another one was.

        Raises
        ------
        UsageError
            If the state is of other images, options, or another number of workers.
        """
        worker = [*state.get("worker", (0, 1))]  # the state of batches() has none
        if worker != [*_worker()]:
            raise UsageError(
                f"the state cannot be resumed: it is of worker {worker[0]} of {worker[1]}; give "
                "the DataLoader the same num_workers"
            )
        self._batches.load_state_dict(state)
        self._resumed = self._batches.epoch

    def __iter__(self) -> Iterator[Any]:
        # The loader's fetcher calls this; with a batch_size it would stack our batches.
        if getattr(sys._getframe(1).f_locals.get("self"), "auto_collation", False):  # noqa: SLF001
            raise UsageError(
                "to_torch() makes the batches itself; give the DataLoader batch_size=None and "
                "to_torch() the size"
            )
        # Without workers the first batch begins an epoch: torchdata makes iterators that it
        # does not use.
        return self._begin() if get_worker_info() is not None else self._iterate()

    def _iterate(self) -> Iterator[Any]:
        yield from self._begin()

    def _begin(self) -> Iterator[Any]:
        state = self._batches.state_dict()
        epoch = self._epochs.begin(self._resumed)
        if self._resumed is None and state["epoch"] != epoch:
            self._batches.set_epoch(epoch)
        self._resumed = None
        is_part = get_worker_info() is not None
        return map(_tensors, self._batches.share(*_worker(), is_part=is_part))


class _Epochs:
    """Numbers the iterations, alike for all workers of a loader: shared by their processes.

    A loader copies its dataset into new workers at every iteration, or keeps them
    and lets each iterate again. What its workers know in common is a random
    number of the loader's, and how often they have iterated.
    """

    def __init__(self, first: int = 0, shared: Any = None) -> None:
        # The next epoch; then of some loaders: number, iterations of a worker, epoch.
        # Of a context whose locks forked and spawned processes can both inherit.
        new = shared is None
        try:
            array = multiprocessing.get_context("spawn").Array("q", _SLOTS) if new else shared
        except OSError as error:
            raise UsageError(
                f"to_torch() needs a little shared memory ({error}): make /dev/shm writable, or "
                "iterate over batches()"
            ) from error
        self._shared = array
        self._iterations = 0
        if new:
            self.set_next(first)

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:  # a copy, for elsewhere
            return type(self), (self._shared[0],)
        return type(self), (0, self._shared)

    def set_next(self, epoch: int) -> None:
        """Set the number of the next epoch, for all workers."""
        with self._shared.get_lock():
            self._shared[:] = [epoch] + [-1] * (3 * _LOADERS)

    def begin(self, resumed: int | None) -> int:
        """Return the epoch of the iteration that begins; `resumed` if that is given."""
        info = get_worker_info()
        with self._shared.get_lock():
            following, *flat = self._shared[:]
            loaders = [flat[n : n + 3] for n in range(0, len(flat), 3)]
            epoch = following if resumed is None else resumed
            if info is not None:
                number, times = info.seed - info.id, self._iterations
                self._iterations += 1
                for known, since, first in loaders:
                    if known == number and resumed is None:
                        epoch = first + times - since
                others = [loader for loader in loaders if loader[0] != number]
                loaders = [[number, times, epoch], *others][:_LOADERS]
            following = max(following, epoch + 1) if resumed is None else epoch + 1
            self._shared[:] = [following, *(value for loader in loaders for value in loader)]
        return epoch


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (info.id, info.num_workers) if info is not None else (0, 1)


def _tensors(batch: Any) -> Any:
    return tuple(map(_tensor, batch)) if isinstance(batch, tuple) else _tensor(batch)


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype == np.uint32:  # code points need 21 bits of it
        array = array.view(np.int32)
    elif array.dtype == np.uint16:
        array = array.astype(np.int32)
    tensor = torch.from_numpy(array)
    return tensor if get_worker_info() is None else tensor.as_subclass(WorkerTensor)


class WorkerTensor(torch.Tensor):
    """A tensor of a loader's worker, which the loader's process receives as a `torch.Tensor`.

    It goes through shared memory, or where that is full through the worker's pipe: a failure there
    would be in a thread which drops the batch, for which the loader waits for ever. Containers have
    64 MB, and ten batches of 256 images as code points need 65.
    """


def _send(tensor: WorkerTensor) -> tuple[Any, ...]:
    plain: Any = tensor.as_subclass(torch.Tensor)
    try:
        reduced: tuple[Any, ...] = reduce_tensor(plain.share_memory_())  # type: ignore[no-untyped-call]
    except RuntimeError:
        return torch.from_numpy, (plain.numpy(),)
    return reduced


ForkingPickler.register(WorkerTensor, _send)


def distributed_rank(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Complete rank and number of processes by those of ``torch.distributed`` or ``torchrun``."""
    distributed = torch.distributed
    own, processes = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        own, processes = distributed.get_rank(), distributed.get_world_size()
    elif "TORCHELASTIC_RUN_ID" in os.environ:  # of torchrun and accelerate, not yet initialised
        own, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    size = processes if world_size is None else world_size
    if rank is None and size not in (1, processes):
        raise UsageError(
            f"world_size is {size}: give the rank of this process too, or all read the same"
        )
    return (own if size > 1 else 0) if rank is None else rank, size
