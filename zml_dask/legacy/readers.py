"""Reading the first edition's image files back: what is in them, checked, and nothing run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import ZmlError
from zml_dask.legacy.hdf5_names import split_name
from zml_dask.safe_pickle import ArrayHook, load

Segments: TypeAlias = list[NDArray[Any]]
"""A file's segments in order, each (lines, width)."""

_MAX_PIXELS = 2 * 100_000 * 80
"""More than a file of 2018 has: under 100,000 bytes, a row has at least one of them,
and the last line may stand there once more, a row a character."""


class LegacyFileError(ZmlError):
    """A file is not what the first edition wrote."""


def read_images_pickle(
    stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None
) -> dict[str, Segments]:
    """Read ``images_<id>.pkl``.

    Parameters
    ----------
    stream : binary file
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
    UnsafePickleError
        If it asks for more than plain data, or is damaged.
    LegacyFileError
        If it holds something else.
    """
    content = load(stream, name=name, on_array=on_array)
    if not isinstance(content, dict):
        raise LegacyFileError(f"{name} holds no dict of images, but a {type(content).__name__}")
    for path, segments in content.items():
        if not isinstance(path, str) or not isinstance(segments, list | tuple):
            raise LegacyFileError(f"{name} holds no dict of path -> list of images")
        for segment in segments:
            if not isinstance(segment, np.ndarray):
                raise LegacyFileError(f"{name}: a segment of {path!r} is no array")
    return {path: list(segments) for path, segments in content.items()}


def read_images_hdf5(
    stream: IO[bytes], *, name: str = "the HDF5 file"
) -> Iterator[tuple[str, Segments]]:
    """Read ``images_<id>.h5`` file by file.

    Links that leave the file, and datasets whose values lie elsewhere, are not
    followed: a hostile file reads nothing of this machine.

    Parameters
    ----------
    stream : binary file
    name : str
        What to call it in messages.

    Yields
    ------
    (str, list of numpy.ndarray)
        Path and segments in order.

    Raises
    ------
    LegacyFileError
        If it is no HDF5 file, or damaged.
    """
    try:
        with h5py.File(stream, "r") as file:
            yield from _read_group(file, "", {_address(file)}, name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        what = str(error).replace("\n", " ")[:200]
        raise LegacyFileError(f"{name} cannot be read as HDF5: {what}") from error


def _read_group(
    group: h5py.Group, above: str, seen: set[int], name: str
) -> Iterator[tuple[str, Segments]]:
    """Yield the files of a group, then those of the groups in it.

    `seen` holds the addresses of the groups: a group is read once, however many
    links lead to it, and links may form a circle.
    """
    files: dict[str, dict[int, h5py.Dataset]] = {}
    groups: list[tuple[str, h5py.Group]] = []
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            continue
        child = group[key]
        if isinstance(child, h5py.Group):
            groups.append((key, child))
        elif isinstance(child, h5py.Dataset) and (split := split_name(above + key)):
            path, number = split
            files.setdefault(path, {})[number] = child
    for path, datasets in files.items():
        chosen = [datasets[number] for number in sorted(datasets)]
        _check(path, chosen, name)
        yield path, [dataset[...] for dataset in chosen]
    for key, child in groups:
        address = _address(child)
        if address not in seen:
            seen.add(address)
            yield from _read_group(child, f"{above}{key}/", seen, name)


def _check(path: str, datasets: list[h5py.Dataset], name: str) -> None:
    """Hold that a file's datasets may be read: numbers, in this file, not too many."""
    for dataset in datasets:
        if dataset.external or dataset.is_virtual:
            raise LegacyFileError(f"{name}: values of {path!r} lie in another file")
        if dataset.size is None or dataset.dtype.kind not in "biuf":
            raise LegacyFileError(f"{name}: a segment of {path!r} is no array of numbers")
    if sum(dataset.size for dataset in datasets) > _MAX_PIXELS:
        raise LegacyFileError(f"{name}: {path!r} announces more rows than a file of 2018 has")


def _address(group: h5py.Group) -> int:
    return int(h5py.h5o.get_info(group.id).addr)
