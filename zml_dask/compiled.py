"""Compiled functions, cached on disk where possible."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function at its first call; it runs without the interpreter's lock.

    Numba keeps what it compiled beside the source or in the user's home. Where neither may
    be written (a module of the site, a container, a service without a home), it is kept in
    a folder of the user's own among the temporary files, and where that cannot be either,
    each process compiles for itself, which takes some seconds.

    Examples
    --------
    >>> @compiled
    ... def double(number):
    ...     return 2 * number
    >>> double(21)
    42
    """
    with suppress(RuntimeError):  # "no locator available"
        return _jit(function, cache=True)
    folder = _private_folder()
    if folder is not None and Path(function.__code__.co_filename).is_file():
        vars(config)["CACHE_DIR"] = str(folder)
        with suppress(RuntimeError):
            return _jit(function, cache=True)
    return _jit(function, cache=False)


def _jit(function: Function, *, cache: bool) -> Function:
    return cast("Function", njit(cache=cache, nogil=True)(function))


def _private_folder() -> Path | None:
    """Return a folder that nobody else can write to, since its content will be run."""
    try:
        folder = Path(tempfile.gettempdir()) / f"zml-compiled-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if mine and stat.S_IMODE(found.st_mode) == 0o700 else None
