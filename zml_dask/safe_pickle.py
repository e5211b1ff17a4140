"""Reading pickles of the legacy (2018) dataset without running any of their code.

A pickle is a program: it names functions and calls them. This reader interprets
it with NumPy's and Python's own constructors replaced by a short list of checked
ones, and refuses everything else. It admits what the 2018 dataset holds:

- plain containers, numbers, text and bytes, as any Python from 2 on wrote them;
- NumPy arrays, dtypes and scalars of numbers, truth values, text or bytes, by
  the module paths of NumPy 1 and of NumPy 2;
- objects of the tree class of 2018 (package ``containertree``), as inert data.

The sizes that opcodes announce are not trusted: bytes are read in pieces as far as
there are any, what is made of them is counted, and keys whose hash takes long are
refused. So the cost of reading is proportional to the size of the pickle. The cost of
going through the result may not be, since a pickle may name one value many times:
:func:`within` sets a bound.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import ZmlError
from zml_dask.text_safety import escape_text


class ForbiddenPickleError(ZmlError):
    """The pickle asks for something that is not plain data; nothing of it was run."""


class DamagedPickleError(ZmlError):
    """The pickle is cut short, garbled, or no pickle at all."""


_VALUE = 16
"""About how many bytes a value takes beside its characters."""


def within(value: Any, limit: int) -> bool:
    """Whether plain data would stay within a limit if it were written out, as JSON for instance.

    A pickle can name a value many times at hardly any cost. A few hundred bytes of lists that each
    hold the next one twice come to more than any memory, and a list that holds itself is endless.
    `limit` is in bytes, roughly: the characters of texts, and 16 for each value.

    Examples
    --------
    >>> shared = ["x" * 10] * 10
    >>> within([shared] * 10, 10_000), within([shared] * 100, 10_000)
    (True, False)
    """
    spent = _VALUE
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            spent += 2 * _VALUE * len(item)
        elif isinstance(item, list | tuple | set | frozenset):
            spent += _VALUE * len(item)
        elif isinstance(item, str | bytes | bytearray):
            spent += len(item)
        if spent > limit:
            return False
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
    return True


_PIECE = 1 << 20


class _Pieces:
    """A stream that is read in pieces, so that only bytes that exist take memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.n_read = 0

    def read(self, size: int) -> bytes:
        if size <= _PIECE:
            return self._counted(self._stream.read(size))
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._counted(self._stream.read(min(_PIECE, size - len(pieces))))
            if not piece:
                raise EOFError(f"{size:,} bytes are announced, {len(pieces):,} are there")
            pieces += piece
        return bytes(pieces)

    def readline(self) -> bytes:
        return self._counted(self._stream.readline())

    def _counted(self, data: bytes) -> bytes:
        self.n_read += len(data)
        return data


_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU][1-9][0-9]{0,5}|\?)")
_MAX_EMPTY_SIDE = 65_535


# What stands in for NumPy's constructors. Each raises ValueError for whatever is wrong:
# `load` says that the pickle is damaged.


def _plain_dtype(description: Any, *_: Any) -> np.dtype[Any]:
    """Return a dtype of numbers, truth values, text or bytes, for `_set_byte_order` to change."""
    if isinstance(description, bytes):
        description = description.decode("ascii")
    if not isinstance(description, str) or not _PLAIN_DTYPE.fullmatch(description):
        # Only text is shown: that of a foreign object may have no end.
        shown = description[:40] if isinstance(description, str) else type(description).__name__
        raise ValueError(f"dtype {shown!r} is not of plain data")
    return np.dtype(description, copy=True)


def _set_byte_order(dtype: np.dtype[Any], state: Any) -> None:
    """Give a dtype the byte order of its pickled state, which must hold nothing else."""
    version, order, *rest = state
    order = order.decode("ascii") if isinstance(order, bytes) else order
    if version != 3 or order not in ("<", ">", "=", "|") or any(part for part in rest[:3]):
        raise ValueError("a dtype's state holds more than a byte order")
    sizes = (-1, -1) if dtype.kind in "?biufc" else (dtype.itemsize, dtype.alignment)
    # NumPy gives back exactly this for plain types; what the pickle said is not passed on.
    set_state: Callable[[tuple[Any, ...]], None] = dtype.__setstate__  # type: ignore[attr-defined]
    set_state((3, order, None, None, None, *sizes, 0))


