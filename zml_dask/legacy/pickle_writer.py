"""``images_<id>.pkl``: a dict of path -> list of int64 arrays, written as a stream of opcodes.

Pickling a dict needs the whole record in memory at 51,200 bytes an image. The
same pickle can be written file by file, since a dict is built by its opcodes
one item at a time; and as nothing depends on the identity of objects, the bytes
depend on the content alone. Protocol 3 and NumPy 1's module paths, which every
Python 3 and every NumPy reads.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import TracebackType
from typing import Self

from zml_dask.legacy.record import SEGMENT_DTYPE, LegacyFile

_PROTOCOL = 3
_RECONSTRUCT, _ARGUMENTS, _DTYPE = 0, 1, 2
"""Places in the unpickler's memo of what every array needs."""


class PickleWriter:
    """Writes one record's images to a pickle; a context manager.

    Parameters
    ----------
    path : pathlib.Path
        Replaced where it exists.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._stream.write(_prologue())
        self._heads: dict[tuple[int, ...], bytes] = {}

    def add(self, file: LegacyFile) -> None:
        """Write the file's segments; one that is not text is passed over."""
        if file.images is None:
            return
        write = self._stream.write
        write(_text(file.path) + pickle.EMPTY_LIST)
        empty = True
        for segment in file.segments():
            if empty:
                write(pickle.MARK)
                empty = False
            write(self._head(segment.shape))
            write(segment.astype(SEGMENT_DTYPE).data)
            write(pickle.TUPLE + pickle.BUILD)
        if not empty:
            write(pickle.APPENDS)
        write(pickle.SETITEM)

    def _head(self, shape: tuple[int, ...]) -> bytes:
        """Return the opcodes that stand before the pixels of an array of `shape`."""
        if shape not in self._heads:
            self._heads[shape] = _array_head(shape)
        return self._heads[shape]

    def close(self) -> None:
        """End the pickle."""
        self._stream.write(pickle.STOP)
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:  # an unended pickle is not mistaken for a whole one
            self._stream.close()


def _prologue() -> bytes:
    """Open the dict, and leave in the memo what every array refers to.

    An array is ``_reconstruct(ndarray, (0,), b"b")`` and then a state: version,
    shape, dtype, whether in Fortran order, bytes.
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


def _array_head(shape: tuple[int, ...]) -> bytes:
    """Return the opcodes of an array up to its bytes."""
    lines, width = shape
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
    """Remember the top of the stack, and take it off."""
    return pickle.BINPUT + bytes([place]) + pickle.POP


def _get(place: int) -> bytes:
    return pickle.BINGET + bytes([place])
