"""The roots of every exception this package raises on purpose.

Each room derives its own types from these, one per kind of failure, and each
message says what went wrong, where, and what to do about it, on one line.
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


class ClusterError(ZmlError):
    """The cluster failed: it is lost, kills every task, or does not share the storage."""


class LockedError(ZmlError):
    """Another process works on the same dataset."""


class LockLostError(ZmlError):
    """Another process took the dataset's lock over, since this one showed no sign of life."""


class RecordError(ZmlError):
    """One record could not be had. It becomes a row of the failures table; the build goes on.

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

    kind: str = "network"

    def __init__(self, *kind_and_message: str) -> None:
        super().__init__(*kind_and_message)
        if len(kind_and_message) == 2:
            self.kind = kind_and_message[0]

    def __str__(self) -> str:
        return str(self.args[-1])

    @property
    def stage(self) -> Stage:
        """Where on its way the record failed."""
        return FAILURES[self.kind].stage

    @property
    def permanent(self) -> bool:
        """Whether trying again later is pointless."""
        return FAILURES[self.kind].permanent
