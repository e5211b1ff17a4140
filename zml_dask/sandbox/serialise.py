"""A sandbox's records in Zenodo's two current JSON shapes."""

from __future__ import annotations

import uuid
from typing import Any

from zml_dask.records.parse import quote_key
from zml_dask.sandbox.corpus import SandboxRecord, Withdrawal


def legacy_json(record: SandboxRecord, api_url: str) -> dict[str, Any]:
    """Return a record in the shape of today's default answer (``application/json``)."""
    base = f"{api_url}/records/{record.record_id}"
    moment = record.created.isoformat(timespec="microseconds")
    edited = (record.updated or record.created).isoformat(timespec="microseconds")
    metadata: dict[str, Any] = {
        "title": record.title,
        "doi": record.doi,
        "publication_date": record.created.date().isoformat(),
        "description": f"<p>{record.description}</p>",
        "access_right": "open" if record.access == "metadata-only" else record.access,
        **({"embargo_date": record.embargo_date} if record.embargo_date else {}),
        "creators": [{"name": name, "affiliation": None} for name in record.creators],
        "keywords": list(record.keywords),
        "related_identifiers": [
            {"identifier": identifier, "relation": relation, "scheme": scheme}
            for identifier, relation, scheme in record.related
        ],
        "version": record.version,
        "custom": {"code:codeRepository": record.repository} if record.repository else {},
        "resource_type": {"title": record.resource_type.title(), "type": record.resource_type},
        "license": {"id": record.license} if record.license else None,
        "relations": {
            "version": [
                {
                    "index": 0,
                    "is_last": record.is_latest,
                    "parent": {"pid_type": "recid", "pid_value": str(record.concept)},
                }
            ]
        },
    }
    return {
        "created": moment,
        "modified": edited,
        "id": record.record_id,
        "conceptrecid": str(record.concept),
        "doi": record.doi,
        "conceptdoi": record.concept_doi,
        "doi_url": f"https://doi.org/{record.doi}",
        # Zenodo leaves out what is empty.
        "metadata": {name: value for name, value in metadata.items() if value},
        "title": record.title,
        "links": {
            "self": base,
            "files": f"{base}/files",
            "archive": f"{base}/files-archive",
            "latest": f"{base}/versions/latest",
            "versions": f"{base}/versions",
            "parent": f"{api_url}/records/{record.concept}",
        },
        "updated": edited,
        "recid": str(record.record_id),
        "revision": 1,
        "files": [
            entry | {"id": _file_id(record, key), "links": {"self": _content_url(base, key)}}
            for key, entry in _open_files(record).items()
        ],
        "swh": {},
        "owners": [{"id": "1"}],
        "status": "published",
        "stats": {"downloads": 0, "views": 0},
        "state": "done",
        "submitted": True,
    }


def native_json(record: SandboxRecord, api_url: str) -> dict[str, Any]:
    """Return a record in InvenioRDM's own shape (``application/vnd.inveniordm.v1+json``)."""
    base = f"{api_url}/records/{record.record_id}"
    moment = record.created.isoformat(timespec="microseconds")
    edited = (record.updated or record.created).isoformat(timespec="microseconds")
    metadata: dict[str, Any] = {
        "resource_type": {
            "id": record.resource_type,
            "title": {"en": record.resource_type.title()},
        },
        "creators": [
            {"person_or_org": {"type": "personal", "name": name}} for name in record.creators
        ],
        "title": record.title,
        "publisher": "Zenodo",
        "publication_date": record.created.date().isoformat(),
        "subjects": [{"subject": word} for word in record.keywords],
        "related_identifiers": [
            {
                "identifier": identifier,
                "scheme": scheme,
                "relation_type": {"id": relation.lower(), "title": {"en": relation}},
            }
            for identifier, relation, scheme in record.related
        ],
        "version": record.version,
        "rights": [{"id": record.license}] if record.license else [],
        "description": f"<p>{record.description}</p>",
    }
    repository = {"code:codeRepository": record.repository} if record.repository else {}
    return {
        "id": str(record.record_id),
        "created": moment,
        "updated": edited,
        "revision_id": 1,
        "parent": {
            "id": str(record.concept),
            "communities": {},
            "pids": {"doi": {"identifier": record.concept_doi}},
        },
        "versions": {"is_latest": record.is_latest, "index": 1},
        "pids": {"doi": {"identifier": record.doi, "provider": "datacite"}},
        "metadata": {name: value for name, value in metadata.items() if value},
        "custom_fields": repository,
        "access": {
            "record": "public",
            "files": "public" if record.access in {"open", "metadata-only"} else "restricted",
            "embargo": {
                "active": record.access == "embargoed",
                "until": record.embargo_date,
                "reason": None,
            },
            "status": record.access,
        },
        "files": _native_files(record, base),
        "links": {"self": base, "files": f"{base}/files"},
    }


def files_json(record: SandboxRecord, api_url: str) -> dict[str, Any]:
    """Return the listing of a record's files."""
    base = f"{api_url}/records/{record.record_id}"
    entries = [
        entry
        | {
            "status": "completed",
            "links": {"self": f"{base}/files/{quote_key(key)}", "content": _content_url(base, key)},
        }
        for key, entry in _open_files(record).items()
    ]
    links = {"self": f"{base}/files"}
    return {"enabled": bool(entries), "entries": entries, "links": links, "order": []}


def tombstone_json(withdrawal: Withdrawal, record: SandboxRecord) -> dict[str, Any]:
    """Return the body of a 410."""
    return {
        "status": 410,
        "message": "Record deleted",
        "tombstone": {
            "note": withdrawal.note,
            "removed_by": {"user": "system"},
            "removal_date": withdrawal.date,
            "citation_text": f"{record.title}. https://doi.org/{record.doi}",
            "is_visible": True,
            "removal_reason": {"id": withdrawal.reason},
        },
    }


def _open_files(record: SandboxRecord) -> dict[str, dict[str, Any]]:
    """Return key, size and checksum of the files that anyone may have, by key."""
    files = record.files if record.access == "open" else {}
    return {
        key: {"key": key, "size": content.size, "checksum": f"md5:{content.md5}"}
        for key, content in files.items()
    }


def _native_files(record: SandboxRecord, base: str) -> dict[str, Any]:
    if record.access in {"restricted", "embargoed", "closed"}:
        return {"enabled": True}
    entries = {
        key: entry
        | {
            "id": _file_id(record, key),
            "ext": key.rpartition(".")[2],
            "links": {"content": _content_url(base, key)},
        }
        for key, entry in _open_files(record).items()
    }
    return {
        "enabled": bool(entries),
        "order": [],
        "count": len(entries),
        "total_bytes": sum(entry["size"] for entry in entries.values()),
        "entries": entries,
    }


def _content_url(base: str, key: str) -> str:
    return f"{base}/files/{quote_key(key)}/content"


def _file_id(record: SandboxRecord, key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{record.record_id}/{key}"))
