"""From Zenodo's JSON, in any shape it has had, to a `Record`.

Two families are distinguished by shape, never by date. *Legacy*: the API of 2018
and 2023, its transitional form of October 2023 (files as ``filename`` and
``filesize``, a bare md5) and today's default answer. *Native*: InvenioRDM's own
(``application/vnd.inveniordm.v1+json``). Metadata is written by people and by
two decades of software, so a field of an unexpected kind counts as absent; only
a hit without a usable id cannot be a record.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast, get_args
from urllib.parse import quote

import msgspec

from zml_dask.arguments import checked
from zml_dask.errors import RecordError
from zml_dask.records.record import (
    AccessStatus,
    Record,
    RecordFile,
    RelatedIdentifier,
    repository_of,
)

ZENODO_API: Final = "https://zenodo.org/api"

# InvenioRDM's own names of records.
_BASE_32: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_RECORD_NAME: Final = re.compile(f"[{_BASE_32}]{{5}}-[{_BASE_32}]{{5}}")
_FIRST_NAMED: Final = 2**52

_API_LINK: Final = re.compile(r"(https?://[^/?#\s]+(?:/[^/?#\s]+)*?/api)/(?:records|files)/")

# InvenioRDM writes relation types in lower case; the legacy API in DataCite's.
RELATIONS = {
    name.lower(): name
    for name in (
        "isCitedBy",
        "cites",
        "isSupplementTo",
        "isSupplementedBy",
        "isContinuedBy",
        "continues",
        "isNewVersionOf",
        "isPreviousVersionOf",
        "isVersionOf",
        "hasVersion",
        "isPartOf",
        "hasPart",
        "isDerivedFrom",
        "isSourceOf",
        "isIdenticalTo",
        "isDocumentedBy",
        "documents",
        "isCompiledBy",
        "compiles",
        "isRequiredBy",
        "requires",
        "isReferencedBy",
        "references",
    )
}


class RecordParseError(RecordError):
    """A hit that cannot be made a record: it has no usable id."""


@checked
def parse_record(
    hit: Mapping[str, Any] | Any, *, api_url: str = ZENODO_API, trusted: bool = False
) -> Record:
    """Make a `Record` of one hit of a search, or of one record's own JSON.

    Parameters
    ----------
    hit : mapping
        Parsed JSON of any of the known shapes.
    api_url : str, optional
        Root of the API that the files' URLs are built on.
    trusted : bool, optional
        Whether a file entry's own ``"url"`` (any fsspec URL) is honoured: only
        for a catalogue that the user wrote, and never for a record that names a
        server as its origin (``links.self``).

    Returns
    -------
    Record

    Raises
    ------
    RecordParseError
        If `hit` is not a mapping or has no usable id.

    Examples
    --------
    >>> record = parse_record({"id": 7, "metadata": {"title": "Seven"},
    ...                        "files": [{"key": "me/seven-v1.zip", "size": 9}]})
    >>> record.title, record.access, record.files[0].url
    ('Seven', 'open', 'https://zenodo.org/api/records/7/files/me/seven-v1.zip/content')
    """
    record_id = record_id_of(hit)
    # A record that names a server as its origin was harvested, even if it was copied since.
    trusted = trusted and api_root_of(hit) is None
    base = f"{api_url.rstrip('/')}/records/{record_name(record_id)}/files"
    files = tuple(_files(hit, base, trusted))
    metadata = mapping(hit.get("metadata"))
    is_native = _is_native(hit)
    relation = "relation_type" if is_native else "relation"
    related = tuple(_related(metadata.get("related_identifiers"), relation))
    custom = mapping(hit.get("custom_fields") if is_native else metadata.get("custom"))
    return Record(
        record_id=record_id,
        title=text(metadata.get("title")) or text(hit.get("title")),
        version=_version(metadata.get("version")),
        publication_date=text(metadata.get("publication_date")),
        created=text(hit.get("created")),
        repository=repository_of(text(custom.get("code:codeRepository")), related),
        creators=distinct(_name(person) for person in listed(metadata.get("creators"))),
        related=related,
        files=files,
        metadata=hit,
        **(_native if is_native else _legacy)(hit, metadata, files),
    )


def record_id_of(hit: object) -> int:
    """Return the id of a hit without parsing the rest.

    Raises `RecordParseError` if `hit` is not a mapping or has no usable id.
    """
    if not isinstance(hit, Mapping):
        raise RecordParseError(
            "bad_metadata",
            f"a record must be a JSON object, not {type(hit).__name__}: leave it out",
        )
    record_id = record_number(hit.get("id")) or record_number(hit.get("recid"))
    if not record_id:
        found = repr(hit["id"])[:40] if "id" in hit else "nothing"
        raise RecordParseError(
            "bad_metadata",
            "a record needs a positive whole number as id, or a name like 4bptb-2vq04, "
            f"not {found}",
        )
    return record_id


def record_number(value: object) -> int | None:
    """Return the number of a record by its id: Zenodo's are numbers, InvenioRDM's are names.

    A name is ten digits of base 32 (without ``i``, ``l``, ``o`` and ``u``); it becomes a number
    above 2**52, which `record_name` turns back.

    Examples
    --------
    >>> record_number("1297336"), record_number("4bptb-2vq04")
    (1297336, 4657215947267076)
    >>> record_name(4657215947267076)
    '4bptb-2vq04'
    """
    if isinstance(value, str) and _RECORD_NAME.fullmatch(value):
        digits = (_BASE_32.index(digit) for digit in value.replace("-", ""))
        return _FIRST_NAMED + functools.reduce(lambda number, digit: number * 32 + digit, digits)
    return whole_number(value)


def record_name(record_id: int) -> str:
    """Return a record's id as its server writes it."""
    number = record_id - _FIRST_NAMED
    if not 0 <= number < 32**10:
        return str(record_id)
    digits = "".join(_BASE_32[number >> shift & 31] for shift in range(45, -1, -5))
    return f"{digits[:5]}-{digits[5:]}"


