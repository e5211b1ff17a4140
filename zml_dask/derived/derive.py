"""``zml.derive``: a table computed from every file of a dataset, by a function or by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from zml_dask.arguments import checked, nearest
from zml_dask.derived.builtin import BUILT_IN
from zml_dask.derived.embedding import EMBEDDING, RECORDS
from zml_dask.derived.job import Recipe, Schema, Whole, derive_table
from zml_dask.derived.near_duplicates import CLUSTERS
from zml_dask.derived.similar import FILE_MAP, RECORD_MAP
from zml_dask.engine.clusters.opening import use_client
from zml_dask.engine.executors import DaskExecutor, SerialExecutor
from zml_dask.engine.job import Executor, OpenExecutor
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    import distributed


class Compute(Protocol):
    """Computes what is missing of one derived table."""

    def __call__(
        self,
        dataset: str | Storage,
        open_executor: OpenExecutor,
        *,
        again: bool = False,
        progress: BuildProgress | None = None,
    ) -> Dataset:
        """Compute it on an executor that is opened only if there is work for it."""
        ...


@checked
def derive(
    ds: Dataset | str | os.PathLike[str],
    name: str,
    function: Callable[..., Any] | None = None,
    schema: Schema | None = None,
    *,
    client: distributed.Client | Any | None = None,
    again: bool = False,
    progress: BuildProgress | None = None,
) -> Dataset:
    """Compute columns from every file of a dataset, and keep them beside its tables.

    The columns are then part of every question: ``ds.select("lines_of_code.code > 10")``,
    ``ds.read("lines_of_code.code")``, ``ds.sql("SELECT ... FROM lines_of_code")``. After an
    update the same call computes the new files only; it may be interrupted at any moment.

    Parameters
    ----------
    ds : Dataset, str or path
        The whole dataset, not a selection; it must be writable.
    name : str
        Of the table: small letters, digits and ``_``; or of one of those that are built in,
        which need no function: ``lines_of_code``, ``is_generated``, ``is_vendored``,
        ``license_detected``, ``predicted_language``, ``near_duplicates``, ``embedding``,
        ``record_embedding``, ``record_map``, ``file_map``.
    function : callable, optional
        Called once for each file, with what its parameters are called: ``text`` (str, as
        `Dataset.text`), ``images`` (uint32, shape (n, height, width)) or ``row`` (a
        `FileRow`). It returns a mapping of the columns, one value where there is one
        column, or None for a row of nulls. Files without text, such as binary ones, are
        given only to a function of ``row`` alone; of the others they have nulls.
    schema : mapping of str to str or pyarrow.Schema, optional
        Names of the columns and their types: bool, int8 to int64, float, double, string,
        binary, date32, or list<int64>, list<float>, list<string>.
    client : distributed.Client, distributed cluster or str, optional
        Of any Dask cluster. Default: this process.
    again : bool
        Compute all rows again, though the function's own code has not changed: what it
        calls may have.
    progress : BuildProgress, optional

    Returns
    -------
    Dataset
        With the table.

    Raises
    ------
    UsageError
        If the function, a name or a type cannot be, or the function fails for every file.
        Where it fails for some, their rows are null and the column ``error`` says why.
    ZmlError
        If a build of the dataset is at work.

    Examples
    --------
    >>> ds = zml.derive(ds, "words", lambda text: len(text.split()), {"n": "int32"})
    >>> len(ds.select("words.n > 0", language="C").files)
    44
    """
    if isinstance(ds, Dataset):
        if not ds.is_unselected:
            raise UsageError("a derived table is of all files; give the dataset, not a selection")
        dataset: str | Storage = ds.snapshot.storage
    else:
        dataset = os.fspath(ds)
    compute = table_of(name, function, schema)
    if client is None:
        return compute(dataset, _in_this_process, again=again, progress=progress)
    with use_client(client) as opened:
        executor = DaskExecutor(opened)
        return compute(dataset, lambda: nullcontext(executor), again=again, progress=progress)


def table_of(
    name: str, function: Callable[..., Any] | None = None, schema: Schema | None = None
) -> Compute:
    """Return what computes a table: of a function, or a built-in one.

    Raises
    ------
    UsageError
        If there is no such table, or the function, a name or a type is invalid.
    """
    found: Recipe | Whole
    if function is not None:
        found = Recipe.of(name, function, schema or {})
    elif name in _WHOLE:
        found = _WHOLE[name]
    elif name in BUILT_IN:
        found = Recipe.of(name, *BUILT_IN[name])
    else:
        raise UsageError(
            f"there is no built-in table {name!r}; {nearest(name, [*BUILT_IN, *_WHOLE])} "
            "(one of your own takes a function and its columns: --function, --column)"
        )
    return partial(derive_table, table=found)


_WHOLE: Final[Mapping[str, Recipe | Whole]] = {
    table.name: table for table in (CLUSTERS, EMBEDDING, RECORDS, RECORD_MAP, FILE_MAP)
}
"""Tables that `Dataset.similar` and `Dataset.duplicates` ask, by name."""


def _in_this_process() -> nullcontext[Executor]:
    return nullcontext(SerialExecutor())
