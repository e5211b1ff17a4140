"""Reading pickles of the first edition without running anything that they say.

A pickle is a program: it names functions and calls them. This reader interprets
it with NumPy's and Python's own constructors replaced by a short list of checked
ones, and refuses everything else. It admits what the 2018 dataset holds:

- plain containers, numbers, text and bytes, as any Python from 2 on wrote them;
- NumPy arrays, dtypes and scalars of numbers, truth values, text or bytes, by
  the module paths of NumPy 1 and of NumPy 2;
- objects of the tree class of 2018 (package ``containertree``), as inert data.

What an opcode announces is not believed: bytes are read in pieces as far as there
are any, what is made of them is counted, and nothing is a key whose hash takes
longer than it is long. So reading costs in proportion to the pickle's own size.
Going through what was read may not: a pickle names one thing as often as it likes.
Whoever follows each name sets a bound, by :func:`within` for instance.
"""

from __future__ import annotations

from zml_dask.safe_pickle.constructors import InertObject
from zml_dask.safe_pickle.errors import (
    DamagedPickleError,
    ForbiddenPickleError,
    UnsafePickleError,
)
from zml_dask.safe_pickle.extent import within
from zml_dask.safe_pickle.interpreter import ArrayHook
from zml_dask.safe_pickle.reading import load, loads

__all__ = [
    "ArrayHook",
    "DamagedPickleError",
    "ForbiddenPickleError",
    "InertObject",
    "UnsafePickleError",
    "load",
    "loads",
    "within",
]