def _empty_array(kind: Any, shape: Any, _typecode: Any) -> NDArray[Any]:
    """Return the empty array that a pickled array begins as; `_fill_array` fills it."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("an array does not begin as a plain, empty one")
    return np.empty(0, np.int8)


def _fill_array(array: NDArray[Any], state: Any) -> None:
    """Give an array the shape, type and elements of its pickled state."""
    version, shape, dtype, fortran, data = state
    if version != 1:
        raise ValueError("arrays of another pickle version than 1 are not known")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    _check_elements(raw, dtype, shape)
    set_state: Callable[[tuple[Any, ...]], None] = array.__setstate__
    set_state((1, shape, dtype, bool(fortran), bytes(raw)))


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Return an array as pickle protocol 5 writes it."""
    _check_elements(data, dtype, shape)
    return np.frombuffer(bytes(data), dtype).reshape(shape, order="F" if order == "F" else "C")


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    _check_elements(raw, dtype, ())
    return np.frombuffer(raw, dtype)[0]


def _check_elements(data: Any, dtype: Any, shape: Any) -> None:
    """Check that `data` is what an array of `shape` and `dtype` needs."""
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


@dataclass(slots=True)
class InertObject:
    """An object of a class that is not loaded: its name and its data, and no behaviour."""

    class_name: str  # module and name, "containertree.tree.ContainerFileTree"
    arguments: tuple[Any, ...] = ()  # of its constructor
    state: Any = None  # usually a dict of its attributes


