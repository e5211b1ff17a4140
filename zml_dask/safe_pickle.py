"""Reading pickles of the first edition without running anything that they say.

A pickle is a program: it names functions and calls them. This reader interprets
it with NumPy's and Python's own constructors replaced by a short list of checked
ones, and refuses everything else. It admits what the 2018 dataset holds:

- plain containers, numbers, text and bytes, as any Python from 2 on wrote them;
- NumPy arrays, dtypes and scalars of numbers, truth values, text or bytes, by
  the module paths of NumPy 1 and of NumPy 2;
- objects of the tree class of 2018 (package ``containertree``), as inert data.

Memory: what an opcode announces is not believed; bytes are read in pieces as far
as there are any, so that a pickle costs in proportion to its own size.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zml_dask import safe_arrays
from zml_dask.errors import ZmlError
from zml_dask.safe_constructors import ADMITTED, Admitted, InertClass, InertObject

_PIECE = 1 << 20
_INERT_PACKAGE = "containertree"

__all__ = [
    "DamagedPickleError",
    "ForbiddenPickleError",
    "InertObject",
    "UnsafePickleError",
    "load",
    "loads",
]

ArrayHook = Callable[[NDArray[Any]], NDArray[Any]]


class UnsafePickleError(ZmlError):
    """A pickle was not read: it asks for more than plain data, or is damaged."""


class ForbiddenPickleError(UnsafePickleError):
    """The pickle asks for something that is not plain data; nothing of it was run."""


class DamagedPickleError(UnsafePickleError):
    """The pickle is cut short, garbled, or no pickle at all."""


def load(stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None) -> Any:
    r"""Read one pickle of plain data.

    Parameters
    ----------
    stream : binary file
    name : str
        What to call it in messages.
    on_array : callable, optional
        Called with each array once it is whole, and returns what to keep of it
        (a smaller type, say): then a record's arrays are never in memory in full.

    Raises
    ------
    ForbiddenPickleError
        Where the pickle asks for anything but plain data. Nothing was run.
    DamagedPickleError
        Where it cannot be read.

    Examples
    --------
    >>> load(io.BytesIO(pickle.dumps({"a": [1, 2.5, None, (b"c", {"d"})]})))
    {'a': [1, 2.5, None, (b'c', {'d'})]}
    >>> try:
    ...     load(io.BytesIO(b"cos\nsystem\n(S'ls'\ntR."))
    ... except ForbiddenPickleError as error:
    ...     print(error)
    the pickle asks for os.system, which is not plain data; nothing of it was run
    """
    unpickler = _Unpickler(_Pieces(stream), encoding="latin-1")
    unpickler.on_array = on_array
    try:
        return unpickler.load()
    except ForbiddenPickleError as error:
        raise ForbiddenPickleError(f"{name} {error}; nothing of it was run") from None
    except (pickle.UnpicklingError, *_WHAT_BAD_PICKLES_RAISE) as error:
        what = str(error).encode("unicode_escape").decode("ascii")[:200] or type(error).__name__
        raise DamagedPickleError(f"{name} cannot be read as a pickle: {what}") from error


def loads(data: bytes) -> Any:
    """Read one pickle of plain data from bytes; see :func:`load`."""
    return load(io.BytesIO(data))


# The interpreter is the standard library's, and what it raises over nonsense is
# whatever the nonsense led to. All of it happens among plain data.
_WHAT_BAD_PICKLES_RAISE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _Pieces:
    """A stream that is read in pieces, so that only bytes that are there take memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.readline = stream.readline

    def read(self, size: int) -> bytes:
        if size <= _PIECE:
            return self._stream.read(size)
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._stream.read(min(_PIECE, size - len(pieces)))
            if not piece:
                raise EOFError(f"{size:,} bytes are announced, {len(pieces):,} are there")
            pieces += piece
        return bytes(pieces)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - see below
    """The standard library's interpreter in Python, its calls and builds replaced.

    The one in C would be faster, but it takes a ``__setstate__`` or ``__dict__``
    of whatever is on its stack, and grows its memo to any index it is told.
    Reading the arrays' bytes dominates here anyway.
    """

    on_array: ArrayHook | None = None
    # The interpreter's own, of which the type stubs know nothing.
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        if module.partition(".")[0] == _INERT_PACKAGE:
            return InertClass(f"{module}.{name}")
        raise ForbiddenPickleError(
            f"asks for {_shown(module)}.{_shown(name)}, which is not plain data"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenPickleError("refers to objects outside of it")

    def get_extension(self, code: int) -> None:
        raise ForbiddenPickleError("refers to Python's registry of extensions")

    def _construct(self, what: Any, arguments: Any) -> Any:
        if isinstance(what, InertClass):
            return InertObject(what.name, tuple(arguments))
        if not isinstance(what, Admitted):
            raise ForbiddenPickleError("calls something that is no constructor")
        return what.function(*arguments)

    def _instantiate(self, klass: Any, args: Any) -> None:
        # For the opcodes INST and OBJ.
        self.append(self._construct(klass, args))

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
            safe_arrays.fill_array(instance, state)
            if self.on_array is not None:
                self._keep_less(instance, state, self.on_array)
        elif isinstance(instance, np.dtype):
            safe_arrays.settle_dtype(instance, state)
        elif isinstance(instance, InertObject):
            instance.state = state
        else:
            raise ForbiddenPickleError(f"changes the state of a {type(instance).__name__}")

    def _keep_less(self, array: NDArray[Any], state: Any, hook: ArrayHook) -> None:
        """Let go of the bytes that an array was made of: the memo holds on to them."""
        less = hook(array)
        safe_arrays.fill_array(array, (1, less.shape, less.dtype, False, less.tobytes()))
        for place in [place for place, _ in zip(reversed(self.memo), range(2), strict=False)]:
            if self.memo[place] is state or self.memo[place] is state[-1]:
                self.memo[place] = None

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _shown(name: str) -> str:
    """Return a name from a hostile file fit for a terminal and one line."""
    return name[:80].encode("unicode_escape").decode("ascii")
