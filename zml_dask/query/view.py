"""A view of a dataset: which files and images, their tables, and the lazy array of images."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from zml_dask.errors import UsageError
from zml_dask.query.expression import Condition, equality, parse
from zml_dask.query.frames import eager_columns, lazy_frame, to_pandas
from zml_dask.query.gather import gather
from zml_dask.query.rows import Int64, Rows, SelectedImages
from zml_dask.query.selection import Selection, resolve
from zml_dask.store.info import DatasetInfo
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    import dask.array as da


class MaskError(UsageError):
    """A mask does not fit the files or images it should choose from."""


class View:
    """Some files of a dataset and their images; `Dataset` adds reading and loading.

    Parameters
    ----------
    snapshot : Snapshot
    base : Selection, optional
        What was chosen already; everything where it is None.
    conditions : tuple of Condition
        To be asked of it, on first use.
    whole : View, optional
        The view that this one is a part of by `split`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        base: Selection | None = None,
        conditions: tuple[Condition, ...] = (),
        whole: View | None = None,
    ) -> None:
        self.snapshot = snapshot
        self._base = base
        self._conditions = conditions
        self._whole = whole

    def __reduce__(self) -> tuple[Any, ...]:
        # What was read is read again where it is needed.
        return type(self), (self.snapshot, self._base, self._conditions, self._whole)

    @property
    def url(self) -> str:
        """Where the dataset is."""
        return self.snapshot.storage.url

    @property
    def info(self) -> DatasetInfo:
        """What ``dataset.json`` says: counts, options, versions; of the whole dataset."""
        return self.snapshot.info

    @property
    def is_all(self) -> bool:
        """Whether this is every file and image there is."""
        return self._is_unselected and not self.snapshot.withdrawn

    @property
    def _is_unselected(self) -> bool:
        return self._base is None and not self._conditions

    @cached_property
    def selection(self) -> Selection:
        """Numbers of the files and images of this view; found on first use."""
        if self._base is not None and not self._conditions:
            return self._base
        found = resolve(self.snapshot, self._conditions)
        if self._base is None:
            return found
        kept = self._base.with_files(np.isin(self._base.file_id, found.file_id))
        return kept.with_images(found.rows) if found.by_image else kept

    @property
    def whole(self) -> View | None:
        """The view that this one is a part of by `split`."""
        return self._whole

    @cached_property
    def rows(self) -> Rows:
        """Which rows of ``images.zarr`` belong to it."""
        return Rows.all(self.info.counts.images) if self.is_all else self.selection.rows

    def __len__(self) -> int:
        return self.info.counts.images if self.is_all else len(self.rows)

    @cached_property
    def images(self) -> da.Array:
        """The images, uint32 code points, shape (n, height, width), in the dataset's order.

        A block holds whole chunks of the store, so that none is read twice; a
        slice (``images[:100]``) reads only the chunks it touches.
        """
        import dask.array as da  # here, since it takes as long to import as all else together

        shape = self.info.shape
        source = SelectedImages(self.snapshot.images, self.rows, self.snapshot.token)
        array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
            source,
            chunks=(self.rows.block_sizes(), (shape.height,), (shape.width,)),
            asarray=False,
            meta=np.empty((0, 0, 0), np.uint32),
        )
        return array

    @cached_property
    def files(self) -> pd.DataFrame:
        """The files table: a row a file, in the dataset's order (record, then path).

        Columns of text are read when they are first looked at.
        """
        snapshot, names = self.snapshot, eager_columns("files")
        if self.is_all:
            rows = np.arange(self.info.counts.files, dtype=np.int64)
            return lazy_frame(snapshot, "files", snapshot.scan("files", names), rows)
        rows = self.selection.file_id
        return lazy_frame(snapshot, "files", snapshot.take("files", rows, names), rows)

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records table: a row a record that has files here (or, unselected, any record).

        Columns of text, of which ``metadata`` is most, are read when they are first looked at.
        """
        snapshot, names, rows = self.snapshot, eager_columns("records"), self.record_rows
        return lazy_frame(snapshot, "records", snapshot.take("records", rows, names), rows)

    @cached_property
    def record_rows(self) -> Int64:
        """Which rows of the records table belong to it."""
        if self.is_all:
            return np.arange(self.info.counts.records, dtype=np.int64)
        known = self.snapshot.scan("records", ["record_id"], with_withdrawn=True)
        known = known["record_id"].to_numpy()
        if self._is_unselected:  # also those without files, which no file leads to
            shown = ~np.isin(known, np.array([*self.snapshot.withdrawn], np.int64))
        else:
            shown = np.isin(known, np.unique(self.selection.record_id))
        return np.flatnonzero(shown)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """The records that could not be had, of the whole dataset, and why; a row a record."""
        return to_pandas(self.snapshot.scan("failures"))

    def columns(self, *names: str, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Read some columns only, of files and records alike; a row a file.

        Parameters
        ----------
        *names : str
            ``"path"``, ``"license"``; ``"records.n_images"`` where both tables
            have a column of that name.
        start, stop : int
            Only the files from one position to another.

        Raises
        ------
        UnknownColumnError
        """
        files = slice(start, stop)
        return to_pandas(gather(self.snapshot, self.selection, names, files))

    def select(
        self, where: str | ArrayLike | pd.Series[bool] | None = None, /, **equals: Any
    ) -> Self:
        """Choose files, and with them their images; or single images.

        Parameters
        ----------
        where : str or array_like of bool, optional
            An expression over columns of files and records, such as
            ``"license == 'mit' and n_lines >= 30 and path =~ '(^|/)src/'"``
            (see :func:`zml_dask.query.expression.parse`), or a mask with a value for
            each of the view's files or images. ``n_lines`` is the file's;
            ``image_lines`` and ``segment`` are the image's own: with those,
            single images are chosen.
        **equals
            Column and the value it must have, or a list of them.

        Returns
        -------
        Dataset
            A view with the same interface.

        Raises
        ------
        ExpressionError, UnknownColumnError
            At once, before anything is read.

        Examples
        --------
        >>> ds = zml.open_dataset("zenodo-ml")                             # doctest: +SKIP
        >>> ds.select("n_lines >= 30", language=["C", "C++"]).images   # doctest: +SKIP
        """
        conditions = self._conditions
        for name, value in equals.items():
            conditions = (*conditions, equality(name, value))
        if where is None or isinstance(where, str):
            if isinstance(where, str):
                conditions = (*conditions, *parse(where))
            return type(self)(self.snapshot, self._base, conditions, self._whole)
        chosen = _masked(self.selection, where)
        return type(self)(self.snapshot, chosen, (), self._whole).select(**equals)

    def sample(self, n: int, seed: int = 0) -> Self:
        """Choose `n` images at random, none twice; the same seed gives the same ones.

        Parameters
        ----------
        n : int
            All images where there are fewer.
        seed : int

        Raises
        ------
        UsageError
            If `n` is negative, or no whole number.
        """
        if not isinstance(n, (int, np.integer)) or n < 0:
            raise UsageError(f"cannot choose {n!r} images; give a whole number from 0 on")
        total = len(self)
        picked = np.random.default_rng(seed).choice(total, min(n, total), replace=False)
        rows = self.rows.positions()[np.sort(picked)]
        chosen = self.selection.with_images(Rows.of_positions(rows, self.rows.total))
        return type(self)(self.snapshot, chosen, (), self._whole)


def _masked(selection: Selection, where: ArrayLike | pd.Series[bool]) -> Selection:
    """Apply a mask with a value for each file or each image."""
    mask = np.asarray(where)
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise MaskError(
            f"a mask has to be one-dimensional and of bool, not {mask.ndim}-dimensional and of "
            f"{mask.dtype}; choose by number with select(file_id=[...])"
        )
    n_files, n_images = selection.file_id.size, len(selection.rows)
    if mask.size == n_files:
        # Where there are as many files as images, a mask is one of files.
        return selection.with_files(mask)
    if mask.size == n_images:
        chosen = selection.rows.positions()[mask]
        return selection.with_images(Rows.of_positions(chosen, selection.rows.total))
    raise MaskError(
        f"a mask of {mask.size:,} values fits neither the {n_files:,} files nor the "
        f"{n_images:,} images"
    )
