r"""``images_<id>.h5``: one int64 dataset per segment, named ``<path>__<i>``, as in 2018.

Files are read without following links to other files. Datasets are created by h5py's low-level
interface, since its usual one would take several times as long as everything else. Types, spaces
and property lists are shared, and chunks are compressed here and stored directly; the file declares
their filters as usual, so that every HDF5 reader can decode them.

The folders of a path become groups. A path that HDF5 would change is written with escapes, which
:func:`split_name` decodes:

=========  =========================================================================
``%2E``    a part that is ``.``, which HDF5 drops
``%00``    a NUL, which ends a name in HDF5
``%2F``    a slash that opens or ends the path or follows another slash, which HDF5
           drops; and one below 200 folders
``%5F_``   the two underscores of a name ``x__<i>`` that is wanted both as a folder
           and as a segment
``%25``    a percent sign that would begin one of these escapes
=========  =========================================================================

All other names, also with other percent signs, are those of 2018.
"""

from __future__ import annotations

import ctypes
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from h5py import File, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t
from h5py._objects import phil
from numpy.typing import NDArray

from zml_dask.legacy.legacy_record import MAX_PIXELS, SEGMENT_DTYPE, LegacyFile, Segments
from zml_dask.legacy.sources import LegacyFileError
from zml_dask.query.describe import MAX_DEPTH
from zml_dask.raster.images import Images

