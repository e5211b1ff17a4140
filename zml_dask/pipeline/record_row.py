"""Rows of the records table, from what Zenodo says of records; `store.layout.RECORDS_SCHEMA`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zml_dask.fetch.origins import FetchedRecord
from zml_dask.records.licenses import spdx_ids
from zml_dask.records.parse import RecordParseError, canonical_json, parse_record
from zml_dask.records.record import Record


def record_row(record: Record, fetched: FetchedRecord) -> dict[str, Any]:
    """Return a record's row, but for the counts.

    Parameters
    ----------
    record : Record
    fetched : FetchedRecord
        Where its code came from.
    """
    checksums = [archive.checksum for archive in fetched.archives if archive.checksum]
    return _described(record) | {
        "record_id": record.record_id,
        "origin": fetched.origin,
        "archive_bytes": sum(archive.bytes for archive in fetched.archives),
        "archive_checksum": " ".join(checksums) or None,
    }


def row_of_hit(hit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that a hit of 2018 fills.

    What the archive was when it was read, 2018 did not keep: its size and
    checksum stay null.
    """
    try:
        return _described(parse_record(hit))
    except RecordParseError:
        # Kept as it is, though nothing can be told from it.
        return {"metadata": canonical_json(hit)}


def _described(record: Record) -> dict[str, Any]:
    """Return the columns that a record's metadata fills."""
    return {
        "concept_id": record.concept_id,
        "doi": record.doi,
        "title": record.title,
        "version": record.version,
        "publication_date": record.publication_date,
        "license": record.license,
        "licenses": spdx_ids(record.license),
        "keywords": list(record.keywords),
        "creators": list(record.creators),
        "repository": record.repository,
        "metadata": canonical_json(record.metadata),
    }
