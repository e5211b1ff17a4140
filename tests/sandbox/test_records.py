"""Records, their files, and what stands in the place of those that cannot be had."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable

import pytest
import requests
from serving import Sandbox

from zml_dask.sandbox.corpus import make_record
from zml_dask.sandbox.troubles import METADATA_ONLY, RESTRICTED, WITHDRAWN

Make = Callable[..., Sandbox]
DATA = bytes(range(256)) * 40


@pytest.fixture
def served(make_sandbox: Make) -> Sandbox:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("top/a.py", "x = 1\n")
        archive.writestr("top/b c.txt", "two")
    files = {"lab/tool one-v1.zip": zipped.getvalue(), "data.bin": DATA, "x/content": b"tricky"}
    return make_sandbox([make_record(7, files, concept_id=6), make_record(9)])


def url_of(served: Sandbox, rest: str) -> str:
    return f"{served.api_url}/records/{rest}"


def test_size_and_md5_are_those_of_the_body(served: Sandbox, session: requests.Session) -> None:
    record = session.get(url_of(served, "7")).json()
    assert len(record["files"]) == 3
    for file in record["files"]:
        body = session.get(file["links"]["self"]).content
        assert len(body) == file["size"]
        assert f"md5:{hashlib.md5(body).hexdigest()}" == file["checksum"]


def test_raw_and_quoted_slashes_in_keys_both_work(
    served: Sandbox, session: requests.Session
) -> None:
    for key in ("lab/tool%20one-v1.zip", "lab%2Ftool%20one-v1.zip"):
        assert session.get(url_of(served, f"7/files/{key}/content")).status_code == 200
    assert session.get(url_of(served, "7/files/x/content/content")).content == b"tricky"


def test_ranges(served: Sandbox, session: requests.Session) -> None:
    url = url_of(served, "7/files/data.bin/content")

    def part(span: str) -> requests.Response:
        return session.get(url, headers={"Range": span})

    first = part("bytes=100-199")
    assert (first.status_code, first.content) == (206, DATA[100:200])
    assert first.headers["Content-Range"] == f"bytes 100-199/{len(DATA)}"
    assert part("bytes=10000-").content == DATA[10_000:]
    assert part("bytes=-7").content == DATA[-7:]
    assert part(f"bytes=5-{10**9}").content == DATA[5:]
    beyond = part(f"bytes={len(DATA)}-")
    assert (beyond.status_code, beyond.content) == (416, b"")
    for ignored in ("bytes=1-2,5-6", "lines=1-2", "bytes=x-y"):
        assert part(ignored).status_code == 200
    head = session.head(url)
    assert (head.headers["Content-Length"], head.content) == (str(len(DATA)), b"")


def test_what_cannot_be_had_says_so_in_zenodo_s_words(
    sandbox: Sandbox, session: requests.Session
) -> None:
    restricted = session.get(url_of(sandbox, str(RESTRICTED))).json()
    assert (restricted["files"], restricted["metadata"]["access_right"]) == ([], "restricted")
    for rest in ("files", "files/tides.zip/content"):
        answer = session.get(url_of(sandbox, f"{RESTRICTED}/{rest}"))
        assert answer.status_code == 403
        assert answer.json() == {"status": 403, "message": "Permission denied."}
    announced = session.get(url_of(sandbox, str(METADATA_ONLY))).json()
    assert (announced["files"], announced["metadata"]["access_right"]) == ([], "open")
    gone = session.get(url_of(sandbox, str(WITHDRAWN)))
    assert gone.status_code == 410
    assert gone.json()["tombstone"]["removal_reason"]["id"] == "retracted"
    unknown = session.get(url_of(sandbox, "99999999"))
    assert unknown.status_code == 404
    assert unknown.json()["message"] == "The persistent identifier does not exist."
    no_file = session.get(url_of(sandbox, f"{METADATA_ONLY}/files/a/b.zip/content"))
    assert no_file.status_code == 404
    assert "has no file 'a/b.zip'" in no_file.json()["message"]


def test_a_concept_leads_to_its_latest_version(served: Sandbox, session: requests.Session) -> None:
    answer = session.get(url_of(served, "6?x=1"))
    assert answer.history[0].status_code == 302
    assert answer.url == url_of(served, "7")
    latest = session.get(url_of(served, "7/versions/latest"))
    assert latest.json()["id"] == 7
    assert session.get(url_of(served, "7/versions")).json()["hits"]["total"] == 1


def test_the_listing_and_the_page(served: Sandbox, session: requests.Session) -> None:
    listing = session.get(url_of(served, "7/files")).json()["entries"]
    assert {entry["key"] for entry in listing} == {"lab/tool one-v1.zip", "data.bin", "x/content"}
    one = session.get(url_of(served, "7/files/data.bin")).json()
    assert one["size"] == len(DATA)
    site = served.api_url.removesuffix("/api")
    page = session.get(f"{site}/record/7/files/data.bin", params={"download": "1"})
    assert page.history[0].status_code == 301
    assert page.content == DATA
    native = {"Accept": "application/vnd.inveniordm.v1+json"}
    assert session.get(url_of(served, "7/files"), headers=native).status_code == 406


def test_the_default_agent_of_requests_is_blocked_with_a_page(served: Sandbox) -> None:
    answer = requests.get(url_of(served, "7/files/data.bin/content"))
    assert answer.status_code == 403
    assert "unusual traffic" in answer.text
    assert "json" not in answer.headers["Content-Type"]


def test_other_paths_and_methods(served: Sandbox, session: requests.Session) -> None:
    assert session.get(f"{served.api_url}/nothing").status_code == 404
    assert session.get(url_of(served, "7/nothing")).status_code == 404
    assert session.post(url_of(served, "7")).status_code == 501


def test_nothing_is_served_after_the_end(session: requests.Session, make_sandbox: Make) -> None:
    with Sandbox(make_sandbox([make_record(7)]).corpus) as served:
        url = url_of(served, "7")
        assert session.get(url).status_code == 200
    # Neither on a new connection nor on the one that was kept.
    with pytest.raises(requests.ConnectionError):
        session.get(url)