_ESCAPES = {"%00": "\0", "%25": "%", "%2E": ".", "%2F": "/", "%5F": "_"}
_ESCAPE = re.compile("|".join(_ESCAPES))
_FALSE_ESCAPE = re.compile(f"%(?={'|'.join(escape[1:] for escape in _ESCAPES)})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_LOST_SLASH = re.compile(r"\A/|(?<=/)/|/\Z")


def split_path(path: str) -> tuple[list[str], str]:
    """Split a path into the names of its groups and the stem of its segments' names.

    Examples
    --------
    >>> split_path("src/./a.py"), split_path("/etc//motd")
    ((['src', '%2E'], 'a.py'), (['%2Fetc'], '%2Fmotd'))
    """
    escaped = _FALSE_ESCAPE.sub("%25", path).replace("\0", "%00")
    escaped = _LOST_SLASH.sub("%2F", escaped)
    *folders, stem = escaped.split("/", MAX_DEPTH)
    return (["%2E" if folder == "." else folder for folder in folders], stem.replace("/", "%2F"))


def alternative_name(name: str) -> str:
    """Return another spelling of a name ``x__<i>`` that is already in use.

    Examples
    --------
    >>> alternative_name("a__0"), split_name(alternative_name("a__0"))
    ('a%5F_0', ('a', 0))
    """
    stem, _, number = name.rpartition("__")
    return f"{stem}%5F_{number}"


def split_name(name: str) -> tuple[str, int] | None:
    """Return the path and number of a segment from its full name in the HDF5 file.

    Examples
    --------
    >>> split_name("src/%2E/a.py__12"), split_name("src/a.py")
    (('src/./a.py', 12), None)
    """
    plain = _ESCAPE.sub(lambda found: _ESCAPES[found[0]], name)
    path, underscores, number = plain.rpartition("__")
    if not underscores or not _NUMBER.fullmatch(number):
        return None
    return path, int(number)


DEFLATE_LEVEL = 1
"""Level of zlib, whose output depends only on its input. ISA-L's igzip takes a third of the time,
but its output for one segment in thousands differs between processes."""


def encode_chunk(segment: Images) -> bytes:
    """Return a segment, (lines, width), as the bytes of one chunk of int64.

    All lowest bytes come first, then the next ones, up to the eighth: HDF5's filter "shuffle".

    Examples
    --------
    >>> zlib.decompress(encode_chunk(np.array([[0x41, 0x20AC]], np.uint32))).hex(" ", 2)
    '41ac 0020 0000 0000 0000 0000 0000 0000'
    """
    shuffled = np.zeros((SEGMENT_DTYPE.itemsize, segment.size), np.uint8)
    pixels = segment.reshape(-1)
    for place in range(3):  # the other bytes of a code point are zero
        shuffled[place] = pixels >> 8 * place
    return zlib.compress(shuffled.data, DEFLATE_LEVEL)


_AT_ONCE = 256
"""Segments written at once: with drawing, compression and HDF5 in turn for each segment, they
would evict each other from the processor's cache."""

_ERRNO = re.compile(r"errno = (\d+)")
"""How HDF5's messages contain the system's error."""

_NO_CHUNK_CACHE = (0, 0, 0, 0.0)
"""Arguments of HDF5: unused, slots, bytes, preemption. Chunks are read and written as a whole."""


class Hdf5Writer:
    """Writes one record's images to a new HDF5 file; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = create_file(path)
        self._utf8 = h5p.create(h5p.LINK_CREATE)
        self._utf8.set_char_encoding(h5t.CSET_UTF8)
        self._root = h5g.open(self._file, b"/")
        # Name and handle of each group on the path to the current file.
        self._groups: list[tuple[str, Any]] = []
        self._recipes: dict[tuple[int, ...], tuple[Any, Any, Any]] = {}
        # For each file: its folders, stem, and the shape and bytes of its chunks.
        self._waiting: list[tuple[list[str], str, list[tuple[tuple[int, ...], bytes]]]] = []
        self._n_waiting = 0

    def add(self, file: LegacyFile) -> None:
        """Write a file's segments; a file without any has no name in HDF5."""
        chunks = [(part.shape, encode_chunk(part)) for part in file.segments()]
        if chunks:
            self._waiting.append((*split_path(file.path), chunks))
            self._n_waiting += len(chunks)
        if self._n_waiting >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Write what is waiting."""
        # HDF5 is not thread-safe, and this interface of h5py has a lock only from 3.15.
        with _system_errors(self._path), phil:
            for folders, stem, chunks in self._waiting:
                parent = self._enter(folders)
                for number, (shape, chunk) in enumerate(chunks):
                    dataset = self._create(parent, f"{stem}__{number}", shape)
                    dataset.write_direct_chunk((0, 0), chunk)
        self._waiting.clear()
        self._n_waiting = 0

    def _enter(self, folders: list[str]) -> Any:
        """Return the group of `folders`, most of which are open, since files are in path order."""
        common = 0
        for (name, _), folder in zip(self._groups, folders, strict=False):
            if name != folder:
                break
            common += 1
        del self._groups[common:]
        group = self._groups[-1][1] if self._groups else self._root
        for folder in folders[common:]:
            group = self._group(group, folder)
            self._groups.append((folder, group))
        return group

    def _group(self, parent: Any, folder: str) -> Any:
        """Open or create the group `folder`, spelt differently where a segment has its name."""
        for name in (folder, alternative_name(folder)):
            encoded = _encoded(name)
            if encoded not in parent:
                return h5g.create(parent, encoded, lcpl=self._link(encoded))
            known = h5o.open(parent, encoded)
            if isinstance(known, h5g.GroupID):
                return known
        raise ValueError(f"two spellings of {folder!r} are in use; each path may occur only once")

    def _create(self, parent: Any, name: str, shape: tuple[int, ...]) -> Any:
        """Create the dataset of one segment."""
        encoded = _encoded(name)
        recipe, link = self._recipe(shape), self._link(encoded)
        try:
            return h5d.create(parent, encoded, *recipe, link)
        except ValueError:
            # The name is a folder's; this happens only if files are not in path order.
            return h5d.create(parent, _encoded(alternative_name(name)), *recipe, link)

    def _link(self, name: bytes) -> Any:
        """Return how a link is stored: groups with UTF-8 names have a newer, larger form."""
        return None if name.isascii() else self._utf8

    def _recipe(self, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """Return the type, space and properties that all datasets of a shape share."""
        if shape not in self._recipes:
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_obj_track_times(False)
            properties.set_chunk(shape)
            properties.set_shuffle()
            properties.set_deflate(DEFLATE_LEVEL)
            self._recipes[shape] = (h5t.STD_I64LE, h5s.create_simple(shape), properties)
        return self._recipes[shape]

    def close(self) -> None:
        """Write what is waiting and close the file."""
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
            self._waiting.clear()  # the file is abandoned
        self.close()


def create_file(path: Path) -> Any:
    """Create a file for many datasets of one chunk, in the oldest format that can hold them."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
    access.set_cache(*_NO_CHUNK_CACHE)
    # Otherwise a file that cannot be written stays open, and the process may crash when it exits.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    # By default the index of chunks has 64 entries and, with 2,800 bytes, would be larger than the
    # only chunk. h5py has no method for this property, so the HDF5 library is called directly.
    set_index_rank = ctypes.CDLL(h5p.__file__).H5Pset_istore_k
    set_index_rank.argtypes = (ctypes.c_int64, ctypes.c_uint)
    with phil:  # h5py's lock: HDF5 is not thread-safe
        if set_index_rank(creation.id, 1) < 0:
            raise RuntimeError("HDF5 does not accept an index of chunks of rank 1")
    return h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn exceptions of h5py for system errors, such as a full disk, into an `OSError`."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        number = _ERRNO.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def read_images_hdf5(
    stream: IO[bytes], *, name: str = "the HDF5 file"
) -> Iterator[tuple[str, Segments]]:
    """Read ``images_<id>.h5`` file by file; yield each path and its segments in order.

    External links, and datasets with values in other files, are not followed, so that a malicious
    file cannot read files of this machine.

    `LegacyFileError` if it is not an HDF5 file, or damaged; `OSError` if `stream` cannot be read.
    """
    try:
        # Without a cache of chunks, since each is read once.
        with File(stream, "r", rdcc_nbytes=0) as file:
            root = h5g.open(file.id, b"/")
            yield from _read_group(root, "", {h5o.get_info(root).addr}, name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the stream; errors of h5py itself have no number
        what = str(error).replace("\n", " ")[:200]
        raise LegacyFileError(f"{name} cannot be read as HDF5: {what}") from error


def _read_group(
    group: Any, above: str, seen: set[int], name: str
) -> Iterator[tuple[str, Segments]]:
    """Yield the files of a group, then those of the groups in it.

    `seen` are the addresses of the groups that were read: several links may lead to a group, and
    links may form a cycle.
    """
    files: dict[str, dict[int, bytes]] = {}
    groups: list[bytes] = []
    for key in group:
        if group.links.get_info(key).type != h5l.TYPE_HARD:
            continue
        info = h5o.get_info(group, key)
        if info.type == h5o.TYPE_GROUP and info.addr not in seen:
            seen.add(info.addr)
            groups.append(key)
        elif info.type == h5o.TYPE_DATASET and (split := split_name(above + _decoded(key))):
            path, number = split
            files.setdefault(path, {})[number] = key
    for path, keys in files.items():
        yield path, _segments(group, [keys[number] for number in sorted(keys)], path, name)
    for key in groups:
        yield from _read_group(h5g.open(group, key), f"{above}{_decoded(key)}/", seen, name)


def _segments(group: Any, keys: list[bytes], path: str, name: str) -> Segments:
    """Read a file's datasets, after a check that they are numbers in this file and not too many."""
    segments: Segments = []
    n_pixels = 0
    for key in keys:
        dataset = h5d.open(group, key)
        properties = dataset.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            raise LegacyFileError(f"{name}: values of {path!r} are in another file")
        if dataset.get_type().get_class() not in (h5t.INTEGER, h5t.FLOAT):
            raise LegacyFileError(f"{name}: a segment of {path!r} is not an array of numbers")
        n_pixels += prod(dataset.shape or ())
        if n_pixels > MAX_PIXELS:
            raise LegacyFileError(f"{name}: {path!r} has more rows than a file of 2018 can have")
        # Zeros, since HDF5 does not change elements without a value.
        values: NDArray[Any] = np.zeros(dataset.shape or (), dataset.dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values)
        segments.append(values)
    return segments


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
