"""InvenioRDM's own JSON, as in dumps, converted to the form of Zenodo's search.

A catalogue has one form, however it was harvested. The rules are those of Zenodo's
serialiser, except for the fields in `LACKING`, which the native form lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from zml_dask.records.parse import (
    RELATIONS,
    file_entries,
    id_or_text,
    license_of,
    listed,
    mapping,
    quote_key,
    record_id_of,
    record_name,
    text,
    whole_number,
)

LACKING: Final = ("owners", "stats", "state", "status", "submitted", "swh")
"""Fields of a search's hit that cannot be made from a dump."""


def lacks_files(native: Mapping[str, Any]) -> bool:
    """Whether a record has public files although its entry lists none."""
    files = mapping(native.get("files"))
    access = mapping(native.get("access"))
    status = text(access.get("status")) or text(access.get("files"))
    return (
        status in {"open", "public", None}
        and files.get("enabled") is not False
        and files.get("count") != 0
        and not isinstance(files.get("entries"), Mapping | list)
    )


def search_hit(native: Mapping[str, Any], api_url: str) -> dict[str, Any]:
    """Convert a native record (``application/vnd.inveniordm.v1+json``) to a hit of Zenodo's search.

    Raises `RecordParseError` if it has no usable id.

    Examples
    --------
    >>> native = {"id": "7", "parent": {"id": "6"}, "metadata": {"title": "Seven"}}
    >>> hit = search_hit(native, "https://zenodo.org/api")
    >>> hit["id"], hit["conceptrecid"], hit["links"]["self"]
    (7, '6', 'https://zenodo.org/api/records/7')
    """
    record_id = record_id_of(native)
    base = f"{api_url}/records/{record_name(record_id)}"
    parent = mapping(native.get("parent"))
    concept = whole_number(parent.get("id"))
    doi = _doi(native)
    concept_doi = _doi(parent)
    metadata = dict(_metadata(native, doi))
    hit = {
        "created": native.get("created"),
        "modified": native.get("updated"),
        "updated": native.get("updated"),
        "id": record_id,
        "recid": str(record_id),
        "revision": native.get("revision_id"),
        "conceptrecid": None if concept is None else str(concept),
        "conceptdoi": concept_doi,
        "doi": doi,
        "doi_url": f"https://doi.org/{doi}" if doi else None,
        "title": metadata.get("title"),
        "links": {
            "self": base,
            "files": f"{base}/files",
            "archive": f"{base}/files-archive",
            "latest": f"{base}/versions/latest",
            "versions": f"{base}/versions",
            **({} if concept is None else {"parent": f"{api_url}/records/{concept}"}),
        },
    }
    return {name: value for name, value in hit.items() if value is not None} | {
        # Zenodo leaves out what is empty.
        "metadata": {name: value for name, value in metadata.items() if value},
        "files": list(_files(native, base)),
    }


def _doi(part: Mapping[str, Any]) -> str | None:
    return text(mapping(mapping(part.get("pids")).get("doi")).get("identifier"))


def _metadata(native: Mapping[str, Any], doi: str | None) -> Iterator[tuple[str, Any]]:
    own = mapping(native.get("metadata"))
    access = mapping(native.get("access"))
    status = text(access.get("status")) or "open"
    subjects = [mapping(one) for one in listed(own.get("subjects"))]
    extra = [mapping(one) for one in listed(own.get("additional_descriptions"))]
    yield "title", own.get("title")
    yield "doi", doi
    yield "publication_date", own.get("publication_date")
    yield "description", own.get("description")
    yield "access_right", "open" if status == "metadata-only" else status
    if status == "embargoed":
        yield "embargo_date", mapping(access.get("embargo")).get("until")
    yield "creators", [_person(one) for one in listed(own.get("creators"))]
    yield "contributors", [_person(one) for one in listed(own.get("contributors"))]
    yield "keywords", [one["subject"] for one in subjects if one.get("subject") and "id" not in one]
    yield "subjects", [dict(one) for one in subjects if "id" in one]
    yield "related_identifiers", [_related(one) for one in listed(own.get("related_identifiers"))]
    yield "references", [mapping(one).get("reference") for one in listed(own.get("references"))]
    yield "version", own.get("version")
    yield "language", next(map(id_or_text, listed(own.get("languages"))), None)
    yield "notes", next((one.get("description") for one in extra if _type(one) == "notes"), None)
    yield "method", next((one.get("description") for one in extra if _type(one) == "methods"), None)
    yield "custom", native.get("custom_fields")
    yield "resource_type", _resource_type(own.get("resource_type"))
    licences = [{"id": name} for name in map(license_of, listed(own.get("rights"))) if name]
    yield "license", next(iter(licences), None)
    yield "relations", _relations(native)


def _type(description: Mapping[str, Any]) -> str | None:
    return id_or_text(description.get("type"))


def _person(value: Any) -> dict[str, Any]:
    entry = mapping(value)
    person = mapping(entry.get("person_or_org"))
    affiliations = [mapping(one).get("name") for one in listed(entry.get("affiliations"))]
    made = {"name": person.get("name"), "affiliation": next(iter(affiliations), None)}
    for identifier in map(mapping, listed(person.get("identifiers"))):
        if identifier.get("scheme") == "orcid":
            made["orcid"] = identifier.get("identifier")
    role = id_or_text(entry.get("role"))
    return made | ({"type": role} if role else {})


def _related(value: Any) -> dict[str, Any]:
    entry = mapping(value)
    relation = id_or_text(entry.get("relation_type")) or ""
    kind = id_or_text(entry.get("resource_type"))
    return {
        "identifier": entry.get("identifier"),
        "relation": RELATIONS.get(relation.lower(), relation),
        "scheme": entry.get("scheme"),
        **({"resource_type": kind} if kind else {}),
    }


def _resource_type(value: Any) -> dict[str, Any] | None:
    name = id_or_text(value)
    if name is None:
        return None
    kind, _, subtype = name.partition("-")
    title = text(mapping(mapping(value).get("title")).get("en")) or kind.title()
    return {"title": title, "type": kind} | ({"subtype": subtype} if subtype else {})


def _relations(native: Mapping[str, Any]) -> dict[str, Any]:
    versions = mapping(native.get("versions"))
    index = whole_number(versions.get("index"))
    parent = mapping(native.get("parent")).get("id")
    version = {
        "index": 0 if index is None else max(index - 1, 0),
        "is_last": versions.get("is_latest") is not False,
        "parent": {"pid_type": "recid", "pid_value": str(parent)},
    }
    return {"version": [version]} if parent else {}


def _files(native: Mapping[str, Any], base: str) -> Iterator[dict[str, Any]]:
    for key, entry in file_entries(native).items():
        yield {
            **({"id": entry["id"]} if "id" in entry else {}),
            "key": key,
            "size": entry.get("size"),
            "checksum": entry.get("checksum"),
            "links": {"self": f"{base}/files/{quote_key(key)}/content"},
        }
