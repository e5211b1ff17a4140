"""The exceptions of this package.

Each message says what went wrong, where, and what to do about it, on one line. Only
what is caught by name has a class of its own; why a record failed is a
`RecordError.kind` (see `zml_dask.failures`).
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import ClassVar

from zml_dask.failures import FAILURES, Stage


class ZmlError(Exception):
    """Base class of the package's exceptions; the command line prints them as one line."""

    exit_status: ClassVar[int] = 1


class UsageError(ZmlError):
    """Invalid use: a wrong option, path or expression."""

    exit_status: ClassVar[int] = 2


class StorageError(ZmlError):
    """An operation on a storage failed; the record is not at fault."""


class ObjectMissingError(StorageError):
    """A requested object does not exist."""


class DatasetDamagedError(ZmlError):
    """A file of a dataset, or of its staging area, differs from what was written."""


class ClusterError(ZmlError):
    """The cluster failed: it is lost, kills every task, or does not share the storage."""


class LockLostError(ZmlError):
    """Another process took over the dataset's lock, because this one showed no sign of life."""


class RecordError(ZmlError):
    """One record failed. It becomes a row of the failures table, and the build continues.

    `kind` is one of `zml_dask.failures.FAILURES`, which describes stage, permanence and advice.

    Examples
    --------
    >>> error = RecordError("gone", "record 7 was withdrawn")
    >>> str(error), error.stage, error.permanent
    ('record 7 was withdrawn', 'fetch', True)
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])

    @property
    def stage(self) -> Stage:
        """The stage at which the record failed."""
        return FAILURES[self.kind].stage

    @property
    def permanent(self) -> bool:
        """Whether the failure is permanent: trying again cannot fix it."""
        return FAILURES[self.kind].permanent


class NetworkError(RecordError):
    """A request failed; `kind` says why."""


def require(module: str, extra: str, what: str) -> ModuleSpec:
    """Find a module that an extra of this package installs; nothing is imported.

    Raises `UsageError` if it is not there, which says what needs it.

    Examples
    --------
    >>> require("teapot", "kitchen", "tea")
    Traceback (most recent call last):
    zml_dask.errors.UsageError: tea needs teapot; pip install 'zml-dask[kitchen]'
    """
    found = find_spec(module)
    if found is None:
        raise UsageError(f"{what} needs {module}; pip install 'zml-dask[{extra}]'")
    return found
