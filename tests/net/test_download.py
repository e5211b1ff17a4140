"""Downloads from servers that cut, lie, stall, redirect and refuse."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import threading
from pathlib import Path

import pytest
import requests

from zml_dask.net import download as download_module
from zml_dask.net.errors import (
    BadAnswerError,
    BadRedirectError,
    BadRequestError,
    BadUrlError,
    BlockedError,
    ChecksumError,
    ConnectError,
    DeadlineError,
    DiskFullError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    RangeUnsupportedError,
    RateLimitedError,
    ScratchError,
    ServerError,
    TooLargeError,
    TruncatedError,
)
from zml_dask.net.http import HttpClient, HttpOptions, Token
from zml_dask.net.options import TokenFileError
from zml_dask.net.session import new_session

from .conftest import Misbehaving

BODY = bytes(range(256)) * 4096
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def test_a_file_costs_one_request(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    download = client.download(url, target, checksum=MD5, size=len(BODY))
    assert target.read_bytes() == BODY
    assert (download.bytes, download.requests, download.complete) == (len(BODY), 1, True)
    assert f"md5:{download.md5}" == MD5
    assert len(server.requests) == 1


def test_we_say_who_we_are_and_want_no_second_compression(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    client.download(url, target)
    (headers,) = server.asked("/f")
    assert headers["user-agent"].startswith("zml-dask/")
    assert "(+https://" in headers["user-agent"]
    assert headers["accept-encoding"] == "identity"


def test_a_body_that_breaks_off_goes_on_where_it_was(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on(
        "/f", lambda exchange: exchange.send_file(BODY, upto=400_000, ETag='"version 1"')
    )
    download = client.download(url, target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert download.requests == 3
    assert [headers.get("range") for headers in server.asked("/f")] == [
        None,
        "bytes=400000-",
        "bytes=800000-",
    ]
    assert server.asked("/f")[1]["if-range"] == '"version 1"'


def test_a_server_without_range_sends_all_again(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on(
        "/f",
        lambda exchange: exchange.send(
            200, BODY[:1000] if exchange.number < 2 else BODY, Content_Length=str(len(BODY))
        ),
    )
    client.download(url, target, checksum=MD5)
    assert target.read_bytes() == BODY


def test_a_file_that_changes_meanwhile_is_begun_again(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    old = b"x" * 5000
    url = server.on(
        "/f",
        lambda exchange: exchange.send_file(
            BODY if exchange.number else old, upto=None if exchange.number else 2000
        ),
    )
    client.download(url, target, size=len(BODY))
    assert target.read_bytes() == BODY


def test_a_shorter_file_than_before_is_begun_again(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    small = b"small"
    url = server.on(
        "/f",
        lambda exchange: exchange.send_file(
            small if exchange.number else BODY, upto=None if exchange.number else 2000
        ),
    )
    client.download(url, target)
    assert target.read_bytes() == small


def test_a_promise_of_more_than_there_is_costs_nothing_where_the_md5_is_right(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on(
        "/f", lambda exchange: exchange.send(200, BODY, Content_Length=str(len(BODY) + 7))
    )
    assert client.download(url, target, checksum=MD5).requests == 1
    assert target.read_bytes() == BODY


def test_a_promise_of_less_than_there_is_is_made_up_for(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    def script(exchange: object) -> None:
        if exchange.number:
            exchange.send_file(BODY)
        else:
            exchange.send(200, BODY[:5000])

    url = server.on("/f", script)
    client.download(url, target, checksum=MD5, size=len(BODY))
    assert target.read_bytes() == BODY
    assert server.asked("/f")[1]["range"] == "bytes=5000-"


def test_a_body_that_is_always_short_is_truncated(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(200, BODY[:5000]))
    with pytest.raises(TruncatedError):
        client.download(url, target, checksum=MD5, size=len(BODY))
    assert len(server.requests) == client.options.attempts
    assert not list(target.parent.iterdir())


def test_a_wrong_md5_is_tried_once_more_and_then_final(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY[::-1]))
    with pytest.raises(ChecksumError) as caught:
        client.download(url, target, checksum=MD5, size=len(BODY))
    assert caught.value.permanent
    assert len(server.requests) == 2
    assert not list(target.parent.iterdir())


def test_a_stall_ends_and_is_tried_again(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    released = threading.Event()

    def script(exchange: object) -> None:
        if exchange.number == 0:
            exchange.handler.send_response(200)
            exchange.handler.send_header("Content-Length", str(len(BODY)))
            exchange.handler.end_headers()
            exchange.handler.wfile.write(BODY[:1000])
            released.wait(30)
        else:
            exchange.send_file(BODY)

    url = server.on("/f", script)
    try:
        client.download(url, target, checksum=MD5)
    finally:
        released.set()
    assert target.read_bytes() == BODY


def test_a_server_that_drips_meets_the_deadline(server: Misbehaving, target: Path) -> None:
    released = threading.Event()

    def script(exchange: object) -> None:
        exchange.handler.send_response(200)
        exchange.handler.send_header("Content-Length", "1000000")
        exchange.handler.end_headers()
        while not released.wait(0.02):
            exchange.handler.wfile.write(b".")

    url = server.on("/f", script)
    try:
        options = HttpOptions(deadline=0.3, backoff=0.001)
        with HttpClient(options) as client, pytest.raises(DeadlineError):
            client.download(url, target)
    finally:
        released.set()


def test_503_for_a_while_loses_nothing(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    def script(exchange: object) -> None:
        if exchange.number < 4:
            exchange.send(503, b"<html>later</html>")
        else:
            exchange.send_file(BODY)

    client.download(server.on("/f", script), target, checksum=MD5)
    assert target.read_bytes() == BODY


def test_many_cuts_with_progress_between_are_not_counted_against_a_file(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    body = os.urandom(12 * 1024 * 1024)
    url = server.on("/f", lambda exchange: exchange.send_file(body, upto=1_100_000))
    download = client.download(url, target, size=len(body))
    assert download.requests > client.options.attempts
    assert target.read_bytes() == body


@pytest.mark.parametrize(
    ("status", "body", "error", "requests"),
    [
        (403, b'{"status": 403, "message": "Permission denied."}', ForbiddenError, 1),
        (403, b"<!DOCTYPE html><html>blocked due to unusual traffic</html>", BlockedError, 1),
        (403, b"\n<!-- " + b"-" * 300 + b"--><html>no</html>", BlockedError, 1),
        (403, b"", ForbiddenError, 1),
        (404, b"{}", NotFoundError, 1),
        (410, b'{"status": 410, "message": "Record deleted"}', GoneError, 1),
        (400, b'{"message": "no"}', BadRequestError, 1),
        (416, b"", BadRequestError, 1),
        (500, b"", ServerError, 6),
        (503, b"", ServerError, 6),
    ],
)
def test_each_refusal_is_an_error_of_its_own_and_retried_only_where_it_may_pass(
    server: Misbehaving,
    client: HttpClient,
    target: Path,
    status: int,
    body: bytes,
    error: type[Exception],
    requests: int,
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(status, body))
    with pytest.raises(error):
        client.download(url, target)
    assert len(server.requests) == requests
    assert not list(target.parent.iterdir())


def test_a_500_to_a_search_is_final(server: Misbehaving, client: HttpClient) -> None:
    url = server.on("/api/records", lambda exchange: exchange.send(500, b'{"message": "oops"}'))
    with pytest.raises(BadRequestError, match="query"):
        client.get_json(url, {"q": "a:b:c"})
    assert len(server.requests) == 1


def test_429_waits_as_asked_and_not_for_ever(
    server: Misbehaving, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("zml_dask.net.throttle.time.sleep", sleep)
    monkeypatch.setattr("zml_dask.net.throttle.time.monotonic", lambda: clock[0])

    def script(exchange: object) -> None:
        if exchange.number == 0:
            exchange.send(429, b"{}", Retry_After="7")
        else:
            exchange.send_file(BODY, Retry_After="59")

    with HttpClient(HttpOptions(rate_limit_attempts=3)) as client:
        client.download(server.on("/f", script), target, checksum=MD5)
        # Once, on the 429; Retry-After of a good answer means nothing.
        client.download(server.url + "/f", target, checksum=MD5)
        assert sum(slept) == pytest.approx(7.0)
        url = server.on("/never", lambda exchange: exchange.send(429, b"{}", Retry_After="1"))
        with pytest.raises(RateLimitedError):
            client.download(url, target)
        assert len(server.asked("/never")) == 3


def test_a_file_over_the_limit_is_refused_before_its_body(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    with pytest.raises(TooLargeError):
        client.download(url, target, max_bytes=len(BODY) - 1)
    assert client.download(url, target, max_bytes=len(BODY)).bytes == len(BODY)


def test_a_file_of_unknown_length_is_refused_once_it_is_over(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(200, BODY, Content_Length=""))

    def script(exchange: object) -> None:
        exchange.handler.send_response(200)
        exchange.handler.send_header("Connection", "close")
        exchange.handler.end_headers()
        exchange.handler.wfile.write(BODY)
        exchange.cut()

    url = server.on("/f", script)
    with pytest.raises(TooLargeError):
        client.download(url, target, max_bytes=1000)
    assert client.download(url, target, checksum=MD5).bytes == len(BODY)


def test_what_the_first_bytes_show_as_unwanted_is_not_fetched(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    heads: list[bytes] = []

    def wanted(head: bytes) -> bool:
        heads.append(head)
        return False

    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    download = client.download(url, target, wanted=wanted)
    assert (download.complete, heads) == (False, [BODY[:512]])
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://x/y", "gopher://x", "http://user:pw@host/", "//", "http://[", ""],
)
def test_redirects_off_http_are_refused(
    server: Misbehaving, client: HttpClient, target: Path, location: str
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(302, Location=location))
    with pytest.raises(BadRedirectError):
        client.download(url, target)


def test_redirects_end(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send(302, Location="/f"))
    with pytest.raises(BadRedirectError, match="10 times"):
        client.download(url, target)


def test_the_token_goes_to_its_host_alone(
    server: Misbehaving, other_server: Misbehaving, target: Path
) -> None:
    token = Token("very-secret", server.url.removeprefix("http://"))
    there = other_server.on("/file", lambda exchange: exchange.send_file(BODY))
    url = server.on("/f", lambda exchange: exchange.send(302, Location=there))
    with HttpClient(token=token) as client:
        client.download(url, target)
    assert server.asked("/f")[0]["authorization"] == "Bearer very-secret"
    assert "authorization" not in other_server.asked("/file")[0]
    assert "very-secret" not in repr(token) + str(token) + repr(client.options)


def test_credentials_of_the_user_go_nowhere(
    server: Misbehaving, client: HttpClient, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = target.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client.download(server.on("/f", lambda exchange: exchange.send_file(BODY)), target)
    assert "authorization" not in server.asked("/f")[0]


def test_cookies_are_not_kept(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY, Set_Cookie="id=1; Path=/"))
    client.download(url, target)
    client.download(url, target)
    assert "cookie" not in server.asked("/f")[1]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "/etc/passwd", "ftp://a/b", "http://", "http://u:p@h/", "http://h/a b"],
)
def test_only_http_is_fetched(client: HttpClient, target: Path, url: str) -> None:
    with pytest.raises(BadUrlError):
        client.download(url, target)
    assert client.requests_sent == 0


def test_nobody_there_is_a_connection_error(client: HttpClient, target: Path) -> None:
    with pytest.raises(ConnectError):
        client.download("http://127.0.0.1:9/none", target)


def test_a_full_disk_says_so(
    server: Misbehaving, client: HttpClient, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(download_module.TransferPlan, "part", property(lambda self: full))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    with pytest.raises(DiskFullError, match="space") as caught:
        client.download(url, target)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert len(server.requests) == 1


def test_a_folder_that_is_not_there_says_so(client: HttpClient, target: Path) -> None:
    with pytest.raises(ScratchError):
        client.download("http://127.0.0.1:9/none", target / "no" / "such")


def test_a_remnant_is_taken_up_by_the_next_run(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(200, BODY[:5000], Content_Length="9999"))
    with pytest.raises(ConnectError):
        client.download(url, target, checksum=MD5, keep_partial=True)
    server.on("/f", lambda exchange: exchange.send_file(BODY))
    client.download(url, target, checksum=MD5, keep_partial=True)
    assert target.read_bytes() == BODY
    assert server.asked("/f")[-1]["range"] == "bytes=5000-"


def test_a_wrong_remnant_is_thrown_away(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    target.with_name("archive.part").write_bytes(b"something else")
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    client.download(url, target, checksum=MD5, keep_partial=True)
    assert target.read_bytes() == BODY


def test_parts_of_a_file(server: Misbehaving, client: HttpClient) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    assert client.read_range(url, 100, 300) == BODY[100:300]
    assert client.read_range(url, len(BODY) - 5, len(BODY) + 50) == BODY[-5:]
    whole = server.on("/whole", lambda exchange: exchange.send(200, BODY))
    with pytest.raises(RangeUnsupportedError):
        client.read_range(whole, 100, 300)


def test_parts_that_break_off_are_asked_for_again(server: Misbehaving, client: HttpClient) -> None:
    url = server.on(
        "/f", lambda exchange: exchange.send_file(BODY, upto=None if exchange.number else 10)
    )
    assert client.read_range(url, 100, 300) == BODY[100:300]
    assert len(server.requests) == 2


@pytest.mark.parametrize("cut", [False, True])
def test_a_chunked_body(server: Misbehaving, client: HttpClient, target: Path, cut: bool) -> None:
    def script(exchange: object) -> None:
        exchange.handler.send_response(200)
        exchange.handler.send_header("Transfer-Encoding", "chunked")
        exchange.handler.end_headers()
        for start in range(0, len(BODY), 100_000):
            piece = BODY[start : start + 100_000]
            exchange.handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if cut and exchange.number == 0:
                exchange.cut()
                return
        exchange.handler.wfile.write(b"0\r\n\r\n")

    download = client.download(server.on("/f", script), target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert download.requests == 1 + cut


def test_json_in_any_form_and_none(server: Misbehaving, client: HttpClient) -> None:
    body = b'{"hits": [1, 2]}'
    packed = gzip.compress(body)
    url = server.on("/j", lambda exchange: exchange.send(200, packed, Content_Encoding="gzip"))
    answer = client.get_json(url, {"q": "a b"})
    assert (answer.payload, answer.status) == ({"hits": [1, 2]}, 200)
    for junk in (b"<html>", b"\xff\xfe", b"[" * 100_000, b""):
        server.on("/j", lambda exchange, junk=junk: exchange.send(200, junk))
        with pytest.raises(BadAnswerError):
            client.get_json(url)


def test_json_is_bounded_however_it_is_packed(server: Misbehaving, target: Path) -> None:
    bomb = gzip.compress(b'"' + bytes(20_000_000) + b'"')
    url = server.on("/j", lambda exchange: exchange.send(200, bomb, Content_Encoding="gzip"))
    options = HttpOptions(max_json_bytes=1_000_000)
    with HttpClient(options) as client, pytest.raises(TooLargeError):
        client.get_json(url)


def test_whom_to_ask_is_for_the_user_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZML_CONTACT", "mailto:me@example.org")
    assert HttpOptions().user_agent.endswith("(+mailto:me@example.org)")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"two words", "not one word"), (b"\xff", "cannot be read")],
)
def test_a_token_file_that_holds_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenFileError, match=said):
        Token.load(path, "https://zenodo.org/api")
    with pytest.raises(TokenFileError, match="cannot be read"):
        Token.load(tmp_path / "none", "https://zenodo.org/api")


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZENODO_TOKEN", raising=False)
    assert Token.load(None, "https://zenodo.org/api") is None
    monkeypatch.setenv("ZENODO_TOKEN", "abc")
    assert Token.load(None, "https://zenodo.org/api") == Token("abc", "zenodo.org")
    (tmp_path / "token").write_text("def\n")
    assert Token.load(tmp_path / "token", "http://127.0.0.1:80/api") == Token("def", "127.0.0.1:80")


def test_a_token_goes_over_https_or_to_this_machine_alone() -> None:
    for url, host, is_sent in (
        ("https://zenodo.org/api", "zenodo.org", True),
        ("http://zenodo.org/api", "zenodo.org", False),
        ("https://zenodo.org.evil.example/api", "zenodo.org", False),
        ("https://sandbox.zenodo.org/api", "zenodo.org", False),
        ("https://ZENODO.org/api", "zenodo.org", True),
        ("https://zenodo.org:444/api", "zenodo.org", False),
        ("http://127.0.0.1:9/api", "127.0.0.1:9", True),
    ):
        session = new_session(HttpOptions(), Token("abc", host))
        request = session.prepare_request(requests.Request("GET", url))
        assert ("Authorization" in request.headers) == is_sent, url
