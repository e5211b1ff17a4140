"""The sandbox's metadata dumps have Zenodo's forms."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime

import requests
from serving import Sandbox

from zml_dask.records.parse import parse_record
from zml_dask.sandbox.corpus import Withdrawal, make_record

Make = Callable[..., Sandbox]
KEYS = {"records-json.tar.gz", "records-deleted.csv.gz"}


def served_of(make_sandbox: Make) -> Sandbox:
    return make_sandbox(
        [
            make_record(1, {"a.zip": b"PK"}, concept_id=10, is_latest=False),
            make_record(3, {"a.zip": b"PK2"}, concept_id=10),
            make_record(5, resource_type="dataset", access="restricted"),
            make_record(7, withdrawal=Withdrawal(reason="spam", note="Not, really")),
        ]
    )


def test_the_listing_has_two_keys_whose_contents_are_as_it_says(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = served_of(make_sandbox)
    listing = session.get(f"{served.api_url}/exporter").json()
    assert set(listing) == KEYS
    for key, [version] in listing.items():
        assert version["is_head"] is True
        assert datetime.fromisoformat(version["created"]).tzinfo is not None
        assert set(version["links"]) == {"self", "self_head"}
        contents = {session.get(url).content for url in version["links"].values()}
        [content] = contents
        assert version["size"] == len(content)
        assert version["checksum"] == f"md5:{hashlib.md5(content).hexdigest()}"
        part = session.get(version["links"]["self"], headers={"Range": "bytes=3-9"})
        assert (part.status_code, part.content) == (206, content[3:10])
        assert session.get(f"{served.api_url}/exporter/{key}/unknown").status_code == 404
    assert session.get(f"{served.api_url}/exporter/records.zip").status_code == 404


def test_the_dumps_hold_what_is_public(make_sandbox: Make, session: requests.Session) -> None:
    served = served_of(make_sandbox)
    content = session.get(f"{served.api_url}/exporter/records-json.tar.gz").content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = archive.getnames()
        hits = [json.load(archive.extractfile(name)) for name in names]
    assert names == ["1.json", "3.json", "5.json"]
    native = {"Accept": "application/vnd.inveniordm.v1+json"}
    for hit in hits:
        assert hit == session.get(f"{served.api_url}/records/{hit['id']}", headers=native).json()
    assert [parse_record(hit).access for hit in hits] == ["open", "open", "restricted"]
    content = session.get(f"{served.api_url}/exporter/records-deleted.csv.gz").content
    [row] = csv.DictReader(io.StringIO(gzip.decompress(content).decode()))
    assert row["record_id"] == "7"
    assert row["removal_reason"] == "spam"
    assert row["removal_note"] == "Not, really"


def test_three_versions_are_kept_and_stay_as_they_were(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = served_of(make_sandbox)
    assert len(session.get(f"{served.api_url}/exporter").json()["records-json.tar.gz"]) == 1
    served.corpus.add(make_record(9))
    assert len(session.get(f"{served.api_url}/exporter").json()["records-json.tar.gz"]) == 2
    for month in (3, 4, 5):
        served.exporter.make(served.api_url, datetime(2026, month, 1, tzinfo=UTC))
        served.corpus.add(make_record(100 + month))
    versions = session.get(f"{served.api_url}/exporter").json()["records-json.tar.gz"]
    assert [one["created"][5:7] for one in versions] == ["05", "04", "03"]
    assert [one["is_head"] for one in versions] == [True, False, False]
    counts = []
    for one in versions:
        with tarfile.open(fileobj=io.BytesIO(session.get(one["links"]["self"]).content)) as dump:
            counts.append(len(dump.getnames()))
    assert counts == [6, 5, 4]
