"""What a sandbox holds: records, tombstones of withdrawn ones, and a search over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from zml_dask.records.instants import to_millisecond
from zml_dask.records.query import Searchable, matcher
from zml_dask.records.record import AccessStatus
from zml_dask.sandbox.answers import Content

_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)


_DOI_PREFIX = "10.5072/zenodo."


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
    embargo_date: str | None = None
    files: Mapping[str, Content] = field(default_factory=lambda: MappingProxyType({}))
    withdrawal: Withdrawal | None = None
    is_latest: bool = True

    @property
    def concept(self) -> int:
        """The id that all versions share."""
        return self.concept_id or self.record_id - 1

    @property
    def doi(self) -> str:
        """A DOI under the prefix of Zenodo's tests, so that no link leads to a real record."""
        return f"{_DOI_PREFIX}{self.record_id}"

    @property
    def concept_doi(self) -> str:
        """The DOI that all versions share."""
        return f"{_DOI_PREFIX}{self.concept}"


def make_record(
    record_id: int,
    files: Mapping[str, bytes | Path | Callable[[], bytes | Path]] | None = None,
    **fields: object,
) -> SandboxRecord:
    """Make a record from plain files; further `SandboxRecord` fields by name.

    Examples
    --------
    >>> record = make_record(7, {"me/seven-v1.zip": b"PK..."}, title="Seven")
    >>> record.files["me/seven-v1.zip"].size
    5
    """
    contents = {key: Content(made) for key, made in (files or {}).items()}
    record = SandboxRecord(record_id, title=f"Record {record_id}", files=contents)
    return replace(record, **fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search, without its page: `text` is in Zenodo's query syntax, an empty type matches any."""

    text: str = ""
    resource_type: str = ""
    all_versions: bool = False
    newest_first: bool = True


class Corpus:
    """Records that may be added and withdrawn while they are served.

    Examples
    --------
    >>> corpus = Corpus([make_record(7, title="Seven"), make_record(9, title="Nine")])
    >>> [record.record_id for record in corpus.search(SearchQuery("title:nine"))]
    [9]
    """

    def __init__(self, records: Iterable[SandboxRecord] = ()) -> None:
        self._records = {record.record_id: record for record in records}
        self._lock = threading.Lock()
        self._answers = lru_cache(maxsize=64)(self._search)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[SandboxRecord]:
        with self._lock:
            return iter([self._records[record_id] for record_id in sorted(self._records)])

    def __getitem__(self, record_id: int) -> SandboxRecord:
        return self._records[record_id]

    def get(self, record_id: int) -> SandboxRecord | None:
        """Return a record, or None."""
        return self._records.get(record_id)

    def latest_of(self, concept_id: int) -> SandboxRecord | None:
        """Return the newest version of a concept, or None."""
        versions = self.versions_of(concept_id)
        return versions[-1] if versions else None

    def versions_of(self, concept_id: int) -> list[SandboxRecord]:
        """Return the versions of a concept that are still there, oldest first."""
        found = [one for one in self if one.concept == concept_id and one.withdrawal is None]
        return sorted(found, key=_age)

    def add(self, *records: SandboxRecord) -> None:
        """Publish records; a new version supersedes the others of its concept."""
        with self._lock:
            for record in records:
                if record.is_latest and record.concept_id:
                    for other in list(self._records.values()):
                        if other.concept == record.concept and other.is_latest:
                            self._records[other.record_id] = replace(other, is_latest=False)
                self._records[record.record_id] = record
            self._answers.cache_clear()

    def withdraw(self, record_id: int, withdrawal: Withdrawal | None = None) -> None:
        """Leave a tombstone in a record's place."""
        with self._lock:
            record = self._records[record_id]
            self._records[record_id] = replace(record, withdrawal=withdrawal or Withdrawal())
            self._answers.cache_clear()

    def search(self, question: SearchQuery) -> Sequence[SandboxRecord]:
        """Find records; raise `UsageError` if the question's text is not in the query syntax."""
        with self._lock:
            return self._answers(question)

    def _search(self, question: SearchQuery) -> Sequence[SandboxRecord]:
        matches = matcher(question.text)
        found = [
            record
            for record in self._records.values()
            if record.withdrawal is None
            and (record.is_latest or question.all_versions)
            and question.resource_type in {"", record.resource_type}
            and matches(_searchable(record))
        ]
        return sorted(found, key=_age, reverse=question.newest_first)


def _age(record: SandboxRecord) -> tuple[datetime, int]:
    return record.created, record.record_id


def _searchable(record: SandboxRecord) -> Searchable:
    created = to_millisecond(record.created)
    return Searchable(
        record_id=record.record_id,
        concept_id=record.concept,
        created=created,
        updated=to_millisecond(record.updated or record.created),
        publication_date=created.replace(hour=0, minute=0, second=0, microsecond=0),
        title=record.title,
        description=record.description,
        version=record.version or "",
        doi=record.doi,
        license=record.license or "",
        resource_type=record.resource_type,
        access=record.access,
        keywords=record.keywords,
        creators=record.creators,
        filenames=tuple(record.files),
        related=tuple(link[0] for link in record.related),
    )
