"""Networks of real sites: proxies, certificates, and servers that cannot be reached."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from zml_dask.errors import NetworkError
from zml_dask.net.client import HttpClient, HttpOptions
from zml_dask.net.connection import resolve

from .networks import certificate, send, socks_proxy, web_server

OPTIONS = HttpOptions(backoff=0.001, max_backoff=0.01)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url() -> Iterator[str]:
    with web_server(lambda handler: send(handler, 200, b'{"here": 1}')) as url:
        yield url


def failure_of(url: str) -> tuple[str, int]:
    """What is said of a URL that cannot be read, and after how many requests."""
    with HttpClient(OPTIONS) as client:
        with pytest.raises(NetworkError, check=lambda error: error.kind == "connection") as caught:
            client.get_json(url)
        message = str(caught.value)
        assert "\n" not in message
        return message, client.requests_sent


@pytest.mark.parametrize(
    ("scheme", "variable", "kind"),
    [
        ("socks5h", "ALL_PROXY", 3),
        ("socks5", "all_proxy", 1),
        ("socks5h", "HTTP_PROXY", 3),
        ("SOCKS5H", "http_proxy", 3),
    ],
)
def test_socks_proxies_work(
    monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str, kind: int
) -> None:
    with (
        web_server(lambda handler: send(handler, 200, b'{"here": 1}')) as url,
        socks_proxy() as proxy,
    ):
        proxy.names["inside.example"] = "127.0.0.1"
        if kind == 3:
            url = url.replace("127.0.0.1", "inside.example")
        monkeypatch.setenv(variable, f"{scheme}://{proxy.url}")
        with HttpClient(OPTIONS) as client:
            for _ in range(2):
                assert client.get_json(url).payload == {"here": 1}
        assert [asked[0] for asked in proxy.asked] == [kind]


def test_tls_by_way_of_socks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    with (
        web_server(lambda handler: send(handler, 200, b"[1]"), tls=pair) as url,
        socks_proxy() as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"socks5h://{proxy.url}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair[0]))
        with HttpClient(OPTIONS) as client:
            assert client.get_json(url).payload == [1]
        assert len(proxy.asked) == 1


def test_time_is_watched_by_way_of_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: object) -> None:
        while True:
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    with web_server(drip) as url, socks_proxy() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.url}")
        with (
            HttpClient(HttpOptions(deadline=0.3)) as client,
            pytest.raises(Exception, match="takes longer than"),
        ):
            client.get_json(url)


def test_socks_without_its_package_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    for name in ("socks", "urllib3.contrib.socks"):
        monkeypatch.setitem(sys.modules, name, None)
    from requests import adapters

    def missing(*args: object, **options: object) -> None:
        raise adapters.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr(adapters, "SOCKSProxyManager", missing)
    message, requests_sent = failure_of(url)
    assert "pip install 'zml-dask[socks]'" in message
    assert "ALL_PROXY" in message
    assert requests_sent == 1


@pytest.mark.parametrize("scheme", ["socks5h", "http", "socks4a"])
def test_a_proxy_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, scheme: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}://me:secret@127.0.0.1:1")
    message, _ = failure_of(url)
    assert f"the proxy {scheme}://127.0.0.1:1, which HTTP_PROXY names" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("scheme", "status", "words"),
    [
        ("http", 407, "Required; check the user and password"),
        ("https", 407, "Required; check the user and password"),
        ("https", 403, "Forbidden; it may not let this host"),
    ],
)
def test_a_proxy_that_refuses_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, scheme: str, status: int, words: str
) -> None:
    with web_server(lambda handler: send(handler, status, b"who are you?")) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        message, requests_sent = failure_of(f"{scheme}://example.org/")
        assert f"{scheme.upper()}_PROXY names, answers {status} " in message
        assert words in message
        assert requests_sent == 1
        monkeypatch.setenv("https_proxy", proxy.replace("http:", "https:"))
        assert "HTTPS_PROXY names, does not speak TLS" in failure_of("https://example.org/")[0]


def test_no_proxy_is_followed(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HttpClient(OPTIONS) as client:
        assert client.get_json(url).payload == {"here": 1}


@pytest.mark.parametrize(
    ("host", "days", "trusted", "words"),
    [
        ("127.0.0.1", (-1, 1), False, "its certificate is not trusted (self-signed certificate"),
        ("127.0.0.1", (-9, -2), True, "certificate has expired"),
        ("127.0.0.1", (2, 9), True, "certificate is not yet valid"),
        ("elsewhere.example", (-1, 1), True, "its certificate is that of another host"),
        ("127.0.0.9", (-1, 1), True, "its certificate is that of another host"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str,
    days: tuple[int, int],
    trusted: bool,
    words: str,
) -> None:
    pair = certificate(tmp_path, host, days=days)
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair[0]))
    with web_server(lambda handler: send(handler, 200, b"[]"), tls=pair) as url:
        message, requests_sent = failure_of(url)
    assert words in message
    assert requests_sent == 1
    assert ("REQUESTS_CA_BUNDLE" in message) == ("another host" not in message)


def test_the_variable_that_is_named_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair[0]))
    with (
        web_server(lambda handler: send(handler, 200, b"[]"), tls=pair) as url,
        HttpClient(OPTIONS) as client,
    ):
        assert client.get_json(url).payload == []


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    pair = certificate(tmp_path)
    with web_server(lambda handler: send(handler, 200, b"[]"), tls=pair) as url:
        monkeypatch.setenv(variable, str(tmp_path / "nowhere.pem"))
        message, requests_sent = failure_of(url)
        assert f"{variable} names '{tmp_path / 'nowhere.pem'}', which does not exist" in message
        assert requests_sent == 1
        (tmp_path / "empty.pem").write_text("nothing\n")
        monkeypatch.setenv(variable, str(tmp_path / "empty.pem"))
        message, requests_sent = failure_of(url)
        assert f"{variable} names '{tmp_path / 'empty.pem'}', which holds no certificate" in message
        assert requests_sent == 1


def test_a_server_without_tls_is_told_from_one_that_fails(url: str) -> None:
    message, requests_sent = failure_of(url.replace("http://", "https://"))
    assert "does not speak TLS" in message
    assert requests_sent == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/x", "connection refused"),
        ("http://nowhere.invalid/x", "its name has no address"),
        (f"http://{'a' * 70}.example/x", "its name has no address"),
    ],
)
def test_why_nobody_answers(url: str, words: str) -> None:
    message, requests_sent = failure_of(url)
    assert words in message
    assert requests_sent == OPTIONS.attempts


def test_an_unreachable_server_is_reported_soon_and_each_time() -> None:
    """A listener whose queue is full drops connections, as a firewall does."""
    said: list[tuple[float, str]] = []
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        options = HttpOptions(attempts=2, backoff=0.001, connect_timeout=4.5)
        client = HttpClient(
            options, on_retry=lambda line: said.append((time.monotonic() - began, line))
        )
        with (
            client,
            pytest.raises(
                NetworkError,
                match="no answer in time",
                check=lambda error: error.kind == "connection",
            ),
        ):
            client.get_json(f"http://127.0.0.1:{full.getsockname()[1]}/")
    ((when, line),) = said
    assert when < 2 * options.connect_timeout  # before the second attempt can have failed
    assert "attempt 2 of 2" in line


# --- addresses -------------------------------------------------------------------------


Names = dict[str, list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A resolver of our own; 127.0.0.2 stands for a server of the public internet."""
    known: Names = {}
    system = socket.getaddrinfo

    def lookup(host: str, port: int, *args: object, **options: object) -> object:
        if host in known:
            answers = known[host]
            host = answers.pop(0) if len(answers) > 1 else answers[0]
        return system(host, port, *args, **options)

    def is_public(address: str) -> bool:
        return str(ip_address(address)) == "127.0.0.2"

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for module in ("urls", "connection", "client"):
        monkeypatch.setattr(f"zml_dask.net.{module}.is_public", is_public)
    return known


