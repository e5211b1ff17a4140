"""Batches of images for training: shuffled by seed, every chunk read once an epoch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.gather import as_codes, gather
from zml_dask.query.pixels import VOCABULARY, Encoding, encode
from zml_dask.query.rows import Int64

if TYPE_CHECKING:
    from zml_dask.query.view import View


_Made = TypeVar("_Made")

_Buffer: TypeAlias = tuple[NDArray[np.uint32], Int64, Int64]
"""Images, their rows in the dataset, and the order to deal them out in."""


class LabelError(UsageError):
    """A column cannot be what is learnt."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How images are dealt out.

    Attributes
    ----------
    batch_size : int
    seed : int or None
        Shuffle by it, differently every epoch; None keeps the dataset's order.
    labels : str or None
        A column of files or records whose value comes with each image.
    classes : tuple of str or None
        Labels in the order of their codes. By default all values that the whole
        view has; a part of a split has those of what was split, so that codes
        mean the same in training and testing.
    encoding : Encoding
        ``codepoint``, ``uint8``, ``index`` or ``onehot``.
    vocabulary : str
        For ``index`` and ``onehot``.
    drop_last : bool
        Leave out a last batch that is not full.
    buffer : int
        Images that are held and shuffled together: whole chunks in random
        order, then images among them. 4,096 of 80 by 80 take 105 MB, and as
        many again, since the next ones are read while these are dealt out.
    """

    batch_size: int = 256
    seed: int | None = None
    labels: str | None = None
    classes: tuple[str, ...] | None = None
    encoding: Encoding = "codepoint"
    vocabulary: str = VOCABULARY
    drop_last: bool = False
    buffer: int = 4096


class Batches:
    """Batches of a view, as NumPy arrays; each iteration is an epoch.

    Yields images, or pairs of images and labels. Can be pickled, and iterated
    by several workers that divide the chunks among themselves (`share`).

    Parameters
    ----------
    view : View
    options : BatchOptions

    Attributes
    ----------
    classes : tuple of str or None
        Label of each code; None where labels are numbers, or there are none.
    """

    def __init__(self, view: View, options: BatchOptions) -> None:
        for name in ("batch_size", "buffer"):
            size = getattr(options, name)
            if not isinstance(size, (int, np.integer)) or size < 1:
                raise UsageError(f"{name} has to be a number of images, 1 or more, not {size!r}")
        encode(np.empty((0, 1, 1), np.uint32), options.encoding, options.vocabulary)
        self._view = view
        self.options = options
        self.epoch = 0
        self.classes: tuple[str, ...] | None = None
        self._labels: NDArray[Any] | None = None
        if options.labels is not None:
            self._labels, self.classes = _labels_of(view, options.labels, options.classes)

    def __repr__(self) -> str:
        return f"<Batches: {len(self):,} of {self.options.batch_size:,} images an epoch>"

    def __len__(self) -> int:
        """Batches an epoch, for one worker that takes all."""
        whole, rest = divmod(len(self._view), self.options.batch_size)
        return whole + bool(rest and not self.options.drop_last)

    def __iter__(self) -> Iterator[Any]:
        yield from self.share(0, 1)
        self.epoch += 1

    def share(self, worker: int, workers: int) -> Iterator[Any]:
        """Yield one worker's batches of an epoch: every image belongs to one worker.

        Parameters
        ----------
        worker, workers : int
            Number of this one, from 0, and how many there are.
        """
        size = self.options.batch_size
        left: tuple[NDArray[np.uint32], Int64] | None = None
        for images, rows, order in self._buffers(worker, workers):
            begin = 0
            if left is not None:
                begin = size - left[1].size
                left = _join(left, (images[order[:begin]], rows[order[:begin]]))
                if left[1].size < size:
                    continue
                yield self._batch(*left)
                left = None
            for start in range(begin, order.size, size):
                picked = order[start : start + size]
                # Copies, since the buffer is filled anew.
                left = images[picked], rows[picked]
                if picked.size == size:
                    yield self._batch(*left)
                    left = None
        if left is not None and not self.options.drop_last:
            yield self._batch(*left)

    def _batch(self, images: NDArray[np.uint32], rows: Int64) -> Any:
        encoded = encode(images, self.options.encoding, self.options.vocabulary)
        if self._labels is None:
            return encoded
        return encoded, self._labels[self._view.selection.file_of(rows)]

    def _buffers(self, worker: int, workers: int) -> Iterator[_Buffer]:
        """Read a buffer's worth of whole chunks at a time; the next while one is dealt out."""
        rows = self._view.rows
        starts = rows.chunk_starts()
        chunks = np.flatnonzero(np.diff(starts))
        random = None
        if self.options.seed is not None:
            # The order of chunks must be the same for all workers; within a
            # buffer each has its own.
            chunks = np.random.default_rng([self.options.seed, self.epoch]).permutation(chunks)
            random = np.random.default_rng([self.options.seed, self.epoch, worker])
        mine = chunks[worker::workers]
        sizes = np.diff(starts)[mine]
        full = np.cumsum(sizes) // self.options.buffer
        groups = [g for g in np.split(mine, np.flatnonzero(np.diff(full)) + 1) if g.size]
        reader = self._view.snapshot.images
        decoders = max(1, CPU_COUNT // workers)
        most = max((int(np.diff(starts)[group].sum()) for group in groups), default=0)
        # Two, used in turn: memory mapped anew for every buffer costs as much as reading.
        memory = np.empty((2, most, reader.shape.height, reader.shape.width), np.uint32)

        def read(number: int) -> _Buffer:
            positions = np.concatenate(
                [
                    rows.positions(int(starts[c]), int(starts[c + 1]))
                    for c in np.sort(groups[number])
                ]
            )
            target = memory[number % 2, : positions.size]
            images = reader.read(positions, target=target, decoders=decoders)
            n = positions.size
            return images, positions, np.arange(n) if random is None else random.permutation(n)

        yield from _one_ahead(read, len(groups))


def _one_ahead(make: Callable[[int], _Made], n: int) -> Iterator[_Made]:
    """Yield what is made of 0 to `n`, each made by a thread while the one before is in use."""
    if not n:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="zml-batches") as pool:
        waiting = pool.submit(make, 0)
        for number in range(1, n):
            made = waiting.result()
            waiting = pool.submit(make, number)
            yield made
        yield waiting.result()


