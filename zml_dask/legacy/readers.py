"""Reading legacy image files: their content is checked, and no code in them is run."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s, h5t
from numpy.typing import NDArray

from zml_dask.legacy.hdf5 import split_name
from zml_dask.legacy.sources import LegacyFileError
from zml_dask.safe_pickle import ArrayHook, load

Segments: TypeAlias = list[NDArray[Any]]
"""A file's segments in order, each (lines, width)."""

_MAX_PIXELS = 2 * 100_000 * 80
"""More pixels than a file of 2018 has: it was smaller than 100,000 bytes, a row has at least one
byte, and the last line may be repeated with one row per character. Also the limit for arrays that
a pickle refers to repeatedly."""


def read_images_pickle(
    stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None
) -> dict[str, Segments]:
    """Read ``images_<id>.pkl``: path -> segments, as they were pickled (int64 in 2018).

    `on_array` is as for :func:`zml_dask.safe_pickle.load`.

    Raises
    ------
    ForbiddenPickleError, DamagedPickleError
        If it contains more than plain data, or is damaged.
    LegacyFileError
        If it contains something else.
    """
    content = load(stream, name=name, on_array=on_array)
    if not isinstance(content, dict):
        raise LegacyFileError(
            f"{name} contains a {type(content).__name__} instead of a dict of images"
        )
    seen: set[int] = set()
    n_again = 0
    for path, segments in content.items():
        if not isinstance(path, str) or not isinstance(segments, list | tuple):
            raise LegacyFileError(f"{name} does not contain a dict of path -> list of images")
        for segment in segments:
            if not isinstance(segment, np.ndarray):
                raise LegacyFileError(f"{name}: a segment of {path!r} is not an array")
            # A pickle contains an array once but may refer to it many times, each at a cost here.
            n_again += max(segment.size, 1) if id(segment) in seen else 0
            if n_again > _MAX_PIXELS:
                raise LegacyFileError(
                    f"{name} refers to the same arrays many times, unlike pickles of 2018"
                )
            seen.add(id(segment))
    return {path: list(segments) for path, segments in content.items()}


def read_images_hdf5(
    stream: IO[bytes], *, name: str = "the HDF5 file"
) -> Iterator[tuple[str, Segments]]:
    """Read ``images_<id>.h5`` file by file; yield each path and its segments in order.

    External links, and datasets with values in other files, are not followed, so that a malicious
    file cannot read files of this machine.

    Raises
    ------
    LegacyFileError
        If it is not an HDF5 file, or damaged.
    OSError
        If `stream` cannot be read.
    """
    try:
        # Without a cache of chunks, since each is read once.
        with h5py.File(stream, "r", rdcc_nbytes=0) as file:
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
        if n_pixels > _MAX_PIXELS:
            raise LegacyFileError(f"{name}: {path!r} has more rows than a file of 2018 can have")
        # Zeros, since HDF5 does not change elements without a value.
        values: NDArray[Any] = np.zeros(dataset.shape or (), dataset.dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values)
        segments.append(values)
    return segments


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