def redirecting(*locations: str) -> Callable[[object], None]:
    def answer(handler: object) -> None:
        number = int(handler.path.strip("/") or 0)
        if number < len(locations):
            send(handler, 302, Location=locations[number])
        else:
            send(handler, 200, b'"secret"')

    return answer


def test_no_name_leads_into_the_private_network(names: Names) -> None:
    asked: list[str] = []

    def private(handler: object) -> None:
        asked.append(handler.path)
        send(handler, 200, b'"secret"')

    names["private.example"] = ["127.0.0.1"]
    with web_server(private) as inside:
        target = inside.replace("127.0.0.1", "private.example") + "/1"
        with (
            web_server(redirecting(target), host="127.0.0.2") as outside,
            HttpClient(OPTIONS) as client,
            pytest.raises(
                NetworkError, match="private", check=lambda error: error.kind == "bad_redirect"
            ),
        ):
            client.get_json(outside)
        assert asked == []
        # Whoever names it himself may have it, and its redirects within.
        with HttpClient(OPTIONS) as client:
            assert client.get_json(target).payload == "secret"


def test_a_name_that_changes_its_address_leads_nowhere_else(names: Names) -> None:
    names["rebound.example"] = ["127.0.0.2", "127.0.0.1"]
    with web_server(redirecting("/1"), host="127.0.0.2") as outside:
        url = outside.replace("127.0.0.2", "rebound.example")
        with (
            HttpClient(OPTIONS) as client,
            pytest.raises(
                NetworkError, match="private", check=lambda error: error.kind == "bad_redirect"
            ),
        ):
            client.get_json(url)
    names["late.example"] = ["127.0.0.1"]
    with (
        web_server(redirecting("http://late.example:1/x"), host="127.0.0.2") as outside,
        HttpClient(OPTIONS) as client,
        pytest.raises(
            NetworkError, match="private", check=lambda error: error.kind == "bad_redirect"
        ),
    ):
        client.get_json(outside)


