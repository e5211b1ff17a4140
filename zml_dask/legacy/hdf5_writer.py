"""``images_<id>.h5``: a dataset a segment, ``<path>__<i>``, int64, as in 2018.

h5py's low-level interface: creating datasets the usual way costs several times
what all the rest does. Types, spaces and property lists are shared, and the
pixels are shuffled and deflated here (by isal, the fastest deflate that has a
maintained package) and stored as ready chunks; the file says so in the standard
way, and every HDF5 reader undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from h5py import h5d, h5f, h5g, h5o, h5p, h5s, h5t
from isal import isal_zlib
from numpy.typing import NDArray

from zml_dask.legacy.hdf5_names import split_path, told_apart
from zml_dask.legacy.record import SEGMENT_DTYPE, LegacyFile
from zml_dask.raster.images import Images

_DEFLATE_LEVEL = 1
_BYTE_VALUES = 256


@dataclass(frozen=True, slots=True)
class _Group:
    """A group on the way to the current file."""

    name: str
    handle: Any


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What all datasets of one shape share."""

    space: Any
    properties: Any


class Hdf5Writer:
    """Writes one record's images to an HDF5 file; a context manager.

    Parameters
    ----------
    path : pathlib.Path
        Replaced where it exists.
    """

    def __init__(self, path: Path) -> None:
        access = h5p.create(h5p.FILE_ACCESS)
        # The oldest form that holds what is written: any HDF5 library opens it.
        access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
        creation = h5p.create(h5p.FILE_CREATE)
        creation.set_obj_track_times(False)
        self._file = h5f.create(str(path).encode(), h5f.ACC_TRUNC, creation, access)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_char_encoding(h5t.CSET_UTF8)
        self._root = h5g.open(self._file, b"/")
        self._groups: list[_Group] = []
        self._recipes: dict[tuple[int, ...], _Recipe] = {}
        self._planes = np.zeros((SEGMENT_DTYPE.itemsize, 0), np.uint8)

    def add(self, file: LegacyFile) -> None:
        """Write the file's segments; a file without any leaves no name in HDF5."""
        if file.images is None or not len(file.images):
            return
        folders, stem = split_path(file.path)
        parent = self._enter(folders)
        is_narrow = int(file.images.max()) < _BYTE_VALUES
        for number, segment in enumerate(file.segments()):
            dataset = self._create(parent, f"{stem}__{number}", segment.shape)
            planes = self._shuffled_bytes(segment) if is_narrow else _shuffled(segment)
            dataset.write_direct_chunk((0, 0), isal_zlib.compress(planes, _DEFLATE_LEVEL))

    def _shuffled_bytes(self, segment: Images) -> NDArray[np.uint8]:
        """Do as `_shuffled` for pixels of one byte, in memory that stays zero but for the first."""
        if self._planes.shape[1] != segment.size:
            self._planes = np.zeros((SEGMENT_DTYPE.itemsize, segment.size), np.uint8)
        self._planes[0] = segment.reshape(-1)
        return self._planes

    def _enter(self, folders: list[str]) -> Any:
        """Return the group of `folders`. Files come in path order, so most of it is open."""
        common = 0
        for group, folder in zip(self._groups, folders, strict=False):
            if group.name != folder:
                break
            common += 1
        del self._groups[common:]
        for folder in folders[common:]:
            parent = self._groups[-1].handle if self._groups else self._root
            self._groups.append(_Group(folder, self._group(parent, folder)))
        return self._groups[-1].handle if self._groups else self._root

    def _group(self, parent: Any, folder: str) -> Any:
        """Open or create the group `folder`, spelt otherwise where a segment has its name."""
        for name in (folder, told_apart(folder)):
            encoded = _encoded(name)
            if encoded not in parent:
                return h5g.create(parent, encoded, lcpl=self._links)
            known = h5o.open(parent, encoded)
            if isinstance(known, h5g.GroupID):
                return known
        raise ValueError(f"two spellings of {folder!r} are taken; each path may come only once")

    def _create(self, parent: Any, name: str, shape: tuple[int, ...]) -> Any:
        """Create the dataset of one segment."""
        recipe = self._recipe(shape)
        arguments = (h5t.STD_I64LE, recipe.space, recipe.properties, self._links)
        try:
            return h5d.create(parent, _encoded(name), *arguments)
        except ValueError:
            # Only files out of path order get here: the name is a folder's.
            return h5d.create(parent, _encoded(told_apart(name)), *arguments)

    def _recipe(self, shape: tuple[int, ...]) -> _Recipe:
        if shape not in self._recipes:
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_obj_track_times(False)
            properties.set_chunk(shape)
            properties.set_shuffle()
            properties.set_deflate(_DEFLATE_LEVEL)
            self._recipes[shape] = _Recipe(h5s.create_simple(shape), properties)
        return self._recipes[shape]

    def close(self) -> None:
        """Close the file."""
        self._groups.clear()
        del self._root
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _shuffled(segment: Images) -> NDArray[np.uint8]:
    """Return the planes that HDF5's shuffle makes of a segment as int64.

    The lowest bytes of all pixels come first, then the next ones: eight planes, of
    which the upper four are zero for any code point.
    """
    planes = np.zeros((SEGMENT_DTYPE.itemsize, segment.size), np.uint8)
    pixels = np.ascontiguousarray(segment, "<u4").reshape(-1)
    planes[: pixels.itemsize] = pixels.view(np.uint8).reshape(-1, pixels.itemsize).T
    return planes
