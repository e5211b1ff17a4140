"""NumPy arrays, dtypes and scalars from what a pickle says of them, checked.

NumPy's own functions for this trust their arguments, and some of what they may
be told never ends well. Here every part is looked at first: only numbers, truth
values, text and bytes, and no more elements than there are bytes for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU][1-9][0-9]{0,5}|\?)")
_MAX_EMPTY_SIDE = 65_535


def plain_dtype(description: Any, *_: Any) -> np.dtype[Any]:
    """Return a dtype of its own, which :func:`settle_dtype` may change.

    Raises
    ------
    ValueError
        For anything but numbers, truth values, text and bytes.
    """
    if isinstance(description, bytes):
        description = description.decode("ascii")
    if not isinstance(description, str) or not _PLAIN_DTYPE.fullmatch(description):
        # Only text is shown: that of a foreign object may have no end.
        shown = description[:40] if isinstance(description, str) else type(description).__name__
        raise ValueError(f"dtype {shown!r} is not of plain data")
    return np.dtype(description, copy=True)


def settle_dtype(dtype: np.dtype[Any], state: Any) -> None:
    """Give a dtype the byte order that its pickled state names.

    Raises
    ------
    ValueError
        Where the state holds more than that: fields, subarrays, metadata.
    """
    version, order, *rest = state
    order = order.decode("ascii") if isinstance(order, bytes) else order
    if version != 3 or order not in ("<", ">", "=", "|") or any(part for part in rest[:3]):
        raise ValueError("a dtype's state holds more than a byte order")
    sizes = (-1, -1) if dtype.kind in "?biufc" else (dtype.itemsize, dtype.alignment)
    # NumPy gives back exactly this for plain types; what the pickle said is not passed on.
    set_state: Callable[[tuple[Any, ...]], None] = dtype.__setstate__  # type: ignore[attr-defined]
    set_state((3, order, None, None, None, *sizes, 0))


def empty_array(kind: Any, shape: Any, _typecode: Any) -> NDArray[Any]:
    """Return the empty array that a pickle begins with; :func:`fill_array` fills it.

    Returns
    -------
    numpy.ndarray of int8, shape (0,)

    Raises
    ------
    ValueError
        Where it is to begin as anything else.
    """
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("an array does not begin as a plain, empty one")
    return np.empty(0, np.int8)


def fill_array(array: NDArray[Any], state: Any) -> None:
    """Give an array the shape, type and elements of its pickled state.

    Raises
    ------
    ValueError
        Where the elements do not fit the shape and the type, or these are not of plain data.
    """
    version, shape, dtype, fortran, data = state
    if version != 1:
        raise ValueError("arrays of another pickle version than 1 are not known")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    _check(raw, dtype, shape)
    set_state: Callable[[tuple[Any, ...]], None] = array.__setstate__
    set_state((1, shape, dtype, bool(fortran), bytes(raw)))


def array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Return an array as pickle protocol 5 writes it.

    Raises
    ------
    ValueError
        As :func:`fill_array`.
    """
    _check(data, dtype, shape)
    return np.frombuffer(bytes(data), dtype).reshape(shape, order="F" if order == "F" else "C")


def numpy_scalar(dtype: Any, data: Any) -> Any:
    """Return a NumPy scalar.

    Raises
    ------
    ValueError
        As :func:`fill_array`.
    """
    raw = data.encode("latin-1") if isinstance(data, str) else data
    _check(raw, dtype, ())
    return np.frombuffer(raw, dtype)[0]


def _check(data: Any, dtype: Any, shape: Any) -> None:
    """Hold that `data` is what an array of `shape` and `dtype` needs.

    Raises
    ------
    ValueError
    """
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.itemsize == 0:
        raise ValueError("an array is not of plain data")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"an array's elements come as {type(data).__name__}, not as bytes")  # noqa: TRY004 - one type for whatever is wrong with a pickle
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array's shape is not of whole numbers")
    if prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data):,} bytes of elements")
    if not data and max(shape, default=0) > _MAX_EMPTY_SIDE:
        raise ValueError(f"an array without elements announces the shape {shape}")
