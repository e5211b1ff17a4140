"""The index arrays follow from the files table: which file, which of its images, how many lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zml_dask.raster.images import n_lines_dtype


def index_columns(
    record_id: int | NDArray[np.int64],
    file_id: NDArray[np.int64],
    n_images: NDArray[np.int64],
    n_lines: NDArray[np.int64],
    height: int,
) -> dict[str, NDArray[np.generic]]:
    """Work out the index arrays' rows from rows of the files table.

    Parameters
    ----------
    record_id, file_id, n_images, n_lines : numpy.ndarray of int64, shape (n,)
        Columns of the files table; `record_id` may be one number.
    height : int
        Lines an image.

    Returns
    -------
    dict of str to numpy.ndarray, each of shape (n_images.sum(),)

    Examples
    --------
    >>> columns = index_columns(7, np.array([0, 1]), np.array([2, 1]), np.array([81, 5]), 80)
    >>> columns["segment"].tolist(), columns["n_lines"].tolist()
    ([0, 1, 0], [80, 1, 5])
    """
    total = int(n_images.sum())
    stops = np.cumsum(n_images)
    lines = np.full(total, height, np.int64)
    filled = n_images > 0
    lines[stops[filled] - 1] = (n_lines - (n_images - 1) * height)[filled]
    return {
        "record_id": np.repeat(np.broadcast_to(record_id, n_images.shape), n_images),
        "file_id": np.repeat(file_id, n_images),
        "segment": (np.arange(total) - np.repeat(stops - n_images, n_images)).astype(np.int32),
        "n_lines": lines.astype(n_lines_dtype(height)),
    }
