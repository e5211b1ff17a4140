"""The outcome of a record, and the result of a build."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zml_dask.errors import RecordError
from zml_dask.store.staging import FailureRow
from zml_dask.store.summary import LeftOut

OutcomeStatus = Literal["staged", "failed", "already"]

_LONGEST_MESSAGE = 500
"""Characters kept of a failure's message: a hostile one may be of any length."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that each step of a record took.

    `fetch`: downloading (or finding in a cache), waiting for the throttle included; `read`: reading
    members, normalising their text, identifying languages, exports; `stage`: sorting, compressing
    and publishing what is staged.
    """

    fetch: float = 0.0
    read: float = 0.0
    stage: float = 0.0

    @property
    def total(self) -> float:
        """Their sum. Fetching overlaps with other records' reading."""
        return self.fetch + self.read + self.stage


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one record.

    ``already`` means that it was staged before, and nothing was done. `bytes` are those of its
    archives, as fetched, and `origin` is where its code came from.
    """

    record_id: int
    status: OutcomeStatus
    n_files: int = 0
    n_images: int = 0
    bytes: int = 0
    timings: Timings = Timings()
    origin: str | None = None
    failure: FailureRow | None = None

    @property
    def seconds(self) -> float:
        """Seconds the record took."""
        return self.timings.total

    def to_json(self) -> dict[str, Any]:
        """Return what the build's log says of the record."""
        row: dict[str, Any] = {
            "record": self.record_id,
            "outcome": self.status,
            "files": self.n_files,
            "images": self.n_images,
            "bytes": self.bytes,
            "origin": self.origin,
            "fetch_s": round(self.timings.fetch, 4),
            "read_s": round(self.timings.read, 4),
            "stage_s": round(self.timings.stage, 4),
        }
        if self.failure is not None:
            row |= {
                "stage": self.failure.stage,
                "kind": self.failure.kind,
                "message": self.failure.message,
                "attempts": self.failure.attempts,
            }
        return row


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build.

    Attributes
    ----------
    dataset : str
        Its folder or URL.
    n_staged, n_failed : int
        Records built and failed in this run.
    failures : mapping of str to int
        Kind of failure -> records of this run.
    n_records, n_files, n_images : int
        In the dataset now.
    left_out : LeftOut
        Files that the dataset lists and does not hold, for their size.
    committed : bool
        Whether this run changed the dataset.
    seconds : float
        Of this run.
    """

    dataset: str
    n_staged: int = 0
    n_failed: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    n_records: int = 0
    n_files: int = 0
    n_images: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    committed: bool = False
    seconds: float = 0.0


def failure_row(record_id: int, error: Exception, attempts: int) -> FailureRow:
    """Turn what went wrong with a record into its row of the failures table.

    A :class:`RecordError` knows its kind, stage and permanence; a lack of memory or of scratch
    space has a kind of its own; anything else is a mistake of ours or of a library: kind
    ``"internal"``, with its type in the message. `attempts` includes this one.

    Examples
    --------
    >>> failure_row(7, ZeroDivisionError("by zero"), 1).message
    'ZeroDivisionError: by zero'
    """
    if isinstance(error, RecordError):
        return FailureRow(
            record_id, error.stage, error.kind, _one_line(str(error)), attempts, error.permanent
        )
    message = _one_line(f"{type(error).__name__}: {error}")
    return FailureRow(record_id, "worker", _kind_of(error), message, attempts, False)


def _kind_of(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    return "internal"


def _one_line(message: str) -> str:
    """Return a message on one line of bounded length."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…"