class _Brief(msgspec.Struct):
    id: Any = None
    recid: Any = None
    conceptrecid: Any = None
    created: Any = None
    files: Any = None
    links: Any = None


_DECODE_BRIEF: Final = msgspec.json.Decoder(_Brief).decode


def brief_hit(line: bytes) -> dict[str, Any]:
    """Parse the fields of a hit's JSON that an index needs, in a fifth of the time of all.

    Raises `ValueError` if it is not JSON, and `RecordParseError` if it is not an object.
    """
    try:
        brief = _DECODE_BRIEF(line)
    except (msgspec.MsgspecError, RecursionError):
        # JSON that the strict decoder refuses, such as a lone surrogate, may still be a record.
        hit = json.loads(line)
        record_id_of(hit)
        return dict(hit)
    return {name: getattr(brief, name) for name in _Brief.__struct_fields__}


def api_root_of(hit: Mapping[str, Any]) -> str | None:
    """Return the root of the API that a hit came from, by its links; None if it has none.

    Examples
    --------
    >>> api_root_of({"id": 7, "links": {"self": "https://sandbox.zenodo.org/api/records/7"}})
    'https://sandbox.zenodo.org/api'
    """
    # A hit that somebody has shortened may have kept only the links of its files.
    entries = file_entries(hit).values()
    links = (mapping(one.get("links")) for one in (hit, *entries))
    found = (text(link.get("self")) or text(link.get("content")) for link in links)
    matches = (_API_LINK.match(link) for link in found if link)
    return next((match[1] for match in matches if match), None)


def archive_bytes_of(hit: Mapping[str, Any]) -> int:
    """Return the bytes that a hit states for all its files, without parsing the rest."""
    total = sum(_size(entry) or 0 for entry in file_entries(hit).values())
    return min(total, MOST)


def _is_native(hit: Mapping[str, Any]) -> bool:
    return any(isinstance(hit.get(name), Mapping) for name in ("parent", "pids", "access", "files"))


