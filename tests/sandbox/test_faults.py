"""Each fault, when it is switched on, and how often."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
from serving import Faults, Sandbox

from zml_dask.sandbox.corpus import make_record
from zml_dask.sandbox.server import RateLimiter, SandboxLimits

Make = Callable[..., Sandbox]
DATA = bytes(range(256)) * 4000


@pytest.fixture
def served(make_sandbox: Make) -> Sandbox:
    return make_sandbox([make_record(7, {"data.bin": DATA})])


def fetch(served: Sandbox) -> tuple[int, bytes, int]:
    """Status, whatever came of the body, and the length that was stated."""
    parts = urlsplit(f"{served.api_url}/records/7/files/data.bin/content")
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    connection.request("GET", parts.path, headers={"User-Agent": "tests"})
    answer = connection.getresponse()
    stated = int(answer.headers["Content-Length"])
    try:
        body = answer.read()
    except http.client.IncompleteRead as short:
        body = short.partial
    finally:
        connection.close()
    return answer.status, body, stated


def test_every_third_body_is_cut(served: Sandbox) -> None:
    served.faults = Faults(cut_every=3)
    lengths = [len(fetch(served)[1]) for _ in range(6)]
    assert lengths == [len(DATA), len(DATA), len(DATA) // 2] * 2


def test_corrupt_lying_and_stalling_bodies(served: Sandbox) -> None:
    served.faults = Faults(corrupt_every=1)
    _, body, stated = fetch(served)
    assert (len(body), stated) == (len(DATA), len(DATA))
    assert sum(a != b for a, b in zip(body, DATA, strict=True)) == 1
    served.faults = Faults(lie_every=1)
    _, body, stated = fetch(served)
    assert body == DATA
    assert stated > len(DATA)
    served.faults = Faults(stall_every=1, stall_seconds=0.2)
    begun = time.monotonic()
    assert fetch(served)[1] == DATA[: len(DATA) // 2]
    assert time.monotonic() - begun >= 0.2


def test_unavailable_for_a_while(served: Sandbox, session: requests.Session) -> None:
    served.faults = Faults(unavailable=2)
    statuses = [session.get(f"{served.api_url}/records/7").status_code for _ in range(4)]
    assert statuses == [503, 503, 200, 200]


def test_redirects_wrong_md5s_no_ranges_and_blocks(
    served: Sandbox, session: requests.Session
) -> None:
    content = f"{served.api_url}/records/7/files/data.bin/content"
    served.faults = Faults(redirect_to="http://127.0.0.1:9/elsewhere")
    moved = session.get(content, allow_redirects=False)
    assert moved.status_code == 302
    assert moved.headers["Location"].startswith("http://127.0.0.1:9/elsewhere/api/records/7/")
    served.faults = Faults(wrong_checksums=frozenset({7}))
    [file] = session.get(f"{served.api_url}/records/7").json()["files"]
    assert file["checksum"] == "md5:" + "0" * 32
    served.faults = Faults(no_range=True)
    whole = session.get(content, headers={"Range": "bytes=5-9"})
    assert (whole.status_code, whole.content) == (200, DATA)
    served.faults = Faults(blocked=True)
    assert session.get(content).status_code == 403


def test_the_log_tells_requests_apart(served: Sandbox, session: requests.Session) -> None:
    session.get(f"{served.api_url}/records")
    session.get(f"{served.api_url}/records/7", headers={"Authorization": "Bearer x"})
    fetch(served)
    assert len(served.requests) == 3
    assert [seen.path for seen in served.requests.searches] == ["/api/records"]
    assert [seen.agent for seen in served.requests.downloads] == ["tests"]
    assert [seen.is_authenticated for seen in served.requests] == [False, True, False]
    served.requests.clear()
    assert len(served.requests) == 0


def test_a_limit_is_enforced_by_client_and_told_in_headers(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = make_sandbox([make_record(7)], limits=SandboxLimits(search=2, minute=3, hour=4))
    url = f"{served.api_url}/records"
    statuses = [session.get(f"{url}/7").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    searches = [session.get(url) for _ in range(3)]
    assert [answer.status_code for answer in searches] == [200, 200, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in searches] == ["1", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in searches} == {"2"}
    assert 0 < int(searches[2].headers["Retry-After"]) <= 60
    assert 0 <= int(searches[2].headers["X-RateLimit-Reset"]) - time.time() <= 61
    # Another agent has a budget of its own, and so has an account.
    assert session.get(url, headers={"User-Agent": "other"}).status_code == 200
    assert session.get(url, headers={"Authorization": "Bearer x"}).status_code == 200


def test_the_windows_move() -> None:
    now = [1000.0]
    limiter = RateLimiter(SandboxLimits(minute=2, hour=3), clock=lambda: now[0])

    def ask(at: float) -> bool:
        now[0] = 1000.0 + at
        return limiter.ask("me", is_search=False)[0]

    assert [ask(0), ask(30), ask(59.9)] == [True, True, False]
    assert [ask(60), ask(61)] == [True, False]
    # The minute has room again, the hour has not.
    assert [ask(200), ask(3599), ask(3600)] == [False, False, True]


def test_eight_clients_at_once_get_whole_bodies(served: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: fetch(served)[1], range(64)))
    assert all(body == DATA for body in bodies)
    assert len(served.requests) == 64
