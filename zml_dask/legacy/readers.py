"""Reading legacy image files back: what is in them, checked, and nothing run."""

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
"""More than a file of 2018 has: under 100,000 bytes, a row has at least one of them,
and the last line may stand there once more, one row per character. Also what a pickle may
show of arrays that it has shown before."""


def read_images_pickle(
    stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None
) -> dict[str, Segments]:
    """Read ``images_<id>.pkl``.

    Parameters
    ----------
    name : str
        What to call it in messages.
    on_array : callable, optional
        See :func:`zml_dask.safe_pickle.load`.

    Returns
    -------
    dict of str to list of numpy.ndarray
        Path -> segments, as they were pickled (int64 in 2018).

    Raises
    ------
    ForbiddenPickleError, DamagedPickleError
        If it asks for more than plain data, or is damaged.
    LegacyFileError
        If it holds something else.
    """
    content = load(stream, name=name, on_array=on_array)
    if not isinstance(content, dict):
        raise LegacyFileError(f"{name} holds no dict of images, but a {type(content).__name__}")
    seen: set[int] = set()
    n_again = 0
    for path, segments in content.items():
        if not isinstance(path, str) or not isinstance(segments, list | tuple):
            raise LegacyFileError(f"{name} holds no dict of path -> list of images")
        for segment in segments:
            if not isinstance(segment, np.ndarray):
                raise LegacyFileError(f"{name}: a segment of {path!r} is not an array")
            # A pickle holds an array once, and may name it many times, which costs us each time.
            n_again += max(segment.size, 1) if id(segment) in seen else 0
            if n_again > _MAX_PIXELS:
                raise LegacyFileError(f"{name} lists the same arrays again and again, unlike 2018")
            seen.add(id(segment))
    return {path: list(segments) for path, segments in content.items()}


def read_images_hdf5(
    stream: IO[bytes], *, name: str = "the HDF5 file"
) -> Iterator[tuple[str, Segments]]:
    """Read ``images_<id>.h5`` file by file.

    Links that leave the file, and datasets whose values lie elsewhere, are not
    followed: a hostile file reads nothing of this machine.

    Parameters
    ----------
    name : str
        What to call it in messages.

    Yields
    ------
    (str, list of numpy.ndarray)
        Path and segments in order.

    Raises
    ------
    LegacyFileError
        If it is not an HDF5 file, or damaged.
    OSError
        If `stream` cannot be read.
    """
    try:
        # Without a cache of chunks: each is read once.
        with h5py.File(stream, "r", rdcc_nbytes=0) as file:
            root = h5g.open(file.id, b"/")
            yield from _read_group(root, "", {h5o.get_info(root).addr}, name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the stream's; h5py's own complaints have no number
        what = str(error).replace("\n", " ")[:200]
        raise LegacyFileError(f"{name} cannot be read as HDF5: {what}") from error


def _read_group(
    group: Any, above: str, seen: set[int], name: str
) -> Iterator[tuple[str, Segments]]:
    """Yield the files of a group, then those of the groups in it.

    `seen` holds the addresses of the groups: a group is read once, however many
    links lead to it, and links may form a circle.
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
    """Read a file's datasets: numbers, in this file, not too many."""
    segments: Segments = []
    n_pixels = 0
    for key in keys:
        dataset = h5d.open(group, key)
        properties = dataset.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            raise LegacyFileError(f"{name}: values of {path!r} lie in another file")
        if dataset.get_type().get_class() not in (h5t.INTEGER, h5t.FLOAT):
            raise LegacyFileError(f"{name}: a segment of {path!r} is not an array of numbers")
        n_pixels += prod(dataset.shape or ())
        if n_pixels > _MAX_PIXELS:
            raise LegacyFileError(f"{name}: {path!r} announces more rows than a file of 2018 has")
        # Zeros: HDF5 leaves alone what it has no value for.
        values: NDArray[Any] = np.zeros(dataset.shape or (), dataset.dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values)
        segments.append(values)
    return segments


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