@dataclass(frozen=True, slots=True)
class _InertClass:
    """A class that is not loaded."""

    name: str


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A constructor that a pickle may call; wrapped, so that it cannot be tampered with."""

    function: Callable[..., Any]


def _keys(items: Iterable[Any]) -> Sequence[Any]:
    """Return keys of a dict or elements of a set, none of them a tuple.

    The hash of a tuple is calculated anew from all that it holds: of forty tuples
    that each hold the next one twice it takes days. 2018 used none as a key.
    """
    found = list(items)
    if any(isinstance(item, tuple) for item in found):
        raise ForbiddenPickleError("uses a tuple as a key, which no file of 2018 does")
    return found


def _without_arguments(kind: type) -> _Admitted:
    return _Admitted(lambda: kind())


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
    if not isinstance(kind, _InertClass) or base is not object or state is not None:
        raise ValueError("an object is built in a way that no 2018 file knows")
    return InertObject(kind.name)


_BUILTINS: dict[str, Any] = {
    "bytearray": _Admitted(lambda *parts: bytearray(_bytes(*parts))),
    "bytes": _Admitted(_bytes),
    "complex": _Admitted(complex),
    "dict": _without_arguments(dict),
    "frozenset": _Admitted(lambda items=(): frozenset(_keys(items))),
    "list": _without_arguments(list),
    "object": object,
    "set": _Admitted(lambda items=(): set(_keys(items))),
}

_ADMITTED: dict[tuple[str, str], Any] = {
    **{
        (module, name): what
        for module in ("builtins", "__builtin__")
        for name, what in _BUILTINS.items()
    },
    ("_codecs", "encode"): _Admitted(_encode),
    ("collections", "OrderedDict"): _without_arguments(OrderedDict),
    ("copy_reg", "_reconstructor"): _Admitted(_inert_object),
    ("copyreg", "_reconstructor"): _Admitted(_inert_object),
    ("numpy", "dtype"): _Admitted(_plain_dtype),
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.{module}", name): _Admitted(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _numpy_scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


_INERT_PACKAGE = "containertree"

_SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict)
_COPIES, _SPARE = 4, 1 << 20
"""What may be made of a pickle's bytes. Up to protocol 2 an array's elements are text,
then bytes, then an array."""

ArrayHook = Callable[[NDArray[Any]], NDArray[Any]]
"""Given an array that is whole; returns what to keep of it."""


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - see below
    """The standard library's interpreter in Python, its calls and builds replaced.

    The one in C would be faster, but it takes a ``__setstate__`` or ``__dict__``
    of whatever is on its stack, and grows its memo to any index it is given.
    Reading the arrays' bytes dominates here anyway.
    """

    # The interpreter's own, of which the type stubs know nothing.
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def __init__(self, pieces: _Pieces, on_array: ArrayHook | None) -> None:
        super().__init__(pieces, encoding="latin-1")
        self.on_array = on_array
        self._pieces = pieces
        self._made = 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if module.partition(".")[0] == _INERT_PACKAGE:
            return _InertClass(f"{module}.{name}")
        raise ForbiddenPickleError(
            f"asks for {escape_text(module[:80])}.{escape_text(name[:80])}, which is not plain data"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenPickleError("refers to objects outside of it")

    def get_extension(self, code: int) -> None:
        raise ForbiddenPickleError("refers to Python's registry of extensions")

    def _construct(self, what: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise ForbiddenPickleError("calls a constructor with arguments that are not a tuple")
        if isinstance(what, _InertClass):
            return InertObject(what.name, arguments)
        if not isinstance(what, _Admitted):
            raise ForbiddenPickleError("calls something that is not a constructor")
        self._count(sum(len(part) for part in arguments if isinstance(part, _SIZED)))
        return what.function(*arguments)

    def _count(self, size: int) -> None:
        """Count what is made of bytes that are read once and named many times."""
        self._made += size
        if self._made > _COPIES * self._pieces.n_read + _SPARE:
            raise pickle.UnpicklingError("it makes far more than it holds")

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
            _fill_array(instance, state)
            self._count(instance.nbytes)
            if self.on_array is not None:
                self._keep_less(instance, state, self.on_array)
        elif isinstance(instance, np.dtype):
            _set_byte_order(instance, state)
        elif isinstance(instance, InertObject):
            instance.state = state
        else:
            raise ForbiddenPickleError(f"changes the state of a {type(instance).__name__}")

    def _keep_less(self, array: NDArray[Any], state: Any, hook: ArrayHook) -> None:
        """Replace an array by what the hook keeps, and release its bytes from the memo."""
        less = hook(array)
        _fill_array(array, (1, less.shape, less.dtype, False, less.tobytes()))
        if len(state[-1]) <= 1:
            return  # Python has one b"" and one of each single byte: others are written as it
        for place in [place for place, _ in zip(reversed(self.memo), range(2), strict=False)]:
            if self.memo[place] is state or self.memo[place] is state[-1]:
                self.memo[place] = None

    def _set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ForbiddenPickleError(f"sets items of a {type(target).__name__}")
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))

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
        target.update(_keys(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(_keys(items)))

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


def load(stream: IO[bytes], *, name: str = "the pickle", on_array: ArrayHook | None = None) -> Any:
    r"""Read one pickle of plain data; `name` is what messages call it.

    `on_array` is called with each array once it is whole, and returns what to keep of it (a smaller
    type, say): then a record's arrays are never in memory in full.

    Raises `ForbiddenPickleError` if the pickle asks for anything but plain data (nothing was run),
    `DamagedPickleError` if it cannot be read, and `MemoryError` if it is sound and needs more
    memory than there is.

    Examples
    --------
    >>> import io
    >>> load(io.BytesIO(pickle.dumps({"a": [1, 2.5, None, (b"c", {"d"})]})))
    {'a': [1, 2.5, None, (b'c', {'d'})]}
    >>> try:
    ...     load(io.BytesIO(b"cos\nsystem\n(S'ls'\ntR."))
    ... except ForbiddenPickleError as error:
    ...     print(error)
    the pickle asks for os.system, which is not plain data; nothing of it was run
    """
    unpickler = _Unpickler(_Pieces(stream), on_array)
    try:
        return unpickler.load()
    except ForbiddenPickleError as error:
        raise ForbiddenPickleError(f"{name} {error}; nothing of it was run") from None
    except (pickle.UnpicklingError, *_WHAT_BAD_PICKLES_RAISE) as error:
        what = escape_text(str(error))[:200] or type(error).__name__
        raise DamagedPickleError(f"{name} cannot be read as a pickle: {what}") from error


# What the interpreter of the standard library raises for nonsense depends on the nonsense.
_WHAT_BAD_PICKLES_RAISE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NameError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
