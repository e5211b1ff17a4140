"""A view as an xarray Dataset: the images with coordinates that are read when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.columns import find_countable
from zml_dask.query.rows import Int64
from zml_dask.query.selection import as_codes, gather, image_lines

if TYPE_CHECKING:
    import xarray as xr

    from zml_dask.query.dataset import Dataset

COORDINATES = ("record_id", "file_id", "path", "language", "extension")
"""Columns that become coordinates along ``image``."""

SMALL = 1_000_000
"""Images up to which coordinates are read at once, so that they can be grouped by and looked up."""


_FILES_AT_ONCE = 2**18
"""Files whose values are read at once: of 13 million, the paths alone would take gigabytes."""


class _FileColumn:
    """A column of files or records, repeated for each image; reads when it is indexed.

    The values of some thousand files are held, and spread to images block by block.
    """

    def __init__(self, view: Dataset, name: str) -> None:
        self._view = view
        self._name = name
        column = find_countable(name, view.snapshot.derived)
        if pa.types.is_list(column.type) or pa.types.is_binary(column.type):
            raise UsageError(f"{name!r} holds {column.type}; a coordinate is one value per image")
        # As in pandas, NaN, None or NaT stands for null, even if there is none.
        self.dtype = np.dtype(column.type.to_pandas_dtype())
        if pa.types.is_string(column.type) or (column.is_nullable and self.dtype == np.bool_):
            self.dtype = np.dtype(object)
        elif column.is_nullable and self.dtype.kind == "i":
            self.dtype = np.dtype(np.float64)
        self.shape = (len(view),)
        self.ndim = 1
        self._held: dict[int, NDArray[Any]] = {}

    def __getitem__(self, key: Any) -> NDArray[Any]:
        (rows,) = key if isinstance(key, tuple) else (key,)
        of_file, _ = self._view.selection.file_of(_positions(self._view, rows))
        found = np.empty(of_file.size, self.dtype)
        numbers, places = np.divmod(of_file, _FILES_AT_ONCE)
        for number in np.unique(numbers).tolist():
            own = numbers == number
            found[own] = self._values(number)[places[own]]
        return found

    def _values(self, number: int) -> NDArray[Any]:
        """Read the values of some neighbouring files, or remember them."""
        if (known := self._held.get(number)) is not None:
            return known
        files = slice(number * _FILES_AT_ONCE, (number + 1) * _FILES_AT_ONCE)
        values = gather(self._view.snapshot, self._view.selection, [self._name], files)[self._name]
        if pa.types.is_large_string(values.type):
            codes, different = as_codes(values)
            found = np.array([*different, None], object)[codes]  # -1 is the last
        else:
            found = values.to_numpy().astype(self.dtype)
        # Threads of Dask read neighbouring blocks, of two pieces at most.
        self._held = dict([*self._held.items()][-1:]) | {number: found}
        return found


class _ImageColumn:
    """``segment`` or the lines of each image, calculated when it is indexed."""

    def __init__(self, view: Dataset, name: str) -> None:
        self._view = view
        self._lines = name == "n_lines"
        self.dtype = np.dtype(np.int32)
        self.shape = (len(view),)
        self.ndim = 1

    def __getitem__(self, key: Any) -> NDArray[Any]:
        (rows,) = key if isinstance(key, tuple) else (key,)
        positions = _positions(self._view, rows)
        selection = self._view.selection
        of_file, segment = selection.file_of(positions)
        if self._lines:
            height = self._view.info.shape.height
            places, back = np.unique(of_file, return_inverse=True)
            files = self._view.snapshot.take("files", selection.files.at(places), ["n_lines"])
            lines = files["n_lines"].to_numpy().astype(np.int64)[back]
            return image_lines(lines, segment, height).astype(np.int32)
        return segment.astype(np.int32)


def _positions(view: Dataset, key: Any) -> Int64:
    if isinstance(key, slice) and key.step in (None, 1):
        start, stop, _ = key.indices(len(view))
        return view.rows.positions(start, stop)
    return view.rows.at(np.arange(len(view))[key])


def to_xarray(view: Dataset, columns: Sequence[str] = ()) -> xr.Dataset:
    """Return an xarray Dataset of a view; see `Dataset.to_xarray`."""
    try:
        import xarray as xr
    except ImportError as error:
        raise UsageError("to_xarray() needs xarray; pip install xarray") from error
    images = view.images
    small = len(view) <= SMALL

    def lazy(column: _FileColumn | _ImageColumn, name: str) -> tuple[str, da.Array | NDArray[Any]]:
        if small:
            return "image", column[:]
        array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
            column,
            chunks=(images.chunks[0],),
            asarray=False,
            name=f"{name}-{images.name}",
            meta=np.empty(0, column.dtype),
        )
        return "image", array

    coordinates = {name: lazy(_FileColumn(view, name), name) for name in (*COORDINATES, *columns)}
    coordinates |= {name: lazy(_ImageColumn(view, name), name) for name in ("segment", "n_lines")}
    labelled = xr.Dataset(
        {"images": (("image", "row", "column"), images)},
        coords=coordinates,
        attrs={"source": view.url, "pixels": "Unicode code points"},
    )
    if small:
        for name in ("record_id", "file_id"):
            labelled = labelled.set_xindex(name)
    return labelled
