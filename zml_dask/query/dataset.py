"""The dataset as its users see it: lazy images, tables beside them, and selections of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.batches import Batches, BatchOptions
from zml_dask.query.counting import count_by, find_duplicates
from zml_dask.query.describe import describe, describe_html
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.frames import to_pandas
from zml_dask.query.pixels import VOCABULARY, Encoding
from zml_dask.query.record_view import RecordView
from zml_dask.query.selection import image_lines
from zml_dask.query.split import LEFT_OUT, Split, assign_parts
from zml_dask.query.tree import Tree
from zml_dask.query.view import View
from zml_dask.raster.images import to_text
from zml_dask.store.snapshot import NoSuchRecordError as NoSuchRecordError
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

    from zml_dask.query.torch_loader import TorchImages


class NoSuchFileError(UsageError):
    """There is no file of that number, or it has no image of that number."""


def open_dataset(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Dataset:
    """Open a dataset, lazily: one small object is read, whatever the dataset's size.

    So are the lists of what failed and of what was withdrawn, where there are any:
    later commits replace them.

    Parameters
    ----------
    path : str or path
        A folder, or any fsspec URL (``s3://bucket/zenodo-ml``, ``https://...``).
    storage_options : mapping, optional
        Given to fsspec, say ``{"anon": True}``.

    Returns
    -------
    Dataset
        As of the last commit; a commit that comes later is not seen.

    Raises
    ------
    NoDatasetError
        If nothing is committed there.
    UsageError
        If the URL's protocol is not known.
    """
    return Dataset(Snapshot.open(path, storage_options))


class Dataset(View):
    """A dataset, or a view of some of its files and images.

    Get one from :func:`open_dataset`, and views from :meth:`select`,
    :meth:`sample` and :meth:`split`. A view has the same interface as the whole;
    nothing is read before it is asked for. ``len`` counts images; iterating gives
    each file with its images (``len(ds.files)`` of them).
    """

    def text(self, file_id: int) -> str:
        """Read a file back as text, from its images.

        Every line ends in a newline; what was cut from long lines, and spaces at
        the end of lines, are gone.

        Raises
        ------
        NoSuchFileError
            If there is no such file, or it has no images because it is not text.
        """
        row = self._file(file_id)
        if row["status"] not in ("ok", "empty"):
            raise NoSuchFileError(
                f"file {file_id} ({row['path']!r}) has no text: it is {row['status']}"
            )
        segment = np.arange(row["n_images"])
        images = self.snapshot.images.read(row["first_image"] + segment)
        n_lines = np.full(segment.shape, row["n_lines"], np.int64)
        return to_text(images, image_lines(n_lines, segment, self.info.shape.height))

    def image(self, file_id: int, segment: int = 0) -> NDArray[np.uint32]:
        """Read one image of a file: uint32, shape (height, width).

        Raises
        ------
        NoSuchFileError
            If there is no such file, or it has no such image.
        """
        row = self._file(file_id)
        if not 0 <= segment < row["n_images"]:
            raise NoSuchFileError(
                f"file {file_id} has no image {segment}; it has {row['n_images']}, counted from 0"
            )
        image: NDArray[np.uint32] = self.snapshot.images.read(
            np.array([row["first_image"] + segment])
        )[0]
        return image

    def record(self, record_id: int) -> RecordView:
        """Read one record: its row, its files, its metadata, its tree, its DOI's link.

        Raises
        ------
        NoSuchRecordError
        """
        row = self.snapshot.record(record_id)
        files = self.snapshot.scan("files", where=pc.field("record_id") == int(record_id))
        return RecordView(row, to_pandas(files))

    def tree(self, record_id: int) -> Tree:
        """Arrange the files of a record as nested dicts, with their sizes in bytes."""
        return self.record(record_id).tree

    def _file(self, file_id: int) -> dict[str, Any]:
        if not isinstance(file_id, (int, np.integer)):
            raise NoSuchFileError(f"a file goes by its number (files.file_id), not {file_id!r}")
        snapshot = self.snapshot
        names = ["path", "record_id", "status", "first_image", "n_images", "n_lines"]
        if 0 <= file_id < snapshot.rows("files"):
            table = snapshot.take("files", np.array([file_id], np.int64), names)
            row: dict[str, Any] = table.to_pylist()[0]
            if row["record_id"] not in self.snapshot.withdrawn:
                return row
        raise NoSuchFileError(f"{self.url} holds no file {file_id}")

    def counts(self, by: str | list[str]) -> pd.DataFrame:
        """Count images, files and records by the values of a column, or of several.

        Parameters
        ----------
        by : str or list of str
            Columns of files or records. Of lists (``keywords``) each item counts.

        Returns
        -------
        pandas.DataFrame
            Indexed by `by`, columns ``images``, ``files``, ``records``, most images first.
        """
        return count_by(self.snapshot, self.selection, [by] if isinstance(by, str) else by)

    def duplicates(self) -> pd.DataFrame:
        """Find files of identical content in different records, by sha256.

        Returns
        -------
        pandas.DataFrame
            A row a content: ``sha256``, ``files``, ``records``, ``size`` in bytes,
            ``file_id`` of the first; those that take most space first.
        """
        return find_duplicates(self.snapshot, self.selection)

    def __iter__(self) -> Iterator[FileImages]:
        """Yield each file with its images, in bounded memory: ``for file, images in ds``."""
        return iterate_files(self.snapshot, self.selection)

    def split(
        self, fractions: Mapping[str, float], by: str = "concept", *, seed: int = 0
    ) -> Split[Dataset]:
        """Divide into parts for training and testing, without leakage.

        All versions of a concept are in one part. So are files of identical
        content: of copies in several parts, those in the part of the file that
        was committed first are kept, the others left out (``split.left_out``).
        Parts are drawn by hash: the same every time, and what is in a part today
        is in it when records are added, older ones too.

        Parameters
        ----------
        fractions : mapping of str to float
            ``{"train": 0.8, "test": 0.2}``; they add up to 1. Shares of what is not
            divided (concepts), on average: where records differ in size, the shares of
            images are others.
        by : str
            What must not be divided: ``"concept"``, ``"record"``, ``"file"``, or
            any column of files or records, such as ``"repository"``.
        seed : int
            Another one gives another split.

        Returns
        -------
        Split of Dataset
            A dict of views, by name.

        Raises
        ------
        SplitError
            If the fractions do not add up to 1.
        """
        selection = self.selection
        parts = assign_parts(self.snapshot, selection, fractions, by, seed)

        def view(part: int) -> Dataset:
            return Dataset(
                self.snapshot, selection.with_files(parts == part), (), self._whole or self
            )

        split = Split[Dataset]((name, view(part)) for part, name in enumerate(fractions))
        split.left_out = view(LEFT_OUT)
        return split

    def to_xarray(self) -> xr.Dataset:
        """Label the images: an xarray Dataset, still lazy.

        Its coordinates along ``image`` are ``record_id``, ``file_id``, ``path``,
        ``language``, ``extension``, ``segment`` and ``n_lines`` (of the image), read
        when they are asked for.
        """
        from zml_dask.query.labelled import to_xarray

        return to_xarray(self)

    def batches(
        self,
        batch_size: int = 256,
        *,
        seed: int | None = None,
        labels: str | None = None,
        classes: Sequence[str] | None = None,
        encoding: Encoding = "codepoint",
        vocabulary: str = VOCABULARY,
        drop_last: bool = False,
        buffer: int = 4096,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Deal out the images as NumPy arrays: for training loops of any library.

        Parameters
        ----------
        batch_size : int
        seed : int, optional
            Shuffle by it, differently every epoch. Default: the dataset's order.
        labels : str, optional
            A column of files or records whose value comes with each image.
        classes : sequence of str, optional
            Labels in the order of their codes. By default all values that the
            whole view has; a part of a split has those of what was split, so that
            codes mean the same in training and testing.
        encoding : str
            ``"codepoint"``, ``"uint8"``, ``"float32"`` (code points up to 255, divided
            by 255), ``"index"`` or ``"onehot"``.
        vocabulary : str
            For ``"index"`` and ``"onehot"``.
        drop_last : bool
            Leave out a last batch that is not full.
        buffer : int
            Images that are held and shuffled together: whole chunks in random
            order, then images among them. 4,096 of 80 by 80 take 105 MB, and as
            many again, since the next ones are read while these are given out. An
            epoch begins with smaller ones, so that its first batch comes soon.
        rank, world_size : int
            Number of this process of a distributed training, and how many there
            are. Each gets the same number of batches: where images cannot be
            divided evenly, some come twice, or are left out with `drop_last`.

        Returns
        -------
        Batches
            An iterable; each iteration is an epoch.

        Raises
        ------
        UsageError
            If an option cannot be.

        Examples
        --------
        >>> batches = ds.batches(64, seed=0, labels="language", encoding="uint8")  # doctest: +SKIP
        >>> for images, codes in batches: ...                                      # doctest: +SKIP
        """
        options = BatchOptions(
            batch_size=batch_size,
            seed=seed,
            labels=labels,
            classes=None if classes is None else tuple(classes),
            encoding=encoding,
            vocabulary=vocabulary,
            drop_last=drop_last,
            buffer=buffer,
            rank=rank,
            world_size=world_size,
        )
        return Batches(self, options)

    def to_torch(
        self,
        batch_size: int = 256,
        *,
        seed: int | None = None,
        labels: str | None = None,
        classes: Sequence[str] | None = None,
        encoding: Encoding = "codepoint",
        vocabulary: str = VOCABULARY,
        drop_last: bool = False,
        buffer: int = 4096,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> TorchImages:
        """Deal out the images to PyTorch: for a ``DataLoader`` with ``batch_size=None``.

        Parameters
        ----------
        batch_size, seed, labels, classes, encoding, vocabulary, drop_last, buffer
            As in :meth:`batches`.
        rank, world_size : int, optional
            Number of this process of a distributed training, and how many there
            are. Default: what ``torch.distributed`` says, where it is initialised.

        Returns
        -------
        TorchImages
            An ``IterableDataset``; workers divide the batches among themselves.
        """
        from zml_dask.query.torch_loader import TorchImages, distributed_rank

        own_rank, own_size = distributed_rank() if world_size is None else (0, world_size)
        batches = self.batches(
            batch_size,
            seed=seed,
            labels=labels,
            classes=classes,
            encoding=encoding,
            vocabulary=vocabulary,
            drop_last=drop_last,
            buffer=buffer,
            rank=own_rank if rank is None else rank,
            world_size=own_size,
        )
        return TorchImages(batches)

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return describe_html(self)
