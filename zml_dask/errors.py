"""The exceptions of this package.

Each message says what went wrong, where, and what to do about it, on one line. Only
what is caught by name has a class of its own; why a record failed is a
`RecordError.kind` (see `zml_dask.failures`).
"""

from __future__ import annotations

from typing import ClassVar

from zml_dask.failures import FAILURES
from zml_dask.failures import Stage as Stage


class ZmlError(Exception):
    """Root of the package's exceptions; the command line prints it as one line."""

    exit_status: ClassVar[int] = 1


class UsageError(ZmlError):
    """The caller asked for something that cannot be: a wrong option, path or expression."""

    exit_status: ClassVar[int] = 2


class StorageError(ZmlError):
    """An operation on a storage failed: no fault of a record."""


class ObjectMissingError(StorageError):
    """An object that was asked for is not there."""


class DatasetDamagedError(ZmlError):
    """A file of a dataset, or of its staging area, is not what was written."""


class ClusterError(ZmlError):
    """The cluster failed: it is lost, kills every task, or does not share the storage."""


class LockLostError(ZmlError):
    """Another process took the dataset's lock over, since this one showed no sign of life."""


class RecordError(ZmlError):
    """One record failed. It becomes a row of the failures table; the build goes on.

    Parameters
    ----------
    kind : str
        One of `zml_dask.failures.FAILURES`, which says the rest.
    message : str

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
        """Where on its way the record failed."""
        return FAILURES[self.kind].stage

    @property
    def permanent(self) -> bool:
        """Whether trying again later is pointless."""
        return FAILURES[self.kind].permanent


class NetworkError(RecordError):
    """A request failed; its kind says how."""