def _legacy(
    hit: Mapping[str, Any], metadata: Mapping[str, Any], files: Sequence[RecordFile]
) -> dict[str, Any]:
    """Return the fields of a record whose form differs between the families."""
    kind = metadata.get("resource_type")
    return {
        "concept_id": record_number(hit.get("conceptrecid")) or _parent_of(metadata),
        "doi": text(hit.get("doi")) or text(metadata.get("doi")),
        "license": _license(metadata.get("license")),
        "keywords": distinct(text(word) for word in listed(metadata.get("keywords"))),
        "resource_type": lower(
            text(mapping(kind).get("type")) or id_or_text(kind) or text(metadata.get("upload_type"))
        ),
        "access": _access(text(metadata.get("access_right")), files),
    }


def _native(
    hit: Mapping[str, Any], metadata: Mapping[str, Any], files: Sequence[RecordFile]
) -> dict[str, Any]:
    """Return the same fields as `_legacy`."""
    access = mapping(hit.get("access"))
    # "software-computationalnotebook" is software; the part after the dash is its subtype.
    kind = lower(id_or_text(metadata.get("resource_type")))
    is_embargoed = mapping(access.get("embargo")).get("active") is True
    status = text(access.get("status")) or ("embargoed" if is_embargoed else None)
    return {
        "concept_id": record_number(mapping(hit.get("parent")).get("id")),
        "doi": text(mapping(mapping(hit.get("pids")).get("doi")).get("identifier")),
        "license": _license(metadata.get("rights")),
        "keywords": distinct(_subject(word) for word in listed(metadata.get("subjects"))),
        "resource_type": kind and kind.partition("-")[0],
        "access": _access(status or text(access.get("files")), files),
    }


def _license(value: object) -> str | None:
    """Give the licences of a record in lower case, several of them joined by "and"."""
    return lower(" and ".join(distinct(map(license_of, listed(value)))))


def license_of(value: object) -> str | None:
    """Give the id of a licence; one that is on no list of the server has a title alone."""
    title = mapping(value).get("title")
    return id_or_text(value) or text(mapping(title).get("en")) or text(title)


