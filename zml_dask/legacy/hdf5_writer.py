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

    def add(self, file: LegacyFile) -> None:
        """Write the file's segments; a file without any leaves no name in HDF5."""
        if file.images is None or not len(file.images):
            return
        folders, stem = split_path(file.path)
        parent = self._enter(folders)
        for number, segment in enumerate(file.segments()):
            dataset = self._create(parent, f"{stem}__{number}", segment.shape)
            dataset.write_direct_chunk((0, 0), _deflated(segment))

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


def _deflated(segment: Images) -> bytes:
    """Shuffle the bytes of a segment as int64 and deflate them.

    Shuffling puts the lowest bytes of all pixels first, then the next ones:
    eight planes. The upper four of a code point are always zero, the next three
    nearly always, so the planes are written straight from the 32-bit pixels.
    """
    planes: NDArray[np.uint8] = np.zeros((SEGMENT_DTYPE.itemsize, segment.size), np.uint8)
    pixels = np.ascontiguousarray(segment, "<u4").reshape(-1)
    if pixels.max() < 256:
        planes[0] = pixels
    else:
        planes[: pixels.itemsize] = pixels.view(np.uint8).reshape(-1, pixels.itemsize).T
    compressed: bytes = isal_zlib.compress(planes, _DEFLATE_LEVEL)
    return compressed
