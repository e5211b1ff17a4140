"""What a pickle may call: constructors of plain data that check what they are given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zml_dask.safe_pickle import arrays
from zml_dask.safe_pickle.errors import ForbiddenPickleError


@dataclass(slots=True)
class InertObject:
    """An object of a class that is not loaded: its name and its data, and no behaviour.

    Attributes
    ----------
    class_name : str
        Module and name, ``"containertree.tree.ContainerFileTree"``.
    arguments : tuple
        What its constructor would have got.
    state : object
        What it held, usually a dict of its attributes.
    """

    class_name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, slots=True)
class InertClass:
    """A class by its name alone."""

    name: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A constructor that a pickle may call; wrapped, so that it cannot be tampered with."""

    function: Callable[..., Any]


def hashable(items: Iterable[Any]) -> Sequence[Any]:
    """Return keys of a dict or elements of a set, none of them a tuple.

    A tuple's hash is that of all that it holds, each time anew: of forty tuples
    that hold the next one twice it takes days. 2018 used none as a key.

    Raises
    ------
    ForbiddenPickleError
    """
    found = list(items)
    if any(isinstance(item, tuple) for item in found):
        raise ForbiddenPickleError("uses a tuple as a key, which no file of 2018 does")
    return found


def _no_arguments(kind: type) -> Admitted:
    return Admitted(lambda: kind())


def _encode(text: str, encoding: str = "latin-1") -> bytes:
    # How protocols before 3 write bytes.
    if encoding.replace("-", "").lower() != "latin1":
        raise ValueError(f"bytes are written with encoding {encoding!r}, not latin-1")
    return text.encode("latin-1")


def _bytes(data: bytes | list[int] | str = b"", encoding: str = "latin-1") -> bytes:
    if isinstance(data, str):
        return _encode(data, encoding)
    if not isinstance(data, bytes | bytearray | list):  # bytes(10**12) is a lot of zeros
        raise ValueError("bytes are made from neither bytes nor a list")  # noqa: TRY004 - one type for whatever is wrong with a pickle
    return bytes(data)


def _inert_object(kind: Any, base: Any, state: Any) -> InertObject:
    if not isinstance(kind, InertClass) or base is not object or state is not None:
        raise ValueError("an object is built in a way that no 2018 file knows")
    return InertObject(kind.name)


_BUILTINS: dict[str, Any] = {
    "bytearray": Admitted(lambda *parts: bytearray(_bytes(*parts))),
    "bytes": Admitted(_bytes),
    "complex": Admitted(complex),
    "dict": _no_arguments(dict),
    "frozenset": Admitted(lambda items=(): frozenset(hashable(items))),
    "list": _no_arguments(list),
    "object": object,
    "set": Admitted(lambda items=(): set(hashable(items))),
}

ADMITTED: dict[tuple[str, str], Any] = {
    **{
        (module, name): what
        for module in ("builtins", "__builtin__")
        for name, what in _BUILTINS.items()
    },
    ("_codecs", "encode"): Admitted(_encode),
    ("collections", "OrderedDict"): _no_arguments(OrderedDict),
    ("copy_reg", "_reconstructor"): Admitted(_inert_object),
    ("copyreg", "_reconstructor"): Admitted(_inert_object),
    ("numpy", "dtype"): Admitted(arrays.plain_dtype),
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.{module}", name): Admitted(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", arrays.empty_array),
            ("multiarray", "scalar", arrays.numpy_scalar),
            ("numeric", "_frombuffer", arrays.array_from_buffer),
        )
    },
}
