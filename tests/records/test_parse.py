"""Every shape of Zenodo's JSON gives the same `Record`, and no JSON gives anything but one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import RecordError
from zml_dask.records.parse import RecordParseError, harvested_json, parse_record
from zml_dask.records.record import Record, plain_repository
from zml_dask.records.spdx import spdx_ids

MD5 = "0123456789abcdef0123456789abcdef"
TAG_LINK = "https://github.com/lab/tool/tree/v1.2"


@pytest.mark.parametrize(
    ("link", "repository"),
    [
        ("github.com/owner/name", "https://github.com/owner/name"),
        ("git@gitlab.com:group/part/name.git", "https://gitlab.com/group/part/name"),
        ("https://gitlab.com/group/part/name/-/tree/v1", "https://gitlab.com/group/part/name"),
        ("https://gitlab.com/owner/name/tree/v1", "https://gitlab.com/owner/name"),
        ("https://raw.githubusercontent.com/o/n/main/a.py", "https://github.com/o/n"),
        ("https://github.com/sponsors/owner", None),
        ("https://gitlab.com/owner", None),
    ],
)
def test_links_into_forges(link: str, repository: str | None) -> None:
    assert plain_repository(link) == repository


def legacy_2018() -> dict[str, Any]:
    return {
        "conceptdoi": "10.5281/zenodo.400",
        "conceptrecid": "400",
        "created": "2018-05-01T10:00:00.000001+00:00",
        "doi": "10.5281/zenodo.401",
        "files": [
            {
                "bucket": "aaaaaaaa-0000-4000-8000-000000000000",
                "checksum": f"md5:{MD5}",
                "key": "lab/tool-v1.2.zip",
                "links": {"self": "https://zenodo.org/api/files/aaaaaaaa/lab/tool-v1.2.zip"},
                "size": 1234,
                "type": "zip",
            }
        ],
        "id": 401,
        "metadata": {
            "access_right": "open",
            "creators": [{"name": "Lovelace, Ada"}, {"affiliation": "Lab", "name": "Hopper, G."}],
            "keywords": ["engines", "notes"],
            "license": {"id": "MIT"},
            "publication_date": "2018-05-01",
            "related_identifiers": [
                {"identifier": TAG_LINK, "relation": "isSupplementTo", "scheme": "url"},
                {
                    "identifier": "10.5281/zenodo.400",
                    "relation": "isVersionOf",
                    "scheme": "doi",
                },
            ],
            "relations": {"version": [{"count": 1, "parent": {"pid_value": "400"}}]},
            "resource_type": {"title": "Software", "type": "software"},
            "title": "lab/tool: first engine",
            "version": "v1.2",
        },
        "owners": [12],
        "revision": 3,
    }


def transitional_2023() -> dict[str, Any]:
    hit = legacy_2018()
    hit |= {"recid": "401", "modified": hit["created"], "title": hit["metadata"]["title"]}
    hit["files"] = [
        {
            "id": "bbbbbbbb-0000-4000-8000-000000000000",
            "filename": "lab/tool-v1.2.zip",
            "filesize": 1234,
            "checksum": MD5,
            "links": {"download": "https://zenodo.org/api/records/401/files/lab/tool.zip/content"},
        }
    ]
    return hit


def legacy_today() -> dict[str, Any]:
    hit = transitional_2023()
    hit["files"] = [
        {
            "id": "bbbbbbbb-0000-4000-8000-000000000000",
            "key": "lab/tool-v1.2.zip",
            "size": 1234,
            "checksum": f"md5:{MD5}",
            "links": {"self": "https://zenodo.org/api/records/401/files/lab/tool-v1.2.zip/content"},
        }
    ]
    hit["swh"] = None
    hit["owners"] = [{"id": "12"}]
    return hit


def native() -> dict[str, Any]:
    return {
        "id": "401",
        "created": "2018-05-01T10:00:00.000001+00:00",
        "parent": {"id": "400", "pids": {}},
        "pids": {"doi": {"identifier": "10.5281/zenodo.401", "provider": "datacite"}},
        "versions": {"is_latest": True, "index": 1},
        "metadata": {
            "resource_type": {"id": "software", "title": {"en": "Software"}},
            "creators": [
                {"person_or_org": {"type": "personal", "name": "Lovelace, Ada"}},
                {"person_or_org": {"type": "personal", "name": "Hopper, G."}},
            ],
            "subjects": [{"subject": "engines"}, {"subject": "notes"}],
            "rights": [{"id": "mit", "title": {"en": "MIT License"}}],
            "title": "lab/tool: first engine",
            "publication_date": "2018-05-01",
            "version": "v1.2",
            "related_identifiers": [
                {
                    "identifier": TAG_LINK,
                    "scheme": "url",
                    "relation_type": {"id": "issupplementto"},
                },
                {
                    "identifier": "10.5281/zenodo.400",
                    "scheme": "doi",
                    "relation_type": {"id": "isversionof"},
                },
            ],
        },
        "custom_fields": {},
        "access": {"record": "public", "files": "public", "status": "open"},
        "files": {
            "enabled": True,
            "count": 1,
            "entries": {
                "lab/tool-v1.2.zip": {
                    "key": "lab/tool-v1.2.zip",
                    "size": 1234,
                    "checksum": f"md5:{MD5}",
                }
            },
        },
    }


SHAPES = (legacy_2018, transitional_2023, legacy_today, native)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_every_shape_gives_the_record_of_2018(shape: Any) -> None:
    assert parse_record(shape()) == parse_record(legacy_2018())


def test_the_fields_of_a_record() -> None:
    record = parse_record(legacy_2018(), api_url="http://127.0.0.1:5000/api/")
    assert record.record_id == 401
    assert record.concept_id == 400
    assert record.doi == "10.5281/zenodo.401"
    assert record.license == "mit"
    assert record.repository == "https://github.com/lab/tool"
    assert record.creators == ("Lovelace, Ada", "Hopper, G.")
    assert record.keywords == ("engines", "notes")
    assert record.resource_type == "software"
    assert record.access == "open"
    assert record.archive_bytes == 1234
    [file] = record.files
    assert file.checksum == f"md5:{MD5}"
    # Built from id and key: the bucket link in the hit is dead.
    assert file.url == "http://127.0.0.1:5000/api/records/401/files/lab/tool-v1.2.zip/content"
    assert record.related[0].relation == "isSupplementTo"


@pytest.mark.parametrize("right", ["restricted", "embargoed"])
def test_files_that_may_not_be_had(right: str) -> None:
    today = legacy_today() | {"files": []}
    today["metadata"]["access_right"] = right
    rdm = native() | {
        "files": {"enabled": True},
        "access": {"files": "restricted", "status": right},
    }
    for hit in (today, rdm):
        record = parse_record(hit)
        assert (record.access, record.files) == (right, ())


def test_a_record_without_files_is_metadata_only_in_both_families() -> None:
    rdm = native() | {"files": {"enabled": False, "count": 0, "entries": {}}}
    rdm["access"] = {"status": "metadata-only"}
    assert parse_record(rdm).access == "metadata-only"
    assert parse_record(legacy_today() | {"files": []}).access == "metadata-only"


def test_a_subtype_of_software_is_software() -> None:
    hit = native()
    hit["metadata"]["resource_type"] = {"id": "software-computationalnotebook"}
    assert parse_record(hit).resource_type == "software"


@pytest.mark.parametrize(
    ("rights", "license_"),
    [
        ([{"title": {"en": "MIT License"}, "link": "https://opensource.org/licenses/MIT"}],
         "mit license"),
        ([{"title": "MIT License"}], "mit license"),
        ([{"id": "cc-by-4.0"}, {"id": "MIT", "title": {"en": "MIT License"}}], "cc-by-4.0 and mit"),
        ([{"link": "https://a.org"}], None),
    ],
)  # fmt: skip
def test_licences_as_servers_state_them(rights: list[dict[str, Any]], license_: str | None) -> None:
    hit = native()
    hit["metadata"]["rights"] = rights
    assert parse_record(hit).license == license_
    assert parse_record({"id": 5, "metadata": {"license": rights}}).license == license_
    assert license_ is None or "MIT" in spdx_ids(license_)


def test_a_version_that_is_a_number() -> None:
    versions = [parse_record({"id": 5, "metadata": {"version": v}}).version for v in (1.2, 3, True)]
    assert versions == ["1.2", "3", None]


@pytest.mark.parametrize(
    ("key", "tail"),
    [
        ("a b/c%d?.zip", "a%20b/c%25d%3F.zip/content"),
        ("ä.zip", "%C3%A4.zip/content"),
        ("../../7/files/x.zip", "..%2F..%2F7%2Ffiles%2Fx.zip/content"),
        (" leading space.zip", "%20leading%20space.zip/content"),
    ],
)
def test_keys_are_quoted_and_cannot_leave_their_record(key: str, tail: str) -> None:
    [file] = parse_record({"id": 5, "files": [{"key": key}]}).files
    assert file.key == key
    assert file.url == f"https://zenodo.org/api/records/5/files/{tail}"


def test_a_file_s_own_url_counts_only_in_the_user_s_catalogue() -> None:
    hit = {"id": 5, "files": [{"key": "a.zip", "url": "file:///data/a.zip"}]}
    assert parse_record(hit).files[0].url.startswith("https://zenodo.org/")
    assert parse_record(hit, trusted=True).files[0].url == "file:///data/a.zip"


def test_files_come_in_key_order_and_once() -> None:
    files = [{"key": "b"}, {"key": "a", "size": 1}, {"key": "a", "size": 2}, {"size": 3}]
    record = parse_record({"id": 5, "files": files})
    assert [(file.key, file.size) for file in record.files] == [("a", 1), ("b", None)]


@pytest.mark.parametrize(
    "hit", [{}, {"id": None}, {"id": True}, {"id": "x1"}, {"id": -3}, {"id": 2**63}, {"id": 1.5}]
)
def test_a_hit_without_a_usable_id_is_refused_in_one_line(hit: dict[str, Any]) -> None:
    with pytest.raises(RecordParseError, match="id") as caught:
        parse_record(hit)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RecordError)
    assert caught.value.permanent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_gives_a_record_or_a_parse_error(value: Any) -> None:
    with contextlib.suppress(RecordParseError):
        assert isinstance(parse_record(value), Record)


def _somewhere(value: Any) -> st.SearchStrategy[Any]:
    """Give `value` with parts of it replaced by any JSON or left out."""
    if isinstance(value, dict):
        items = {key: st.one_of(st.just(...), _somewhere(v)) for key, v in value.items()}
        whole: st.SearchStrategy[Any] = st.fixed_dictionaries(items).map(
            lambda made: {key: v for key, v in made.items() if v is not ...}
        )
    elif isinstance(value, list):
        whole = st.tuples(*map(_somewhere, value)).map(list)
    else:
        whole = st.just(value)
    return st.one_of(whole, whole, whole, json_values)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_damaged_hit_gives_a_sound_record_or_a_parse_error(shape: Any) -> None:
    @given(_somewhere(shape()))
    def holds(hit: Any) -> None:
        try:
            record = parse_record(hit)
        except RecordParseError:
            return
        texts = [record.doi, record.title, record.version, record.license, record.repository]
        texts += [*record.keywords, *record.creators, *(file.key for file in record.files)]
        for text in texts:
            assert text is None or text.encode("utf-8")
        assert all(file.size is None or file.size >= 0 for file in record.files)
        assert list(record.files) == sorted(record.files, key=lambda file: file.key)

    holds()


@pytest.mark.parametrize(
    "files",
    [
        [{"key": "a.zip", "size": 5.0, "url": "file:///etc/passwd"}],
        {"entries": [{"key": "a.zip", "size": None, "filesize": "5", "url": "file:///x"}]},
        {"entries": {"a.zip": {"size": 5, "url": "file:///x"}}},
    ],
)
def test_files_in_every_form_that_was_met(files: Any) -> None:
    hit = {"id": 7.0, "metadata": {"resource_type": {"id": "software"}}, "files": files}
    record = parse_record(hit)
    assert [(file.key, file.size) for file in record.files] == [("a.zip", 5)]
    assert (record.record_id, record.resource_type) == (7, "software")
    assert "file:" not in harvested_json(hit)
