"""Batches of images for training: shuffled by seed, every chunk read once per epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from zml_dask.arguments import checked, nearest
from zml_dask.errors import UsageError
from zml_dask.query.counting import cluster_column
from zml_dask.query.file_images import one_ahead
from zml_dask.query.rows import AT_ONCE, Int64, Rows
from zml_dask.query.selection import as_codes, gather

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset


_Window: TypeAlias = tuple[NDArray[np.uint32], Int64, Int64]
"""Images, their rows in the dataset, and the order in which they are given out."""

Encoding = Literal["codepoint", "uint8", "float32", "index", "onehot"]
"""``codepoint``: uint32 as stored; ``uint8``: the code point where it is under 256, else 255;
``float32``: that divided by 255, from 0 to 1;
``index``: position in a vocabulary, for an embedding; ``onehot``: a plane per
character of it."""

VOCABULARY = "".join(map(chr, range(32, 127)))
"""Printable ASCII, 95 characters."""

UNKNOWN = 0
"""Index of every character that the vocabulary does not hold."""

_HIGHEST_BYTE = 255

_FIRST_PART = 8
"""The first window of an epoch is this part of the buffer, so that its first batch comes soon."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Options of batches.

    Attributes
    ----------
    batch_size : int
    seed : int, optional
        Seed of the shuffling, which differs in every epoch. Default: the dataset's order.
    labels : str, optional
        A column of files, records or a derived table, whose value is returned with each image.
    classes : sequence of str, optional
        Labels in the order of their codes. Default: all values of the
        whole view; for a part of a split, all values of the view that was split,
        so that codes mean the same in training and testing.
    weights : str, optional
        Weight of each image, float32, returned after the label:
        ``"cluster"`` for 1 divided by the number of the view's files in the file's cluster of
        near-duplicates (which must be derived), so that all copies together count as
        one file; or a column of numbers.
    encoding : str
        ``"codepoint"``, ``"uint8"``, ``"float32"`` (code points up to 255, divided
        by 255), ``"index"`` or ``"onehot"``.
    vocabulary : str
        For ``"index"`` and ``"onehot"``.
    drop_last : bool
        Leave out the last batch if it is not full.
    buffer : int
        Number of images that are held and shuffled together: whole chunks in random
        order, then the images among them. 4,096 images of 80 by 80 take 105 MB, and as
        much again, because the next ones are read while these are used. An
        epoch begins with smaller buffers, so that its first batch comes soon.
    rank, world_size : int
        Rank of this process in a distributed training, and the number of
        processes. Each gets the same number of batches: if images cannot be
        divided evenly, some come twice, or are left out with `drop_last`.
    """

    batch_size: int = 256
    seed: int | None = None
    labels: str | None = None
    classes: tuple[str, ...] | None = None
    weights: str | None = None
    encoding: Encoding = "codepoint"
    vocabulary: str = VOCABULARY
    drop_last: bool = False
    buffer: int = 4096
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "buffer", "world_size"):
            size = getattr(self, name)
            if size < 1:
                unit = "processes" if name == "world_size" else "images"
                raise UsageError(f"{name} has to be a number of {unit}, 1 or more, not {size!r}")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank has to be the number of this process, from 0 to {self.world_size - 1} "
                f"(world_size is {self.world_size}), not {self.rank!r}"
            )
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed has to be a whole number from 0 on, or None, not {self.seed!r}")


@checked
class Batches:
    """Batches of a view, as NumPy arrays; each iteration is an epoch.

    Yields images, or tuples of images, labels and weights. Can be pickled, and iterated
    by several workers that divide the batches among themselves (`share`).

    Attributes
    ----------
    epoch : int
        Number of the next epoch; each one is shuffled differently. It increases
        whenever an iteration begins, even if the previous one was left early.
    classes : tuple of str or None
        Label of each code; None if labels are numbers, or there are none.
    """

    def __init__(self, view: Dataset, options: BatchOptions) -> None:
        encode(np.empty((0, 1, 1), np.uint32), options.encoding, options.vocabulary)
        self._view = view
        self.options = options
        self.epoch = 0
        self.classes: tuple[str, ...] | None = None
        self._labels: NDArray[Any] | None = None
        # The current iteration's epoch, and how many batches it has yielded.
        self._at: tuple[int, int] | None = None
        self._resume = 0
        if options.labels is not None:
            self._labels, self.classes = _labels_of(view, options.labels, options.classes)
        self._weights = None if options.weights is None else _weights_of(view, options.weights)

    def __repr__(self) -> str:
        of_rank = f" on each of {n:,} processes" if (n := self.options.world_size) > 1 else ""
        return f"<Batches: {len(self):,} of {self.options.batch_size:,} images per epoch{of_rank}>"

    def __len__(self) -> int:
        """Batches per epoch, the same for every rank."""
        whole, rest = divmod(self._quota, self.options.batch_size)
        return whole + bool(rest and not self.options.drop_last)

    @property
    def vocabulary_size(self) -> int | None:
        """Number of values of ``index``, and of planes of ``onehot``; None for other encodings."""
        indexed = self.options.encoding in ("index", "onehot")
        return 1 + len(self.options.vocabulary) if indexed else None

    @property
    def _quota(self) -> int:
        """Images per epoch of each rank."""
        images, ranks = len(self._view), self.options.world_size
        return images // ranks if self.options.drop_last else -(-images // ranks)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch."""
        if epoch < 0:
            raise UsageError(f"an epoch is a whole number from 0 on, not {epoch}")
        self.epoch, self._resume, self._at = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the iteration, from which `load_state_dict` resumes another one."""
        epoch, batch = self._at or (self.epoch, self._resume)
        return {"epoch": epoch, "batch": batch, "of": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next iteration from a state of `state_dict`.

        Raises
        ------
        UsageError
            If the state is of other images, or of batches with other options.
        """
        if not state.keys() >= self.state_dict().keys() or not isinstance(state["of"], Mapping):
            raise UsageError("this is no state of batches; give what state_dict() returned")
        of, mine = dict(state["of"]), self._identity()
        if different := [name for name in mine if of.get(name) != mine[name]]:
            name = different[0]
            raise UsageError(
                f"the state cannot be resumed: its {name} was {of.get(name)!r} and is now "
                f"{mine[name]!r}; resume with the same images and options, or begin a new epoch"
            )
        self.set_epoch(state["epoch"])
        self._resume = int(state["batch"])

    def _identity(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "drop_last", "buffer", "rank", "world_size")
        options = asdict(self.options)
        return {"images": len(self._view), **{name: options[name] for name in names}}

    def __iter__(self) -> Iterator[Any]:
        return self.share(0, 1)

    def share(self, worker: int, workers: int, *, is_part: bool = False) -> Iterator[Any]:
        """Yield one worker's share of the batches of this rank's next epoch.

        Parameters
        ----------
        worker, workers : int
            Number of this worker, from 0, and the number of workers.
        is_part : bool
            Whether the epoch may go on elsewhere after this share. If not, the state
            is then that of the next epoch.
        """
        epoch, skip = self.epoch, self._resume
        self.epoch, self._resume = epoch + 1, 0
        self._at = epoch, skip
        return self._share(worker, workers, epoch, skip, is_part)

    def _share(
        self, worker: int, workers: int, epoch: int, skip: int, is_part: bool
    ) -> Iterator[Any]:
        size, n = self.options.batch_size, len(self)
        low, high = worker * n // workers + skip, (worker + 1) * n // workers
        begin = self.options.rank * self._quota
        start = begin + (worker * n // workers) * size
        stop = begin + min(high * size, self._quota)
        left: tuple[NDArray[np.uint32], Int64] | None = None
        given = skip
        for images, rows, order in self._windows(start, stop, begin + low * size, epoch, workers):
            at = 0
            while at < order.size:
                picked = order[at : at + size - (0 if left is None else left[1].size)]
                at += picked.size
                # Copies, since the window's memory is reused.
                part = images[picked], rows[picked]
                left = part if left is None else _join(left, part)
                if left[1].size == size:
                    given += 1
                    self._at = epoch, given
                    yield self._batch(*left)
                    left = None
        if left is not None:
            self._at = epoch, given + 1
            yield self._batch(*left)
        if not is_part:
            self._at = None

    def _batch(self, images: NDArray[np.uint32], rows: Int64) -> Any:
        encoded = encode(images, self.options.encoding, self.options.vocabulary)
        columns = [column for column in (self._labels, self._weights) if column is not None]
        if not columns:
            return encoded
        files, _ = self._view.selection.file_of(rows)
        return encoded, *(column[files] for column in columns)

    def _windows(
        self, start: int, stop: int, first: int, epoch: int, workers: int
    ) -> Iterator[_Window]:
        """Read images `start` to `stop` of an epoch, a window at a time; the next one ahead.

        A window is whole chunks in the epoch's order, and images are shuffled
        within it. Windows before image `first` are not read.
        """
        if first >= stop:
            return
        seed, size = self.options.seed, self.options.batch_size
        reader = self._view.snapshot.images
        shuffle = None if seed is None else [int(seed), epoch]
        order = _Order(self._view.rows, reader.spec.chunk, shuffle)
        decoders = max(1, CPU_COUNT // workers)
        largest = max(size, self.options.buffer)
        # Two, used in turn, since mapping new memory for every window costs as much as reading.
        shape = (min(largest + order.largest_chunk, stop - start), *reader.row)
        memory = np.empty((2, *shape), np.uint32)

        def spans() -> Iterator[tuple[int, int, int]]:
            begin, wanted, number = start, max(size, largest // _FIRST_PART), 0
            while begin < stop:
                end = min(order.chunk_end(begin, wanted), stop)
                if end > first:
                    yield number, begin, end
                begin, wanted, number = end, min(2 * wanted, largest), number + 1

        def read(span: tuple[int, int, int]) -> _Window:
            number, begin, end = span
            positions = order.positions(begin, end)
            target = memory[number % 2, : positions.size]
            images = reader.read(positions, target=target, decoders=decoders)
            places = np.arange(positions.size)
            if seed is not None:
                places = np.random.default_rng([int(seed), epoch, begin]).permutation(places)
            return images, positions, places[max(0, first - begin) :]

        yield from one_ahead(read, spans())


class _Order:
    """The order of images in an epoch: chunk after chunk, shuffled by `seed`, then again the first.

    Numbers continue past the end, since the first images again fill up the last rank.
    """

    def __init__(self, rows: Rows, chunk: int, seed: list[int] | None) -> None:
        self._rows = rows
        self._starts = rows.chunk_starts(chunk)
        sizes = np.diff(self._starts)
        self._chunks = np.flatnonzero(sizes)
        if seed is not None:
            self._chunks = np.random.default_rng(seed).permutation(self._chunks)
        self._ends = np.cumsum(sizes[self._chunks])
        self.largest_chunk = int(sizes.max(initial=0))

    def chunk_end(self, begin: int, size: int) -> int:
        """Return the end of the chunk with the last of `size` images from `begin` on."""
        total = int(self._ends[-1])
        lap = begin // total * total
        return lap + int(self._ends[np.searchsorted(self._ends, min(begin - lap + size, total))])

    def positions(self, begin: int, end: int) -> Int64:
        """Rows in the dataset of some images, ascending; they do not go past the epoch's end."""
        low = begin % int(self._ends[-1])
        high = low + end - begin
        first = int(np.searchsorted(self._ends, low, "right"))
        parts = []
        for place in range(first, int(np.searchsorted(self._ends, high)) + 1):
            chunk = self._chunks[place]
            start, stop = int(self._starts[chunk]), int(self._starts[chunk + 1])
            shift = start - (int(self._ends[place]) - (stop - start))
            parts.append((max(start, low + shift), min(stop, high + shift)))
        return np.concatenate([self._rows.positions(*part) for part in sorted(parts)])


def _join(
    first: tuple[NDArray[Any], Int64], second: tuple[NDArray[Any], Int64]
) -> tuple[NDArray[Any], Int64]:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def _weights_of(view: Dataset, name: str) -> NDArray[np.float32]:
    """Return the weight of each file of a view; those of a cluster's files add up to 1."""
    if name != "cluster":
        weights, classes = _labels_of(view, name, ())
        if classes is not None or weights.dtype.kind not in "iufb":
            raise UsageError(f"{name!r} holds no numbers; weights are 'cluster' or such a column")
        return weights.astype(np.float32)
    column = cluster_column(view.snapshot)
    clusters = gather(view.snapshot, view.selection, [column])[column]
    codes, different = as_codes(clusters)
    # Of the view only: of a cluster of five, two in a selection have a weight of a half each.
    sizes = np.bincount(codes[codes >= 0], minlength=len(different))
    return np.where(codes < 0, 1, 1 / np.append(sizes, 1)[codes]).astype(np.float32)


def _pieces(view: Dataset, name: str) -> Iterator[pa.ChunkedArray]:
    """Yield a column of a view's files in pieces, since all of its text is large; dates as text."""
    # At least one piece, so that a column without rows has a type.
    for start in range(0, max(1, len(view.selection.files)), AT_ONCE):
        files = slice(start, start + AT_ONCE)
        values = gather(view.snapshot, view.selection, [name], files)[name]
        yield values.cast(pa.large_string()) if pa.types.is_date(values.type) else values


def _labels_of(
    view: Dataset, name: str, classes: tuple[str, ...] | None
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Return the label of each file of a view: a code if it is text, -1 where it is null."""
    different: dict[Any, int] = {}
    parts: list[NDArray[Any]] = []
    is_text = False
    for values in _pieces(view, name):
        if pa.types.is_list(values.type):
            raise UsageError(f"{name!r} holds lists; a label is one value per image")
        is_text = pa.types.is_large_string(values.type)
        if is_text:
            codes, found = as_codes(values)
            own = [*(different.setdefault(value, len(different)) for value in found), -1]
            parts.append(np.array(own, np.int32)[codes])  # null is the last
        elif values.null_count:
            raise UsageError(f"{name!r} is missing for some files; select those that have it")
        else:
            parts.append(values.to_numpy())
    labels = np.concatenate(parts)
    if not is_text:
        return labels, None
    if classes is None:
        known = set(different)
        if view.whole is not None:
            known.update(*(values.unique().to_pylist() for values in _pieces(view.whole, name)))
        classes = tuple(sorted(known - {None}))
    places = {value: code for code, value in enumerate(classes)}
    if different and classes and not places.keys() & different.keys():
        advice = nearest(classes[0], [*different][:1000], f"counts({name!r}) lists its values")
        raise UsageError(f"no file here has one of the classes as its {name}; {advice}")
    of_class = np.array([*(places.get(value, -1) for value in different), -1], np.int64)
    return of_class[labels], classes


def encode(
    images: NDArray[np.uint32], encoding: Encoding, vocabulary: str = VOCABULARY
) -> NDArray[Any]:
    """Encode code points as input of a model.

    Parameters
    ----------
    images : numpy.ndarray of uint32, shape (n, height, width)
    vocabulary : str
        Characters in the order of their indices, of which the first is 1; for
        ``index`` and ``onehot``.

    Returns
    -------
    numpy.ndarray
        As uint32, uint8 or float32, shape (n, height, width); for ``index`` uint8 or
        uint16, 0 for characters outside the vocabulary; for ``onehot`` uint8, shape
        (n, 1 + len(vocabulary), height, width), channels first as in PyTorch.

    Raises
    ------
    UsageError
        If there is no such encoding, or the vocabulary contains a character twice.

    Examples
    --------
    >>> image = np.array([[[97, 98, 0x4E2D]]], np.uint32)
    >>> encode(image, "index", "ab").tolist(), encode(image, "uint8").tolist()
    ([[[1, 2, 0]]], [[[97, 98, 255]]])
    >>> encode(image, "onehot", "ab").shape
    (1, 3, 1, 3)
    """
    match encoding:
        case "codepoint":
            return images
        case "uint8":
            clipped = np.empty(images.shape, np.uint8)
            # Without a temporary array of four times the size.
            return np.minimum(images, np.uint32(_HIGHEST_BYTE), out=clipped, casting="unsafe")
        case "float32":
            scaled = np.minimum(images, np.uint32(_HIGHEST_BYTE)).astype(np.float32)
            return np.divide(scaled, np.float32(_HIGHEST_BYTE), out=scaled)
        case "index":
            return _indices(images, vocabulary)
        case "onehot":
            indices = _indices(images, vocabulary)
            planes = np.arange(1 + len(vocabulary), dtype=indices.dtype).reshape(1, -1, 1, 1)
            hot: NDArray[np.bool_] = indices[:, np.newaxis] == planes
            return hot.view(np.uint8)
    raise UsageError(
        f"no encoding {encoding!r}; there are codepoint, uint8, float32, index and onehot"
    )


def _indices(images: NDArray[np.uint32], vocabulary: str) -> NDArray[Any]:
    points = np.array([ord(char) for char in vocabulary], np.int64)
    if np.unique(points).size != points.size:
        raise UsageError("the vocabulary holds a character twice; name each once")
    dtype = np.uint8 if points.size <= _HIGHEST_BYTE else np.uint16
    table = np.zeros(int(points.max(initial=0)) + 2, dtype)  # the last for all beyond
    table[points] = np.arange(1, points.size + 1)
    indices: NDArray[Any] = table[np.minimum(images, table.size - 1)]
    return indices
