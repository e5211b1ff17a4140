"""Where a build may write: a dataset of ours, or a place where nothing is yet."""

from __future__ import annotations

from pathlib import Path

from zml_dask.pipeline.errors import TargetError
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.layout import DATASET_JSON, IMAGES_ZARR, LEGACY, LOCK, LOG, STAGING, TABLES
from zml_dask.store.storage import Storage

_OURS = {DATASET_JSON, IMAGES_ZARR, LEGACY, LOCK, LOG, STAGING, "manifest.parquet"} | {
    word for name in TABLES for word in (name, f"{name}.parquet")
}
"""What a dataset may hold before its first commit, when no ``dataset.json`` vouches for it."""


def check_target(storage: Storage) -> DatasetInfo | None:
    """Check that a dataset is or may be made there, without writing anything.

    Returns
    -------
    DatasetInfo or None
        None where nothing is committed yet.

    Raises
    ------
    TargetError
        If it is a file, or a folder that holds something else.
    NotADatasetError
        If its ``dataset.json`` is of something else.
    """
    if storage.is_local and Path(storage.url).exists() and not Path(storage.url).is_dir():
        raise TargetError(f"{storage.url} is a file; give a folder for the dataset")
    info = read_info(storage)
    if info is None:
        foreign = sorted(_names(storage) - _OURS)
        foreign = [name for name in foreign if not name.startswith(".tmp-")]
        if foreign:
            raise TargetError(
                f"{storage.url} is no dataset and not empty (it holds {foreign[0]!r}); "
                "give another folder, or a new one"
            )
    return info


def _names(storage: Storage) -> set[str]:
    """Return the names at the top of a place."""
    if storage.is_local:
        try:
            return {path.name for path in Path(storage.url).iterdir()}
        except FileNotFoundError:
            return set()
        except PermissionError as error:
            raise TargetError(f"{storage.url} may not be read; check who owns it") from error
    return {path.partition("/")[0] for path in storage.list()}
