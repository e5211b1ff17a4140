"""Why a pickle was not read."""

from __future__ import annotations

from zml_dask.errors import ZmlError


class UnsafePickleError(ZmlError):
    """A pickle was not read: it asks for more than plain data, or is damaged."""


class ForbiddenPickleError(UnsafePickleError):
    """The pickle asks for something that is not plain data; nothing of it was run."""


class DamagedPickleError(UnsafePickleError):
    """The pickle is cut short, garbled, or no pickle at all."""
