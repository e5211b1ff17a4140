"""A record of the sandbox, and the tombstone of one that was withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from zml_dask.records.record import AccessStatus
from zml_dask.sandbox.content import Content

_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Why a record is no longer there: its tombstone."""

    reason: str = "retracted"
    note: str = "Withdrawn by its authors"
    date: str = "2025-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class SandboxRecord:
    """One record of the sandbox; everything but its id may be left out.

    Attributes
    ----------
    record_id, concept_id : int
        A concept id of 0 stands for the number before the record's own.
    created : datetime
        Aware, UTC.
    updated : datetime, optional
        Default: when it was created.
    files : mapping
        Key to `Content`.
    related : tuple of (identifier, relation, scheme)
        Relations in DataCite's case, ``isSupplementTo``.
    withdrawal : Withdrawal, optional
        Answered with 410 instead of the record.
    is_latest : bool
        Superseded versions are found only where all versions are asked for.
    """

    record_id: int
    concept_id: int = 0
    created: datetime = _EPOCH
    updated: datetime | None = None
    title: str = ""
    version: str | None = None
    description: str = ""
    license: str | None = None
    keywords: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    resource_type: str = "software"
    repository: str | None = None
    related: tuple[tuple[str, str, str], ...] = ()
    access: AccessStatus = "open"
    files: Mapping[str, Content] = field(default_factory=lambda: MappingProxyType({}))
    withdrawal: Withdrawal | None = None
    is_latest: bool = True

    @property
    def concept(self) -> int:
        """The id that all versions share."""
        return self.concept_id or self.record_id - 1

    @property
    def doi(self) -> str:
        """A DOI under Zenodo's prefix. It resolves to nothing of ours."""
        return f"10.5281/zenodo.{self.record_id}"


def make_record(
    record_id: int,
    files: Mapping[str, bytes | Path | Callable[[], bytes | Path]] | None = None,
    **fields: object,
) -> SandboxRecord:
    """Make a record from plain files; further `SandboxRecord` fields by name.

    Examples
    --------
    >>> record = make_record(7, {"me/seven-v1.zip": b"PK..."}, title="Seven")
    >>> record.files["me/seven-v1.zip"].settle().size
    5
    """
    contents = {key: Content(made) for key, made in (files or {}).items()}
    record = SandboxRecord(record_id, title=f"Record {record_id}", files=contents)
    return replace(record, **fields)  # type: ignore[arg-type]
