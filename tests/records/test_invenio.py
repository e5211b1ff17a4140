"""Servers of InvenioRDM other than Zenodo: what differs is learnt from their answers.

The server here answers in the shapes of InvenioRDM 12 as an institution runs
it: names for ids, native JSON whatever is asked for, no parameter ``type``,
another page size, a window of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.net.client import HttpClient, HttpOptions
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.parse import parse_record, record_name, record_number
from zml_dask.records.search import find_withdrawn, listed_hits

BASE_32 = "0123456789abcdefghjkmnpqrstvwxyz"
ZIP = b"PK\x05\x06" + bytes(18)


def name_of(number: int) -> str:
    digits = hashlib.sha256(b"%d" % number).digest()[:10]
    text = "".join(BASE_32[digit % 32] for digit in digits)
    return f"{text[:5]}-{text[5:]}"


def record_json(number: int, root: str) -> dict[str, Any]:
    name = name_of(number)
    kind = ("software", "dataset", "software-computationalnotebook")[number % 3]
    base = f"{root}/records/{name}"
    return {
        "id": name,
        "created": f"2024-{1 + number % 12:02d}-01T0{number % 10}:00:00.123456+00:00",
        "updated": "2025-01-01T00:00:00.000000+00:00",
        "parent": {"id": name_of(10_000 + number), "access": {"owned_by": {"user": "3"}}},
        "pids": {"doi": {"identifier": f"10.70124/{name}", "provider": "datacite"}},
        "versions": {"index": 1, "is_latest": True},
        "metadata": {
            "resource_type": {"id": kind, "title": {"en": kind.title()}},
            "title": f"Work {number}",
            "creators": [{"person_or_org": {"name": "Doodson, Arthur", "type": "personal"}}],
            "rights": [{"id": "mit"}],
            "publication_date": "2024",
        },
        "access": {"record": "public", "files": "public", "status": "open"},
        "files": {
            "enabled": True,
            "count": 1,
            "entries": {
                "code v1.zip": {
                    "key": "code v1.zip",
                    "size": len(ZIP),
                    "checksum": f"md5:{hashlib.md5(ZIP).hexdigest()}",
                }
            },
        },
        "links": {"self": base, "self_html": base.replace("/api", ""), "files": f"{base}/files"},
    }


class Institution(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, count: int, *, most: int, window: int, facet: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.api_url = f"http://127.0.0.1:{self.server_address[1]}/sub/api"
        self.records = [record_json(number, self.api_url) for number in range(count)]
        self.most, self.window, self.facet = most, window, facet
        self.asked: list[str] = []

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if match := re.fullmatch(r"/sub/api/records/([^/]+)(/files/code v1\.zip/content)?", path):
            found = [one for one in self.records if one["id"] == match[1]]
            if not found:
                return 404, {"status": 404, "message": "The persistent identifier does not exist."}
            return 200, ZIP if match[2] else found[0]
        if path != "/sub/api/records":
            return 404, {"status": 404}
        page, size = int(query.get("page", "1")), int(query.get("size", "10"))
        if size > self.most or (page - 1) * size >= self.window:
            return 400, {"status": 400, "message": "Invalid querystring parameters."}
        hits = sorted(self.records, key=lambda one: one["created"])
        q = query.get("q", "")
        if bounds := re.search(r'created:\["(.+?)" TO "(.+?)"\]', q):
            low, high = (bound.rstrip("Z")[:23] for bound in bounds.groups())
            hits = [one for one in hits if low <= one["created"][:23] <= high.ljust(23, "0")]
        if names := re.findall(r'\bid:"(.+?)"', q):
            hits = [one for one in hits if one["id"] in names]
        kind = r"resource_type\.id:software\*"
        if (self.facet and query.get("resource_type") == "software") or re.search(kind, q):
            hits = [
                one for one in hits if one["metadata"]["resource_type"]["id"].startswith("software")
            ]
        shown = hits[(page - 1) * size : page * size]
        return 200, {"hits": {"hits": shown, "total": len(hits)}, "sortBy": "oldest", "links": {}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Institution

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        self.server.asked.append(self.path)
        status, answer = self.server.answer(unquote(target.path), dict(parse_qsl(target.query)))
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[(25, 10_000, True), (10, 40, True), (25, 10_000, False), (10, 30, False)])
def institution(request: pytest.FixtureRequest) -> Iterator[Institution]:
    most, window, facet = request.param
    server = Institution(150, most=most, window=window, facet=facet)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(HttpOptions(backoff=0.0)) as made:
        yield made


def test_the_address_is_enough(
    institution: Institution, client: HttpClient, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    result = harvest(path, HarvestOptions(api_url=institution.api_url), client)
    assert result.finished
    assert result.missing == 0
    expected = {
        one["id"]
        for one in institution.records
        if one["metadata"]["resource_type"]["id"].startswith("software")
    }
    part = tmp_path / "part.jsonl"
    part.write_bytes(path.read_bytes())
    catalogue = Catalogue.open(part)
    assert catalogue.api_url == institution.api_url
    records = list(map(catalogue.read, catalogue.refs))
    assert len(records) == result.records == 100
    assert {record_name(record.record_id) for record in records} == expected
    record = records[0]
    assert record.resource_type == "software"
    assert record.concept_id is not None
    target = tmp_path / "code.zip"
    client.download(record.files[0].url, target, checksum=record.files[0].checksum)
    assert target.read_bytes() == ZIP
    # Nothing is asked for twice when it is asked again.
    institution.asked.clear()
    assert harvest(path, HarvestOptions(api_url=institution.api_url), client).written == 0
    assert len(institution.asked) <= 4


def test_records_are_asked_for_by_their_names(institution: Institution, client: HttpClient) -> None:
    ids = [record_number(name_of(number)) for number in (3, 6)]
    gone = record_number("00000-00000")
    assert gone is not None
    wanted = [one for one in ids if one is not None]
    [(asked, hits)] = listed_hits(wanted, client, institution.api_url)
    assert set(asked) == set(hits) == set(wanted)
    [(withdrawn, answer)] = find_withdrawn([*wanted, gone], client, institution.api_url)
    assert (withdrawn, answer.kind) == (gone, "not_found")


@given(st.text(BASE_32, min_size=10, max_size=10))
def test_a_name_is_a_number_and_back(digits: str) -> None:
    name = f"{digits[:5]}-{digits[5:]}"
    number = record_number(name)
    assert number is not None
    assert 2**52 <= number < 2**53
    assert record_name(number) == name
    assert parse_record({"id": name, "metadata": {}}).record_id == number


def test_numbers_stay_as_they_are() -> None:
    assert [record_number(one) for one in (7, "7", 2**40, "4bptb-2vq0", "4bptb-2vq0u", 1.5)] == [
        *(7, 7, 2**40),
        *(None, None, None),
    ]
    assert record_name(13850346) == "13850346"
