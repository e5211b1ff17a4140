"""The roots of every exception this package raises on purpose.

Each room derives its own types from these, one per kind of failure, and each
message says what went wrong, where, and what to do about it, on one line.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Stage = Literal["catalogue", "fetch", "archive", "raster", "stage", "export", "worker"]
"""Where on its way a record failed; a column of the failures table."""


class ZmlError(Exception):
    """Root of the package's exceptions; the command line prints it as one line."""

    exit_status: ClassVar[int] = 1


class UsageError(ZmlError):
    """The caller asked for something that cannot be: a wrong option, path or expression."""

    exit_status: ClassVar[int] = 2


class RecordError(ZmlError):
    """One record could not be had. It becomes a row of the failures table; the build goes on.

    Attributes
    ----------
    kind : str
        A short, stable name of the failure (``"not_found"``, ``"checksum"``).
    stage : Stage
        Where on its way the record failed.
    permanent : bool
        Whether trying again later is pointless; such a record is only tried
        again with ``--retry-failed``.
    """

    kind: ClassVar[str] = "error"
    stage: ClassVar[Stage] = "fetch"
    permanent: ClassVar[bool] = False