def test_a_connection_that_is_kept_is_checked_again(names: Names) -> None:
    names["both.example"] = ["127.0.0.1"]
    with web_server(redirecting("/1")) as inside:
        target = inside.replace("127.0.0.1", "both.example")
        with (
            web_server(redirecting(f"{target}/1"), host="127.0.0.2") as outside,
            HttpClient(OPTIONS) as client,
        ):
            assert client.get_json(target).payload == "secret"
            with pytest.raises(
                NetworkError, match="private", check=lambda error: error.kind == "bad_redirect"
            ):
                client.get_json(outside)


def test_a_chain_is_no_way_in_either(names: Names) -> None:
    names["second.example"] = ["127.0.0.2"]
    names["third.example"] = ["127.0.0.1"]
    with web_server(redirecting("/1")) as inside:
        third = inside.replace("127.0.0.1", "third.example") + "/1"
        with web_server(redirecting("/1", third), host="127.0.0.2") as second:
            chain = second.replace("127.0.0.2", "second.example")
            with (
                web_server(redirecting(f"{chain}/1"), host="127.0.0.2") as first,
                HttpClient(OPTIONS) as client,
                pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"),
            ):
                client.get_json(first)


def test_a_proxy_is_no_way_in_either(monkeypatch: pytest.MonkeyPatch) -> None:
    system = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **options: system(
            "127.0.0.1" if host == "private.example" else host, *args, **options
        ),
    )
    with socks_proxy() as proxy:
        with web_server(redirecting("http://private.example:1/1")) as outside:
            proxy.names["public.example"] = "127.0.0.1"
            monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.url}")
            with (
                HttpClient(OPTIONS) as client,
                pytest.raises(
                    NetworkError, match="private", check=lambda error: error.kind == "bad_redirect"
                ),
            ):
                client.get_json(outside.replace("127.0.0.1", "public.example"))
        assert len(proxy.asked) == 1


def test_of_several_addresses_the_first_that_answers(names: Names) -> None:
    del names
    assert "127.0.0.1" in resolve("localhost", 80)
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"):
        resolve("localhost", 80, public_only=True)
