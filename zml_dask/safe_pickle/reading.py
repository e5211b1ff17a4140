"""One pickle, from a stream that may be cut short, hostile or no pickle at all."""

from __future__ import annotations

import io
import pickle
import struct
from typing import IO, Any

from zml_dask.safe_pickle.errors import DamagedPickleError, ForbiddenPickleError
from zml_dask.safe_pickle.interpreter import ArrayHook, Unpickler
from zml_dask.safe_pickle.pieces import Pieces


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
    MemoryError
        Where a sound pickle holds more than there is room for.

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
    unpickler = Unpickler(Pieces(stream), on_array)
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
    NameError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
