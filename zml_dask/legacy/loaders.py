"""The loaders that 2018's scripts use, for its pickles or for a dataset of zml-dask.

Parameters and results are those of 2018. Pickles are read without running their code. Instead of
a pickle's path, a dataset (or its path or URL) can be given, of which all records are read, or the
path that a record's pickle has in a dataset, as :func:`recursive_find` yields it, whether the file
exists or not.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.legacy.legacy_record import SEGMENT_DTYPE, LegacyFile, Segments
from zml_dask.legacy.pickles import read_images_pickle
from zml_dask.legacy.record_files import legacy_file, legacy_paths, legacy_record
from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.store.layout import DATASET_JSON, LEGACY, extension_of
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

ImagePickle: TypeAlias = str | os.PathLike[str] | Dataset

_IN_DATASET = re.compile(rf"(?P<dataset>.+)/{LEGACY}/(?P<id>[0-9]+)/images_(?P=id)\.pkl")


def load_all(
    image_pkl: ImagePickle,
    pad_images: bool = True,
    length_cutoff: int = 30,
    padding_length: int = 80,
    regexp: str | None = None,
    script_name: str | None = None,
) -> NDArray[Any]:
    """Load the images of a record as one array.

    Parameters
    ----------
    image_pkl : path or Dataset
        ``images_<id>.pkl``, or a dataset of zml-dask.
    pad_images : bool
        Pad segments of fewer than `padding_length` lines with spaces.
    length_cutoff : int
        Segments with this many lines or fewer are left out.
    padding_length : int
        Lines and characters to which segments are padded.
    regexp : str, optional
        Only files whose path or name matches the expression anywhere.
    script_name : str, optional
        Only files with this name or path.

    Returns
    -------
    numpy.ndarray, shape (n, padding_length, padding_length)
        float64 if a segment was padded, as in 2018, otherwise int64. Without padding,
        segments of different heights are returned as an array of arrays.

    Examples
    --------
    >>> load_all(ds.select(record_id=10), regexp="[.]py$").shape
    (16, 80, 80)
    """
    wanted = [
        segment
        for path, segments in _files(image_pkl)
        if _matches(path, regexp) and script_name in (None, path, _name(path))
        for segment in _prepared(segments, pad_images, length_cutoff, padding_length)
    ]
    return _stacked(wanted, padding_length)


def load_by_extension(
    image_pkl: ImagePickle,
    pad_images: bool = True,
    length_cutoff: int = 30,
    padding_length: int = 80,
) -> dict[str, NDArray[Any]]:
    """Load the images of a record by extension.

    An extension is what follows the last dot of a file's name, or the whole name.
    Parameters are those of :func:`load_all`; extensions without images are left out.
    """
    files = ((extension_of(_name(path)), segments) for path, segments in _files(image_pkl))
    return _grouped(files, pad_images, length_cutoff, padding_length)


def load_by_regexp(
    image_pkl: ImagePickle,
    pad_images: bool = True,
    length_cutoff: int = 30,
    padding_length: int = 80,
    regexp: str | None = None,
) -> dict[str, NDArray[Any]]:
    """Load the images of the files whose path or name matches an expression anywhere.

    Parameters are those of :func:`load_all`; files without images are left out.

    Returns
    -------
    dict of str to numpy.ndarray
        By the file's name; files with the same name share an array.
    """
    files = (
        (_name(path), segments) for path, segments in _files(image_pkl) if _matches(path, regexp)
    )
    return _grouped(files, pad_images, length_cutoff, padding_length)


def recursive_find(base: str | os.PathLike[str], pattern: str = "*") -> Iterator[str]:
    """Yield the files in a folder whose names match a shell pattern, sorted.

    For a dataset, each record's ``images_<id>.pkl`` is yielded whether it was exported or not: the
    loaders read the dataset where there is no pickle.

    Parameters
    ----------
    pattern : str
        For example ``images_*.pkl``.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    if _is_dataset(base):
        folder = os.fspath(base).rstrip("/")
        known = Snapshot.open(base).scan("records", ["record_id"])["record_id"]
        for record_id in sorted(known.to_pylist()):
            path = legacy_paths(record_id, ["pickle"], f"{folder}/{LEGACY}")["pickle"]
            if fnmatch.fnmatchcase(_name(path), pattern):
                yield path
        return
    if not Path(base).is_dir():
        raise UsageError(
            f"there is no folder {os.fspath(base)!r}; give one with records of 2018, or a dataset"
        )
    for folder, folders, names in os.walk(base):
        folders.sort()
        for name in sorted(fnmatch.filter(names, pattern)):
            yield os.path.join(folder, name)  # noqa: PTH118 - a text, as in 2018


def _files(image_pkl: ImagePickle) -> Iterator[tuple[str, Segments]]:
    """Yield path and int64 segments of every file of a pickle, a dataset or a view."""
    files: Iterable[LegacyFile]
    if not isinstance(image_pkl, str | os.PathLike):
        files = map(legacy_file, image_pkl)
    else:
        path = os.fspath(image_pkl)
        if Path(path).is_file():
            with Path(path).open("rb") as stream:
                yield from read_images_pickle(stream, name=path).items()
            return
        found = _IN_DATASET.fullmatch(path)
        if _is_dataset(path):
            files = map(legacy_file, open_dataset(path))
        elif found is not None and _is_dataset(found["dataset"]):
            files = legacy_record(Snapshot.open(found["dataset"]), int(found["id"])).files
        else:
            raise UsageError(f"{path!r} is neither a pickle nor a dataset")
    for file in files:
        yield file.path, [segment.astype(SEGMENT_DTYPE) for segment in file.segments()]


def _is_dataset(path: str | os.PathLike[str]) -> bool:
    return Storage.open(os.fspath(path)).exists(DATASET_JSON)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _matches(path: str, regexp: str | None) -> bool:
    if regexp is None:
        return True
    return bool(re.search(regexp, path) or re.search(regexp, _name(path)))


def _prepared(
    segments: Sequence[NDArray[Any]], pad: bool, cutoff: int, side: int
) -> Iterator[NDArray[Any]]:
    for segment in segments:
        if len(segment) <= cutoff:
            continue
        if pad and len(segment) < side:
            padded = np.full((side, max(side, segment.shape[1])), float(ord(" ")))
            padded[: segment.shape[0], : segment.shape[1]] = segment
            yield padded
        else:
            yield segment


def _grouped(
    files: Iterable[tuple[str, Segments]], pad: bool, cutoff: int, side: int
) -> dict[str, NDArray[Any]]:
    groups: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for key, segments in files:
        groups[key] += _prepared(segments, pad, cutoff, side)
    return {key: _stacked(found, side) for key, found in groups.items() if found}


def _stacked(segments: list[NDArray[Any]], side: int) -> NDArray[Any]:
    if not segments:
        return np.empty((0, side, side), np.int64)
    if len({segment.shape for segment in segments}) == 1:
        return np.stack(segments)
    ragged = np.empty(len(segments), object)
    ragged[:] = segments
    return ragged