def _version(value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else text(value)


def _files(hit: Mapping[str, Any], base: str, trusted: bool) -> Iterator[RecordFile]:
    for key, entry in sorted(file_entries(hit).items()):
        url = text(entry.get("url")) if trusted else None
        yield RecordFile(
            key=key,
            size=_size(entry),
            checksum=md5_of(entry.get("checksum")),
            url=url or f"{base}/{quote_key(key)}/content",
        )


def file_entries(hit: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a hit's file entries by key; the first of one key counts."""
    found_files = hit.get("files")
    pairs: list[tuple[object, object]] = [(None, entry) for entry in listed(found_files)]
    if isinstance(found_files, Mapping):
        entries = found_files.get("entries")
        pairs = list(mapping(entries).items()) or [(None, entry) for entry in listed(entries)]
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in pairs:
        entry = mapping(value)
        key = raw_text(entry.get("key")) or raw_text(entry.get("filename")) or raw_text(name)
        if key is not None:
            found.setdefault(key, entry)
    return found


def _size(entry: Mapping[str, Any]) -> int | None:
    size = entry.get("size")
    return whole_number(entry.get("filesize") if size is None else size)


def quote_key(key: str) -> str:
    """Quote a file's key for a URL: all but ``/``, which Zenodo's routes take as it is.

    Examples
    --------
    >>> quote_key("owner/repo v1.zip"), quote_key("../secret")
    ('owner/repo%20v1.zip', '..%2Fsecret')
    """
    # HTTP libraries fold dot segments away, and would then ask for another
    # record's file; a quoted slash keeps such a key in one piece.
    dotted = any(part in {".", ".."} for part in key.split("/"))
    return quote(key, safe="" if dotted else "/")


def _access(status: str | None, files: Sequence[RecordFile]) -> AccessStatus:
    word = "open" if status in {None, "public"} else lower(status)
    # Today's legacy answer calls a record without files "open".
    if word == "open" and not files:
        return "metadata-only"
    # An unknown word says nothing; the presence of files does.
    if word not in get_args(AccessStatus):
        return "open" if files else "restricted"
    return cast("AccessStatus", word)


def _related(value: object, field: str) -> Iterator[RelatedIdentifier]:
    for entry in map(mapping, listed(value)):
        identifier = text(entry.get("identifier"))
        if identifier:
            relation = id_or_text(entry.get(field)) or ""
            yield RelatedIdentifier(
                identifier=identifier,
                relation=RELATIONS.get(relation.lower(), relation),
                scheme=lower(text(entry.get("scheme"))),
            )


def _parent_of(metadata: Mapping[str, Any]) -> int | None:
    versions = listed(mapping(metadata.get("relations")).get("version"))
    first = mapping(versions[0]) if versions else {}
    return whole_number(mapping(first.get("parent")).get("pid_value"))


def _name(person: object) -> str | None:
    entry = mapping(person)
    return text(mapping(entry.get("person_or_org")).get("name") or entry.get("name") or person)


def _subject(word: object) -> str | None:
    entry = mapping(word)
    return text(entry.get("subject")) or text(entry.get("id")) or text(word)


def canonical_json(hit: Mapping[str, Any]) -> str:
    r"""Write a hit as one line of ASCII: keys sorted, no spaces.

    Examples
    --------
    >>> canonical_json({"title": "Zürich", "id": 1})
    '{"id":1,"title":"Z\\u00fcrich"}'
    """
    return json.dumps(hit, sort_keys=True, separators=(",", ":"))


def harvested_json(hit: Mapping[str, Any]) -> str:
    """Write a hit as a harvest keeps it: without URLs that file entries name themselves.

    Examples
    --------
    >>> harvested_json({"id": 1, "files": [{"key": "a.zip", "url": "file:///etc/passwd"}]})
    '{"files":[{"key":"a.zip"}],"id":1}'
    """
    if any("url" in entry for entry in file_entries(hit).values()):
        files = hit["files"]
        entries = files["entries"] if isinstance(files, Mapping) else files
        kept: Any = [_without_url(one) for one in listed(entries)]
        if isinstance(entries, Mapping):
            kept = {key: _without_url(one) for key, one in entries.items()}
        hit = {**hit, "files": {**files, "entries": kept} if isinstance(files, Mapping) else kept}
    return canonical_json(hit)


def _without_url(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {name: value for name, value in entry.items() if name != "url"}


MOST: Final = 2**63 - 1
"""The largest number that tables hold."""

_MD5: Final = re.compile(r"(?:md5:)?([0-9a-f]{32})", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def id_or_text(value: object) -> str | None:
    """Return the ``id`` of an object, or a string in its place."""
    return text(mapping(value).get("id")) or text(value)


def md5_of(value: object) -> str | None:
    """Return ``"md5:..."`` for a checksum with or without that prefix; else None."""
    match = _MD5.fullmatch(value) if isinstance(value, str) else None
    return f"md5:{match[1].lower()}" if match else None


def whole_number(value: object) -> int | None:
    """Return a whole number from 0 to 2**63-1, written as a number or in digits; else None."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # as pandas writes it
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    return None


def text(value: object) -> str | None:
    """Return a string without the space around it; None for a blank one and other kinds."""
    key = raw_text(value)
    return key.strip() if key else None


def raw_text(value: object) -> str | None:
    """Return a string as it is, except for the lone surrogates that JSON can hold; else None."""
    if not isinstance(value, str) or not value.strip():
        return None
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)


def lower(value: str | None) -> str | None:
    """Return a string in lower case."""
    return value.lower() if value else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> Sequence[Any]:
    """Return a list as it is, and a single value in its place as a list of one."""
    if isinstance(value, list | tuple):
        return value
    return [value] if isinstance(value, str | Mapping) and value else []


def distinct(values: Iterator[str | None]) -> tuple[str, ...]:
    """Return each string once, in the order of their first occurrence."""
    return tuple(dict.fromkeys(value for value in values if value))
