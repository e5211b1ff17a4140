"""``images.zarr`` opened with zarr-python, for reading."""

from __future__ import annotations

import zarr

from zml_dask.store.info import DatasetDamagedError
from zml_dask.store.layout import IMAGES_ZARR
from zml_dask.store.storage import Storage


def open_arrays(storage: Storage) -> zarr.Group:
    """Open the group of a dataset's arrays.

    As Zarr format 3 and nothing else: zarr-python would also take the format
    before, whose arrays may ask for codecs that unpickle what they read.

    Raises
    ------
    DatasetDamagedError
        If there is no such group.
    """
    try:
        return zarr.open_group(storage.zarr_store(IMAGES_ZARR), mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DatasetDamagedError(
            f"{storage.url}/{IMAGES_ZARR} is no Zarr group of format 3; "
            "run zml-dask verify --repair"
        ) from error
