"""``zml.derive``: compute a table from every file of a dataset, by a function or a built-in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from zml_dask.arguments import checked, nearest
from zml_dask.derived.builtin import BUILT_IN
from zml_dask.derived.compute import Recipe, Schema, Whole, derive_table
from zml_dask.derived.embedding import EMBEDDING, RECORDS
from zml_dask.derived.near_duplicates import CLUSTERS
from zml_dask.derived.similar import FILE_MAP, RECORD_MAP
from zml_dask.engine.clusters.opening import use_client
from zml_dask.engine.executors import DaskExecutor, SerialExecutor
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError, require
from zml_dask.query.dataset import Dataset
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    import distributed


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

    Conditions and SQL can then use the columns: ``ds.select("lines_of_code.code > 10")``,
    ``ds.read("lines_of_code.code")``, ``ds.sql("SELECT ... FROM lines_of_code")``. After an
    update the same call computes the new files only; an interrupted call can be repeated.

    Parameters
    ----------
    ds : Dataset, str or path
        The whole dataset, not a selection; it must be writable.
    name : str
        Name of the table: small letters, digits and ``_``; or the name of a built-in one,
        which needs no function: ``lines_of_code``, ``is_generated``, ``is_vendored``,
        ``license_detected``, ``predicted_language``, ``near_duplicates``, ``embedding``,
        ``record_embedding``, ``record_map``, ``file_map``.
    function : callable, optional
        Called once for each file. The names of its parameters say what it is given: ``text``
        (str, as `Dataset.text`), ``images`` (uint32, shape (n, height, width)) or ``row`` (a
        `FileRow`). It returns a mapping of the columns, a single value if there is one column,
        or None for a row of nulls. Files without text, such as binary ones, are given only to
        functions of ``row`` alone; for other functions their rows are null.
    schema : mapping of str to str or pyarrow.Schema, optional
        Names of the columns and their types: bool, int8 to int64, float, double, string,
        binary, date32, or list<int64>, list<float>, list<string>.
    client : distributed.Client, distributed cluster or str, optional
        Any Dask cluster that does the work. Default: this process.
    again : bool
        Compute all rows again although the function's own code has not changed, for instance
        because code that it calls has.
    progress : BuildProgress, optional

    Returns
    -------
    Dataset
        The dataset with the table.

    Raises
    ------
    UsageError
        If the function, a name or a type is invalid, or the function fails for every file.
        Where it fails for some, their rows are null and the column ``error`` says why.
    ZmlError
        If a build of the dataset is running.

    Examples
    --------
    >>> ds = zml.derive(ds, "words", lambda text: len(text.split()), {"n": "int32"})
    >>> len(ds.select("words.n > 0", language="C").files)
    44
    """
    if isinstance(ds, Dataset):
        if not ds.is_unselected:
            raise UsageError("a derived table covers all files; give the dataset, not a selection")
        dataset: str | Storage = ds.snapshot.storage
    else:
        dataset = os.fspath(ds)
    table = table_of(name, function, schema)
    with nullcontext() if client is None else use_client(client) as opened:
        executor = SerialExecutor() if opened is None else DaskExecutor(opened)
        return derive_table(
            dataset, lambda: nullcontext(executor), table=table, again=again, progress=progress
        )


def table_of(
    name: str, function: Callable[..., Any] | None = None, schema: Schema | None = None
) -> Recipe | Whole:
    """Return how a table is computed: by a function, or as a built-in one.

    `UsageError` if there is no such table, it needs a package that is not installed, or the
    function, a name or a type is invalid.
    """
    if function is not None:
        return Recipe.of(name, function, schema or {})
    if name in _NEEDED:  # before hours of work
        require(*_NEEDED[name], name)
    if name in _WHOLE:
        return _WHOLE[name]
    if name in BUILT_IN:
        return Recipe.of(name, *BUILT_IN[name])
    raise UsageError(
        f"there is no built-in table {name!r}; {nearest(name, [*BUILT_IN, *_WHOLE])} "
        "(a table of your own needs a function and its columns: --function, --column)"
    )


_NEEDED: Final = {
    "license_detected": ("osslili", "licenses"),
    "record_map": ("openTSNE", "map"),
    "file_map": ("openTSNE", "map"),
}
"""Built-in table -> the module that it needs, and the extra that installs it."""

_WHOLE: Final[Mapping[str, Recipe | Whole]] = {
    table.name: table for table in (CLUSTERS, EMBEDDING, RECORDS, RECORD_MAP, FILE_MAP)
}
"""Tables for `Dataset.similar` and `Dataset.duplicates`, by name."""
