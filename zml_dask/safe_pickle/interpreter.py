"""The interpreter of a pickle's opcodes, of which nothing reaches beyond plain data."""

# ruff: noqa: D102 - each method is the opcode, or the hook of the library, that it is named after

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zml_dask.safe_pickle import arrays
from zml_dask.safe_pickle.constructors import (
    ADMITTED,
    Admitted,
    InertClass,
    InertObject,
    hashable,
)
from zml_dask.safe_pickle.errors import ForbiddenPickleError
from zml_dask.safe_pickle.pieces import Pieces
from zml_dask.text_safety import escape_text

_INERT_PACKAGE = "containertree"

_SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict)
_COPIES, _SPARE = 4, 1 << 20
"""What may be made of a pickle's bytes. Up to protocol 2 an array's elements are text,
then bytes, then an array."""

ArrayHook = Callable[[NDArray[Any]], NDArray[Any]]
"""Given an array that is whole; returns what to keep of it."""


class Unpickler(pickle._Unpickler):  # noqa: SLF001 - see below
    """The standard library's interpreter in Python, its calls and builds replaced.

    The one in C would be faster, but it takes a ``__setstate__`` or ``__dict__``
    of whatever is on its stack, and grows its memo to any index it is told.
    Reading the arrays' bytes dominates here anyway.
    """

    # The interpreter's own, of which the type stubs know nothing.
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def __init__(self, pieces: Pieces, on_array: ArrayHook | None) -> None:
        super().__init__(pieces, encoding="latin-1")
        self.on_array = on_array
        self._pieces = pieces
        self._made = 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        if module.partition(".")[0] == _INERT_PACKAGE:
            return InertClass(f"{module}.{name}")
        raise ForbiddenPickleError(
            f"asks for {escape_text(module[:80])}.{escape_text(name[:80])}, which is not plain data"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenPickleError("refers to objects outside of it")

    def get_extension(self, code: int) -> None:
        raise ForbiddenPickleError("refers to Python's registry of extensions")

    def _construct(self, what: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise ForbiddenPickleError("calls a constructor with arguments that are no tuple")
        if isinstance(what, InertClass):
            return InertObject(what.name, arguments)
        if not isinstance(what, Admitted):
            raise ForbiddenPickleError("calls something that is no constructor")
        self._count(sum(len(part) for part in arguments if isinstance(part, _SIZED)))
        return what.function(*arguments)

    def _count(self, size: int) -> None:
        """Count what is made of bytes that are read once and named many times."""
        self._made += size
        if self._made > _COPIES * self._pieces.n_read + _SPARE:
            raise pickle.UnpicklingError("far more is made of it than there is of it")

    def _instantiate(self, klass: Any, args: Any) -> None:
        # For the opcodes INST and OBJ.
        self.append(self._construct(klass, tuple(args)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._construct(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.append(self._construct(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise ForbiddenPickleError("calls a constructor with named arguments")
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, np.ndarray):
            arrays.fill_array(instance, state)
            self._count(instance.nbytes)
            if self.on_array is not None:
                self._keep_less(instance, state, self.on_array)
        elif isinstance(instance, np.dtype):
            arrays.settle_dtype(instance, state)
        elif isinstance(instance, InertObject):
            instance.state = state
        else:
            raise ForbiddenPickleError(f"changes the state of a {type(instance).__name__}")

    def _keep_less(self, array: NDArray[Any], state: Any, hook: ArrayHook) -> None:
        """Let go of the bytes that an array was made of: the memo holds on to them."""
        less = hook(array)
        arrays.fill_array(array, (1, less.shape, less.dtype, False, less.tobytes()))
        if len(state[-1]) <= 1:
            return  # Python has one b"" and one of each single byte: others are written as it
        for place in [place for place, _ in zip(reversed(self.memo), range(2), strict=False)]:
            if self.memo[place] is state or self.memo[place] is state[-1]:
                self.memo[place] = None

    def _set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ForbiddenPickleError(f"sets items of a {type(target).__name__}")
        target.update(zip(hashable(items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items((self.stack.pop(), value))

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise ForbiddenPickleError(f"adds items to a {type(target).__name__}")
        target.update(hashable(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(hashable(items)))

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
