"""What the client sends and to whom, and what it makes of answers that are no file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import requests

from zml_dask.errors import NetworkError, UsageError
from zml_dask.net.client import HttpClient, HttpOptions, Token
from zml_dask.net.connection import new_session

from .conftest import BODY, MD5, Misbehaving


@pytest.mark.parametrize(
    ("status", "body", "kind", "requests"),
    [
        (403, b'{"status": 403, "message": "Permission denied."}', "forbidden", 1),
        (403, b"<!DOCTYPE html><html>blocked due to unusual traffic</html>", "blocked", 1),
        (403, b"\n<!-- " + b"-" * 300 + b"--><html>no</html>", "blocked", 1),
        (403, b"", "forbidden", 1),
        (404, b"{}", "not_found", 1),
        (410, b'{"status": 410, "message": "Record deleted"}', "gone", 1),
        (400, b'{"message": "no"}', "bad_request", 1),
        (416, b"", "bad_request", 1),
        (500, b"", "server_error", 6),
        (503, b"", "server_error", 6),
    ],
)
def test_each_refusal_is_an_error_of_its_own_and_retried_only_where_it_may_pass(
    server: Misbehaving,
    client: HttpClient,
    target: Path,
    status: int,
    body: bytes,
    kind: str,
    requests: int,
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(status, body))
    with pytest.raises(NetworkError, check=lambda error: error.kind == kind):
        client.download(url, target)
    assert len(server.requests) == requests
    assert not list(target.parent.iterdir())


_PAGE = b"""<!DOCTYPE html>
<!-- nginx --><html><head><title>Service&nbsp;down</title>
<style>h1 > b { color: red }</style><SCRIPT>if (1 < 2) alert("</p>")</SCRIPT></head>
<body class="x"><h1>Back at 8&#58;00</h1><p>We are <b>sorry</b>.</p><script>
"""


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (_PAGE, "Service down Back at 8:00 We are sorry ."),
        (b"<html><body>" + b"<p>no</p> " * 900, " ".join(["no"] * 100)[:200]),
        (b"<Error><Code>AccessDenied</Code><Message>No access</Message>", "AccessDenied No access"),
    ],
)
def test_of_a_server_s_page_the_text_is_quoted(
    server: Misbehaving, client: HttpClient, target: Path, page: bytes, text: str
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(400, page))
    with pytest.raises(NetworkError) as caught:
        client.download(url, target)
    assert f" answers 400 ({text!r}): the request" in str(caught.value)


def test_a_500_to_a_search_is_final(server: Misbehaving, client: HttpClient) -> None:
    url = server.on("/api/records", lambda exchange: exchange.send(500, b'{"message": "oops"}'))
    with pytest.raises(NetworkError, match="query", check=lambda error: error.kind == "bad_query"):
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
        with pytest.raises(NetworkError, check=lambda error: error.kind == "rate_limited"):
            client.download(url, target)
        assert len(server.asked("/never")) == 3


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://x/y", "gopher://x", "http://user:pw@host/", "//", "http://[", ""],
)
def test_redirects_off_http_are_refused(
    server: Misbehaving, client: HttpClient, target: Path, location: str
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(302, Location=location))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"):
        client.download(url, target)


def test_redirects_end(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send(302, Location="/f"))
    with pytest.raises(
        NetworkError, match="10 times", check=lambda error: error.kind == "bad_redirect"
    ):
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
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_url"):
        client.download(url, target)
    assert client.requests_sent == 0


def test_nobody_there_is_a_connection_error(client: HttpClient, target: Path) -> None:
    with pytest.raises(NetworkError, check=lambda error: error.kind == "connection"):
        client.download("http://127.0.0.1:9/none", target)


def test_json_in_any_form_and_none(server: Misbehaving, client: HttpClient) -> None:
    body = b'{"hits": [1, 2]}'
    packed = gzip.compress(body)
    url = server.on("/j", lambda exchange: exchange.send(200, packed, Content_Encoding="gzip"))
    answer = client.get_json(url, {"q": "a b"})
    assert answer.payload == {"hits": [1, 2]}
    for junk in (b"<html>", b"\xff\xfe", b"[" * 100_000, b""):
        server.on("/j", lambda exchange, junk=junk: exchange.send(200, junk))
        with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_answer"):
            client.get_json(url)


def test_json_is_bounded_however_it_is_packed(server: Misbehaving, target: Path) -> None:
    bomb = gzip.compress(b'"' + bytes(20_000_000) + b'"')
    url = server.on("/j", lambda exchange: exchange.send(200, bomb, Content_Encoding="gzip"))
    options = HttpOptions(max_json_bytes=1_000_000)
    with (
        HttpClient(options) as client,
        pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"),
    ):
        client.get_json(url)


def test_whom_to_ask_is_for_the_user_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZML_CONTACT", "mailto:me@example.org")
    assert HttpOptions().user_agent.endswith("(+mailto:me@example.org)")
    for unfit in ("Łódź", "me\nX-Header: 1"):
        monkeypatch.setenv("ZML_CONTACT", unfit)
        with pytest.raises(UsageError, match="ZML_CONTACT"):
            HttpOptions()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"two words", "not one word"), (b"\xff", "cannot be read")],
)
def test_a_token_file_that_holds_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        Token.load(path, "https://zenodo.org/api")
    with pytest.raises(UsageError, match="cannot be read"):
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
        session = new_session(HttpOptions().user_agent, Token("abc", host))
        request = session.prepare_request(requests.Request("GET", url))
        assert ("Authorization" in request.headers) == is_sent, url
