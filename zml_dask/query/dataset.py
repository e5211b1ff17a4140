"""The dataset as its users see it: lazy images, tables beside them, and selections of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from zml_dask.arguments import checked
from zml_dask.errors import require
from zml_dask.query import counting
from zml_dask.query.batches import VOCABULARY, Batches, BatchOptions, Encoding
from zml_dask.query.dataframes import files_frame, records_frame, to_pandas
from zml_dask.query.describe import RecordView, Tree, describe, describe_html
from zml_dask.query.engine import relation_of
from zml_dask.query.file_images import RAISE, FileImages, image_of, iterate_files, text_of
from zml_dask.query.rows import Int64, Rows, lazy_images
from zml_dask.query.selection import (
    Selection,
    gather,
    mask_selection,
    open_question,
    record_rows,
    resolve,
    sample_images,
)
from zml_dask.query.split import Split, split_view
from zml_dask.query.sql import Condition, equality, parse_condition
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import FILES_SCHEMA, RECORDS_SCHEMA
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    import dask.array as da
    import datasets
    import duckdb
    import xarray as xr
    from IPython.display import IFrame

    from zml_dask.engine.job import Executor
    from zml_dask.engine.progress import BuildProgress
    from zml_dask.query.citation import CitationFormat
    from zml_dask.query.grep import Match
    from zml_dask.query.torch_loader import TorchImages

_HEAD = ("file_id", "record_id", "path", "language", "license", "n_lines", "n_images")


@checked
def open_dataset(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Dataset:
    """Open a dataset lazily: only a few small objects are read, whatever its size.

    Parameters
    ----------
    path : str or path
        A folder, or any fsspec URL (``s3://bucket/zenodo-ml``, ``https://...``).
    storage_options : mapping, optional
        Passed to fsspec, for example ``{"anon": True}``.

    Returns
    -------
    Dataset
        The state of the last commit; later commits are not seen.

    Raises
    ------
    UsageError
        If nothing is committed there, or the URL's protocol is unknown.
    """
    return Dataset(Snapshot.open(path, storage_options))


@checked
class Dataset:
    """A dataset, or a view of some of its files and images.

    Open one with :func:`open_dataset`; get views from :meth:`select`, :meth:`sample` and
    :meth:`split`. A view has the same interface as the whole dataset. All data are read
    lazily. ``len`` counts images; iterating yields ``len(ds.files)`` files with their images.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        base: Selection | None = None,
        conditions: tuple[Condition, ...] = (),
        whole: Dataset | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.base = base  # what the conditions select from; None for everything
        self.conditions = conditions  # evaluated on first use
        self.whole = whole  # what was split, if this is a part of a split

    def __reduce__(self) -> tuple[Any, ...]:
        # Cached values are read again where they are needed.
        return type(self), (self.snapshot, self.base, self.conditions, self.whole)

    def __dir__(self) -> list[str]:
        """Name what users work with; what the package's own modules use is left out."""
        return [name for name in super().__dir__() if name not in _INNER]

    @property
    def url(self) -> str:
        """The location of the dataset."""
        return self.snapshot.storage.url

    @property
    def info(self) -> DatasetInfo:
        """The content of ``dataset.json`` (counts, options, versions), of the whole dataset."""
        return self.snapshot.info

    @property
    def schema(self) -> dict[str, pa.Schema]:
        """Columns of ``files``, ``records`` and the derived tables, as pyarrow schemas."""
        return {"files": FILES_SCHEMA, "records": RECORDS_SCHEMA, **self.snapshot.derived}

    @property
    def is_unselected(self) -> bool:
        """Whether this is the whole dataset without a selection; withdrawn records are left out."""
        return self.base is None and not self.conditions

    @property
    def is_all(self) -> bool:
        """Whether this contains every file and image of the dataset."""
        return self.is_unselected and not self.snapshot.withdrawn

    @cached_property
    def selection(self) -> Selection:
        """The files and images of this view; computed on first use."""
        if self.base is not None and not self.conditions:
            return self.base
        if self.is_all:
            return Selection.of(self.snapshot, Rows.all(self.info.counts.files), self.rows)
        return resolve(self.snapshot, self.conditions, self.base)

    @cached_property
    def rows(self) -> Rows:
        """The rows of ``images.zarr`` that belong to this view."""
        return Rows.all(self.info.counts.images) if self.is_all else self.selection.rows

    def __len__(self) -> int:
        return self.counted["images"] if self.is_unselected else len(self.rows)

    @property
    def counted(self) -> dict[str, int]:
        """Numbers of images, files and records of the view."""
        return counting.count_all(self)

    @cached_property
    def images(self) -> da.Array:
        """The images, uint32 code points, shape (n, height, width), in the dataset's order.

        A slice (``images[:100]``) reads only the chunks of the store that it touches.
        """
        return lazy_images(self.snapshot, self.rows)

    @cached_property
    def files(self) -> pd.DataFrame:
        """One row per file, in the dataset's order; columns of text are read on first access."""
        return files_frame(self)

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per record with files in this view; for the whole dataset, all records."""
        return records_frame(self)

    @cached_property
    def record_rows(self) -> Int64:
        """The rows of the records table that belong to this view."""
        return record_rows(self)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """The records of the whole dataset that could not be read, and why; one row per record."""
        return to_pandas(self.snapshot.scan("failures"))

    def read(self, *names: str, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Read some columns of files and records; one row per file.

        Parameters
        ----------
        *names : str
            ``"path"``, ``"license"``; ``"records.n_images"`` if both tables have a
            column of that name; ``"lines_of_code.code"`` of a derived table.
        start, stop : int
            Range of files to read.
        """
        return to_pandas(gather(self.snapshot, self.selection, names, slice(start, stop)))

    def head(self, n: int = 5) -> pd.DataFrame:
        """Read the most informative columns of the first `n` files."""
        return self.read(*_HEAD, stop=max(0, n))

    def select(
        self, where: str | ArrayLike | pd.Series[bool] | None = None, /, **equals: Any
    ) -> Dataset:
        """Select files with their images, or single images; return a view.

        Parameters
        ----------
        where : str or array_like of bool, optional
            A SQL condition over columns of files and records, such as
            ``"license == 'mit' and n_lines >= 30 and path.contains('src/')"``
            (see :func:`zml_dask.query.sql.parse_condition`), or a mask with one value for
            each of the view's files or images; a Series of files is aligned by its index.
            ``n_lines`` belongs to the file; ``image_lines`` and ``segment`` select single
            images. Columns of derived tables are named like ``lines_of_code.code``.
        **equals
            A column and the value that it must have (a date for dates), or a list, array
            or Series of allowed values, with None (or NA) for null.

        Raises
        ------
        UsageError
            At once, before anything is read.

        Examples
        --------
        >>> ds.select("n_lines >= 30", language=["C", "Fortran"]).images.shape
        (144, 80, 80)
        """
        chosen, conditions = self.base, self.conditions
        if where is not None and not isinstance(where, str):
            chosen, conditions = mask_selection(self.selection, where), ()
        derived = self.snapshot.derived
        new = tuple(equality(name, value, derived) for name, value in equals.items())
        if isinstance(where, str):
            new = (*new, parse_condition(where, derived))
        return Dataset(self.snapshot, chosen, (*conditions, *new), self.whole)

    def sample(self, n: int, seed: int = 0) -> Dataset:
        """Choose `n` images at random without replacement; the same seed gives the same images.

        Raises
        ------
        UsageError
            If `n` is negative, or not a whole number.
        """
        return Dataset(self.snapshot, sample_images(self, n, seed), (), self.whole)

    def sql(
        self, query: str, *, memory_limit: float | None = None, timeout: float | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Run a SELECT over ``files``, ``records``, ``failures`` and the derived tables.

        On a view, ``files`` and ``records`` contain the view's files and records. The statement
        can only read these tables, so you can run statements written by strangers.

        Parameters
        ----------
        query : str
            One SELECT in `DuckDB's dialect <https://duckdb.org/docs/stable/sql/introduction>`_.
        memory_limit : int, optional
            Bytes; larger intermediate results go to temporary files. Default: 1.5 GiB, or
            half of the machine's memory if that is less.
        timeout : float, optional
            Seconds, or ``math.inf``. With a timeout the result is computed now and kept in
            memory, and Ctrl-C ends that; without one it is computed when you read it.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Read it as ``.df()`` (pandas), ``.pl()`` (polars), ``.arrow()`` or ``.fetchall()``.

        Raises
        ------
        UsageError
            If the query is not such a SELECT; with a timeout, if it cannot be computed.
        duckdb.Error
            When you read the result, if it cannot be computed: DuckDB's own message, as that a
            value cannot be converted, or that memory is used up.

        Examples
        --------
        >>> ds.sql("SELECT license, count(*) FROM records GROUP BY ALL ORDER BY ALL").fetchall()
        [('apache-2.0', 1), ('mit', 2), (None, 1)]
        """
        if timeout is None:
            return open_question(self, query, memory_limit).relation(query, shown=query)
        with open_question(self, query, memory_limit) as database:
            return relation_of(database.table(query, shown=query, timeout=timeout))

    def ask(
        self, query: str, *, memory_limit: float | None = None, timeout: float | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the answer to a SELECT as it comes, in bounded memory; see :meth:`sql`."""
        with open_question(self, query, memory_limit) as database:
            yield from database.batches(query, shown=query, timeout=timeout)

    def text(self, file: int | str, default: Any = RAISE) -> str:
        """Read a file back as text, from its images.

        Every line ends in a newline; the cut parts of long lines and trailing spaces are missing.

        Parameters
        ----------
        file : int or str
            Its ``file_id``, or its path in this view; the end of the path is enough if
            only one file matches.
        default : optional
            Value for a file that has no text, because it is binary or too
            large; without a default such a file is an error.

        Raises
        ------
        UsageError
            If there is no such file, or it has no images because it is not text.
        DatasetDamagedError
            If the images differ from the committed text (``text_sha256``).
        """
        return text_of(self, file, default)

    def image(self, file: int | str, segment: int = 0) -> NDArray[np.uint32]:
        """Read the `segment`-th image of a file (as for :meth:`text`): uint32, (height, width).

        Raises
        ------
        UsageError
            If there is no such file, or it has no such image.
        """
        return image_of(self, file, segment)

    def record(self, record_id: int | str) -> RecordView:
        """Read one record, by id or DOI: its row; on first use its files, tree and metadata."""
        return RecordView(self.snapshot, self.snapshot.record(record_id))

    def tree(self, record_id: int | str) -> Tree:
        """Return the files of a record (id or DOI) as nested dicts, with their sizes in bytes."""
        return self.record(record_id).tree

    def grep(
        self, pattern: str, *, ignore_case: bool = False, fixed: bool = False
    ) -> Iterator[Match]:
        """Search the files for a regular expression, or for plain text with `fixed`.

        Yields
        ------
        Match
            ``file_id``, ``record_id``, ``path``, ``line_number`` from 1, and ``line``, in
            the dataset's order.

        Raises
        ------
        UsageError
            If the pattern is not a regular expression.
        """
        from zml_dask.query.grep import compile_pattern, grep

        return grep(self, compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed))

    def cite(
        self,
        format: CitationFormat = "bibtex",  # noqa: A002 - as in every writer
        *,
        records: bool | None = None,
    ) -> str:
        """Return citations of the dataset and of the records in this view.

        Parameters
        ----------
        format : str
            ``"bibtex"``, or ``"csl"`` for CSL JSON, which reference managers read.
        records : bool, optional
            Whether to cite each record too. Default: for a selection, not for the whole dataset.
        """
        from zml_dask.query.citation import cite

        return cite(self, format, records=not self.is_unselected if records is None else records)

    def counts(self, by: str | list[str]) -> pd.DataFrame:
        """Count images, files and records by the values of one or several columns.

        Parameters
        ----------
        by : str or list of str
            Columns of files or records, or ``"year"`` of the publication date. In lists
            (``keywords``) each item counts.

        Returns
        -------
        pandas.DataFrame
            Indexed by `by`, columns ``images``, ``files``, ``records``, most images first.
        """
        return counting.count_by(self, [by] if isinstance(by, str) else by)

    def duplicates(self, *, near: bool = False) -> pd.DataFrame:
        """Find files of identical content in different records, by sha256.

        Parameters
        ----------
        near : bool
            Find files that are nearly the same instead, in any record: at least 70 % of
            their runs of five words in common. This needs the table ``near_duplicates``
            (``zml.derive(ds, "near_duplicates")``).

        Returns
        -------
        pandas.DataFrame
            One row per content (``sha256``), largest total size first, or per
            ``cluster``, most files first: ``files``, ``records``, ``size`` in bytes
            (of one file, or of the cluster), ``file_id`` of the first file.

        Raises
        ------
        UsageError
            If near-duplicates have not been derived, or files have been added since.
        """
        return (counting.find_near_duplicates if near else counting.find_duplicates)(self)

    def similar(
        self,
        record: int | str | None = None,
        *,
        file: int | str | None = None,
        text: str | None = None,
        k: int = 10,
        by: Literal["content", "tree"] = "content",
    ) -> pd.DataFrame:
        """Find the records or files that are most similar to a record, a file or a text.

        For records this needs the table ``record_embedding`` (``zml.derive(ds,
        "record_embedding")``), for files and texts ``embedding``.

        Parameters
        ----------
        record : int or str, optional
            Id or DOI of a record, in this view or not: finds other records.
        file, text : optional
            A ``file_id`` or a path, as for :meth:`text`, or any text: finds files.
        by : {"content", "tree"}
            Compare records by the words of their files, or by the names of files
            and folders.

        Returns
        -------
        pandas.DataFrame
            The most similar first, only from this view. For records ``record_id``,
            ``similarity`` and ``title``; for files ``file_id``, ``similarity``,
            ``record_id`` and ``path``. The similarity is the cosine of two vectors, from
            -1 to 1, or for trees approximately the share of common names, from 0 to 1.

        Raises
        ------
        UsageError
            If the table has not been derived, or the text has no words.

        Examples
        --------
        >>> ds.similar(text="def fft(signal): ...", k=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        zml_dask.errors.UsageError: ... no table 'embedding'; run zml-dask derive DATASET embedding
        """
        # By name: it is in a layer above this one.
        above = import_module("zml_dask.derived.similar")
        found: pd.DataFrame = above.similar(self, record, file=file, text=text, k=k, by=by)
        return found

    def __iter__(self) -> Iterator[FileImages]:
        """Yield each file with its images, in bounded memory: ``for file, images in ds``."""
        return iterate_files(self.snapshot, self.selection)

    def split(self, fractions: Mapping[str, float], by: str = "concept", *, seed: int = 0) -> Split:
        """Divide into parts for training and testing, without leakage: a dict of views.

        All versions of a concept are in one part. No content is in two parts: of copies in several
        parts, those in the part of the file that was committed first are kept, and the others are
        left out (``split.left_out``). Parts are determined by hashes: they are the same every time,
        and records added later change nothing in existing parts.

        Parameters
        ----------
        fractions : mapping of str to float
            ``{"train": 0.8, "test": 0.2}``; they must add up to 1. They are the average shares of
            concepts (or of what `by` names); if records differ in size, those of images differ.
        by : str
            What must not be divided: ``"concept"``, ``"record"``, ``"file"``,
            ``"cluster"`` (of near-duplicates, which must be derived), or any column of
            files, records or derived tables, such as ``"repository"``.
        seed : int
            A different seed gives a different split.

        Raises
        ------
        UsageError
            If the fractions do not add up to 1.
        """
        return split_view(self, fractions, by, seed)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        scratch: Path | None = None,
        executor: Executor | None = None,
        progress: BuildProgress | None = None,
    ) -> Dataset:
        """Save this view as a dataset of its own, with only its files and their records.

        Images are identical, and rows keep their values (hashes, encoding, licence, the
        record's JSON); files get new ids. ``info.options["saved_from"]`` describes the source.
        Withdrawn records and failures are not saved. Called again, it resumes what was cut short.

        Parameters
        ----------
        path : str or path
            A new folder, or any fsspec URL.
        scratch : pathlib.Path, optional
            A local folder for temporary files.
        executor : Executor, optional
            Runs the tasks; by default this process, one after the other.
        progress : BuildProgress, optional

        Raises
        ------
        UsageError
            If single images were selected, or another dataset is there.
        DatasetDamagedError
            If images differ from the committed text.
        """
        from zml_dask.query.saving import save_view

        save_view(self, os.fspath(path), scratch=scratch, executor=executor, progress=progress)
        return open_dataset(path)

    def export(self, path: str | os.PathLike[str], format: str, **options: Any) -> None:  # noqa: A002
        """Write this view in another tool's format; `zml-dask export` does the same on a cluster.

        Parameters
        ----------
        path : str or path
            A folder.
        format : str
            ``"dataset"``, ``"pickle"``, ``"hdf5"``, ``"tree"``, ``"parquet"``,
            ``"webdataset"``, ``"squashfs"``, ``"png"``, ``"croissant"`` or ``"atlas"``.
        **options
            Fields of `zml_dask.publish.export.ExportOptions`.

        Raises
        ------
        UsageError
            If there is no such format, it cannot represent the view, or there is nothing to write.
        """
        # By name: the formats are in layers above this one.
        above = import_module("zml_dask.publish.export")
        above.export(self, os.fspath(path), [format], above.ExportOptions(**options))

    def view(self, height: int = 720) -> IFrame:
        """Show the viewer's page in a notebook, `height` pixels high; see `zml-dask view`.

        A server in this process on 127.0.0.1 serves the page until the process ends. The
        browser must run on the same machine, or reach that port through a tunnel. For a
        selection the page shows its images. The call must be the last expression of a cell.

        Raises
        ------
        UsageError
            If this is not a notebook, or the selection is too scattered for an address.
        """
        found: IFrame = import_module("zml_dask.publish.viewer").in_notebook(self, height)
        return found

    def to_huggingface(self, columns: Sequence[str] = ()) -> datasets.Dataset:
        """Convert the files to a ``datasets.Dataset``, one row per file (extra ``huggingface``).

        Its columns are those of the format ``parquet`` (the file, its text, its record), and
        `columns`, as of derived tables (``lines_of_code.code``). They are in that library's cache.

        Raises
        ------
        UsageError
            If the library is not installed, or single images or nothing were selected.
        """
        above = import_module("zml_dask.publish.training")
        found: datasets.Dataset = above.to_huggingface(self, columns)
        return found

    def to_xarray(self, columns: Sequence[str] = ()) -> xr.Dataset:
        """Convert the images to a lazy xarray Dataset with labels.

        Its coordinates along ``image`` are ``record_id``, ``file_id``, ``path``, ``language``,
        ``extension``, ``segment`` and ``n_lines`` (of the image). For up to a million images they
        are read at once, and ``record_id`` and ``file_id`` are indexes
        (``labelled.sel(record_id=...)``). For more images they are lazy; to group by a coordinate,
        load it: ``labelled.assign_coords(language=labelled.language.compute())``. `columns` of any
        table become coordinates of the same name (``labelled["lines_of_code.code"]``).

        Raises
        ------
        UsageError
            If xarray is not installed, or a column contains lists.
        """
        from zml_dask.query.labelled import to_xarray

        return to_xarray(self, columns)

    def batches(
        self,
        batch_size: int = 256,
        *,
        seed: int | None = None,
        labels: str | None = None,
        classes: Sequence[str] | None = None,
        weights: str | None = None,
        encoding: Encoding = "codepoint",
        vocabulary: str = VOCABULARY,
        drop_last: bool = False,
        buffer: int = 4096,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """Iterate over the images in batches of NumPy arrays, for training with any library.

        Parameters
        ----------
        batch_size, seed, labels, classes, weights, encoding, vocabulary, ...
            See :class:`~zml_dask.query.batches.BatchOptions`.

        Returns
        -------
        Batches
            An iterable; each iteration is an epoch.

        Raises
        ------
        UsageError
            If an option is invalid.

        Examples
        --------
        >>> for images, codes in ds.batches(64, seed=0, labels="language", encoding="uint8"):
        ...     assert images.shape == (len(codes), 80, 80)
        """
        options = BatchOptions(
            batch_size=batch_size,
            seed=seed,
            labels=labels,
            classes=None if classes is None else tuple(classes),
            weights=weights,
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
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> TorchImages:
        """Pass the images in batches to PyTorch, for a ``DataLoader`` with ``batch_size=None``.

        The loader's workers divide the batches among themselves.

        Parameters
        ----------
        batch_size : int
        rank, world_size : int, optional
            Rank of this process in a distributed training, and the number of processes.
            Default: those of ``torch.distributed`` if it is initialised, else of ``torchrun``.
        **options
            As in :meth:`batches`.

        Raises
        ------
        UsageError
            If PyTorch is not installed, there are no images, or an option is invalid.
        """
        require("torch", "ml", "to_torch()")
        from zml_dask.query.torch_loader import TorchImages, distributed_rank

        counting.check_some(self, "images", "read")
        rank, world_size = distributed_rank(rank, world_size)
        return TorchImages(self.batches(batch_size, rank=rank, world_size=world_size, **options))

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return describe_html(self)


_INNER: Final = {"snapshot", "base", "conditions", "selection", "rows", "record_rows", "whole"}
"""Attributes for the modules of this package."""