def _join(
    first: tuple[NDArray[Any], Int64], second: tuple[NDArray[Any], Int64]
) -> tuple[NDArray[Any], Int64]:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def _labels_of(
    view: View, name: str, classes: tuple[str, ...] | None
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Find the label of each file of a view: a code where it is text, -1 where it is missing."""
    if not isinstance(name, str):
        raise LabelError(f"labels are the name of one column, not {name!r}")
    values = gather(view.snapshot, view.selection, [name])[name]
    if pa.types.is_list(values.type):
        raise LabelError(f"{name!r} holds lists; a label is one value an image")
    if not pa.types.is_large_string(values.type):
        if values.null_count:
            raise LabelError(f"{name!r} is missing for some files; select those that have it")
        return values.to_numpy(), None
    if classes is None:
        whole = view.whole
        known = gather(whole.snapshot, whole.selection, [name])[name] if whole else values
        classes = tuple(sorted(value for value in known.unique().to_pylist() if value is not None))
    places = {value: code for code, value in enumerate(classes)}
    codes, different = as_codes(values)
    of_class = np.array([*(places.get(value, -1) for value in different), -1], np.int64)
    return of_class[codes], classes  # what is missing is the last


def batches_of(
    view: View, batch_size: int | None, options: BatchOptions | None, changes: dict[str, Any]
) -> Batches:
    """Make batches with options, some of them changed by name.

    Raises
    ------
    UsageError
        For an option that there is not, with the nearest name; or a size that cannot be.
    """
    known = [field.name for field in fields(BatchOptions)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"no option {name!r} of batches; {advice}")
    if batch_size is not None:
        changes = {"batch_size": batch_size, **changes}
    return Batches(view, replace(options or BatchOptions(), **changes))
