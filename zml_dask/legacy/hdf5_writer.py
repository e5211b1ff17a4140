"""``images_<id>.h5``: a dataset a segment, ``<path>__<i>``, int64, as in 2018.

h5py's low-level interface: creating datasets the usual way costs several times
what all the rest does. Types, spaces and property lists are shared, and ready
chunks are stored (``hdf5_filters.py``); the file says in the standard way how they
are made, and every HDF5 reader undoes it.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from h5py import h5d, h5f, h5g, h5o, h5p, h5s, h5t
from h5py._objects import phil

from zml_dask.legacy.hdf5_filters import DEFLATE_LEVEL, ChunkEncoder
from zml_dask.legacy.hdf5_names import split_path, told_apart
from zml_dask.legacy.record import LegacyFile

_AT_ONCE = 256
"""Segments written at once: drawing, deflating and HDF5 in turn for each of them would
throw one another out of the processor's cache."""

_ERRNO = re.compile(r"errno = (\d+)")
"""How HDF5 tells of the system's error within its own message."""

_NO_CHUNK_CACHE = (0, 0, 0, 0.0)
"""What h5py passes on: unused, slots, bytes, preemption. Chunks come and go whole."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A group on the way to the current file."""

    name: str
    handle: Any


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A file that waits: where its segments go, and their shapes and chunks."""

    folders: list[str]
    stem: str
    chunks: list[tuple[tuple[int, ...], bytes]]


class Hdf5Writer:
    """Writes one record's images to an HDF5 file; a context manager.

    Parameters
    ----------
    path : pathlib.Path
        Replaced where it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = create_file(path)
        self._utf8 = h5p.create(h5p.LINK_CREATE)
        self._utf8.set_char_encoding(h5t.CSET_UTF8)
        self._root = h5g.open(self._file, b"/")
        self._groups: list[_Group] = []
        self._recipes: dict[tuple[int, ...], tuple[Any, Any, Any]] = {}
        self._encoder = ChunkEncoder()
        self._waiting: list[_Encoded] = []
        self._n_waiting = 0

    def add(self, file: LegacyFile) -> None:
        """Write the file's segments; a file without any leaves no name in HDF5."""
        chunks = [(part.shape, self._encoder.encode(part)) for part in file.segments()]
        if chunks:
            self._waiting.append(_Encoded(*split_path(file.path), chunks))
            self._n_waiting += len(chunks)
        if self._n_waiting >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Write what waits."""
        with _system_errors(self._path):
            for file in self._waiting:
                parent = self._enter(file.folders)
                for number, (shape, chunk) in enumerate(file.chunks):
                    dataset = self._create(parent, f"{file.stem}__{number}", shape)
                    dataset.write_direct_chunk((0, 0), chunk)
        self._waiting.clear()
        self._n_waiting = 0

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
                return h5g.create(parent, encoded, lcpl=self._link(encoded))
            known = h5o.open(parent, encoded)
            if isinstance(known, h5g.GroupID):
                return known
        raise ValueError(f"two spellings of {folder!r} are taken; each path may come only once")

    def _create(self, parent: Any, name: str, shape: tuple[int, ...]) -> Any:
        """Create the dataset of one segment."""
        encoded = _encoded(name)
        recipe, link = self._recipe(shape), self._link(encoded)
        try:
            return h5d.create(parent, encoded, *recipe, link)
        except ValueError:
            # Only files out of path order get here: the name is a folder's.
            return h5d.create(parent, _encoded(told_apart(name)), *recipe, link)

    def _link(self, name: bytes) -> Any:
        """Return how a name is noted: a folder with names in UTF-8 takes a newer, larger form."""
        return None if name.isascii() else self._utf8

    def _recipe(self, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """Return type, space and properties, which all datasets of one shape share."""
        if shape not in self._recipes:
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_obj_track_times(False)
            properties.set_chunk(shape)
            properties.set_shuffle()
            properties.set_deflate(DEFLATE_LEVEL)
            self._recipes[shape] = (h5t.STD_I64LE, h5s.create_simple(shape), properties)
        return self._recipes[shape]

    def close(self) -> None:
        """Write what waits and close the file."""
        try:
            self._flush()
        finally:
            self._groups.clear()
            del self._root
            with _system_errors(self._path):
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._waiting.clear()  # nobody wants the file any more
        self.close()


def create_file(path: Path) -> Any:
    """Create a file for many datasets of one chunk, in the oldest form that holds them.

    Parameters
    ----------
    path : pathlib.Path
        Replaced where it exists.

    Returns
    -------
    h5py.h5f.FileID
    """
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
    access.set_cache(*_NO_CHUNK_CACHE)
    # Else a file that cannot be written out stays half open, and the process may crash at its end.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    # By default the index of a dataset's chunks has places for 64, and would take more
    # than the one chunk: 2,800 bytes. h5py has no method for this property, so the
    # library that it has loaded is asked.
    set_index_rank = ctypes.CDLL(h5p.__file__).H5Pset_istore_k
    set_index_rank.argtypes = (ctypes.c_int64, ctypes.c_uint)
    with phil:  # no two threads may be within HDF5, and h5py knows nothing of this call
        if set_index_rank(creation.id, 1) < 0:
            raise RuntimeError("HDF5 refuses an index of chunks of rank 1")
    return h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn what HDF5 raises of any type where the system refused into what it refused with.

    Raises
    ------
    OSError
        With the system's number, such as that of a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        number = _ERRNO.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
