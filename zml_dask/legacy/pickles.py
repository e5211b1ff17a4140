"""``images_<id>.pkl``: a dict of path -> list of int64 arrays, written as a stream of opcodes.

To pickle a dict, the whole record would have to be in memory, at 51,200 bytes per image. Opcodes
build a dict one item at a time, so that the same pickle can be written file by file. The bytes
depend only on the content. Protocol 3 and the module paths of NumPy 1 are read by every Python 3
and NumPy. No code in a pickle is run when it is read.
"""

from __future__ import annotations

import os
import pickle
from functools import cache
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from zml_dask.legacy.legacy_record import MAX_PIXELS, SEGMENT_DTYPE, LegacyFile, Segments
from zml_dask.legacy.sources import LegacyFileError
from zml_dask.raster.images import Images
from zml_dask.safe_pickle import ArrayHook, load

_PROTOCOL = 3
_AT_ONCE = 64
"""Segments written at once: 3.3 MB at 80 by 80."""

_MANY_PARTS = 512
"""Half of the parts that POSIX systems accept in one call."""

_TAIL = pickle.TUPLE + pickle.BUILD
"""The opcodes after the pixels of an array."""

_RECONSTRUCT, _ARGUMENTS, _DTYPE = 0, 1, 2
"""Positions of what every array needs in the unpickler's memo."""


class PickleWriter:
    """Writes one record's images to a new pickle; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._waiting: list[bytes | memoryview] = [_prologue()]
        self._pixels: NDArray[np.int64] = np.empty((0, 0, 0), SEGMENT_DTYPE)

    def add(self, file: LegacyFile) -> None:
        """Write a file's segments; files that are not text are left out."""
        if file.images is None or file.n_lines is None:
            return
        self._waiting.append(_text(file.path) + pickle.EMPTY_LIST)
        if len(file.images):
            self._waiting.append(pickle.MARK)
            for start in range(0, len(file.images), _AT_ONCE):
                stop = start + _AT_ONCE
                self._add_segments(file.images[start:stop], file.n_lines[start:stop].tolist())
            self._waiting.append(pickle.APPENDS)
        self._waiting.append(pickle.SETITEM)
        if len(self._waiting) > _MANY_PARTS:  # many empty files
            self._flush()

    def _add_segments(self, images: Images, n_lines: list[int]) -> None:
        # All segments are widened by one call and written by another; a call for each segment
        # takes half as much time again.
        if self._pixels.shape[1:] != images.shape[1:]:
            self._pixels = np.empty((_AT_ONCE, *images.shape[1:]), SEGMENT_DTYPE)
        self._pixels[: len(images)] = images
        for pixels, lines in zip(self._pixels, n_lines, strict=False):
            segment = pixels[:lines]
            self._waiting += (_array_head(*segment.shape), segment.data.cast("B"), _TAIL)
        self._flush()

    def _flush(self) -> None:
        """Write what is waiting; the system may accept only a part at a time."""
        parts, self._waiting = self._waiting, []
        size = sum(map(len, parts))
        written = os.writev(self._file.fileno(), parts)
        while written < size:
            rest = b"".join(parts)[written:]
            parts, size = [rest], len(rest)
            written = os.writev(self._file.fileno(), parts)

    def close(self) -> None:
        """End the pickle."""
        self._waiting.append(pickle.STOP)
        self._flush()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # without its end, the pickle cannot be taken for a complete one
            self._file.close()


def _prologue() -> bytes:
    """Begin the dict, and put into the memo what every array refers to.

    An array is ``_reconstruct(ndarray, (0,), b"b")`` with a state: version, shape, dtype, Fortran
    order or not, bytes.
    """
    reconstruct = _global("numpy.core.multiarray", "_reconstruct")
    arguments = (
        _global("numpy", "ndarray") + _integer(0) + pickle.TUPLE1 + _bytes_head(1) + b"b"
    ) + pickle.TUPLE3
    dtype = (
        (_global("numpy", "dtype") + _text("i8") + _integer(0) + _integer(1) + pickle.TUPLE3)
        + (pickle.REDUCE + pickle.MARK + _integer(3) + _text("<") + pickle.NONE * 3)
        + (_integer(-1) * 2 + _integer(0) + pickle.TUPLE + pickle.BUILD)
    )
    return (
        (pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_DICT)
        + (reconstruct + _put(_RECONSTRUCT))
        + (arguments + _put(_ARGUMENTS))
        + (dtype + _put(_DTYPE))
    )


@cache
def _array_head(lines: int, width: int) -> bytes:
    """Return the opcodes before the pixels of an array."""
    return (
        (_get(_RECONSTRUCT) + _get(_ARGUMENTS) + pickle.REDUCE + pickle.MARK + _integer(1))
        + (_integer(lines) + _integer(width) + pickle.TUPLE2)
        + (_get(_DTYPE) + pickle.NEWFALSE + _bytes_head(lines * width * SEGMENT_DTYPE.itemsize))
    )


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii")


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _bytes_head(size: int) -> bytes:
    return pickle.BINBYTES + size.to_bytes(4, "little")


def _integer(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def _put(place: int) -> bytes:
    """Store the top of the stack in the memo, and remove it."""
    return pickle.BINPUT + bytes([place]) + pickle.POP


def _get(place: int) -> bytes:
    return pickle.BINGET + bytes([place])


def read_images_pickle(
    stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None
) -> dict[str, Segments]:
    """Read ``images_<id>.pkl``: path -> segments, as they were pickled (int64 in 2018).

    `on_array` and the errors for a pickle that is damaged, or contains more than plain data, are as
    for :func:`zml_dask.safe_pickle.load`. `LegacyFileError` if it contains something else.
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
            if n_again > MAX_PIXELS:
                raise LegacyFileError(
                    f"{name} refers to the same arrays many times, unlike pickles of 2018"
                )
            seen.add(id(segment))
    return {path: list(segments) for path, segments in content.items()}
