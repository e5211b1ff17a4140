"""HTTP as servers speak it: what is odd in an answer, and still means something."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from zml_dask.errors import NetworkError
from zml_dask.net.client import HttpClient, HttpOptions, Token
from zml_dask.net.throttle import Budget

from .conftest import BODY, MD5, Exchange, Misbehaving


def once(*first: int, **headers: str) -> object:
    """Answer with these statuses, one after another, and then with the file."""

    def script(exchange: Exchange) -> None:
        if exchange.number < len(first):
            exchange.send(first[exchange.number], b"<html>try again</html>", **headers)
        else:
            exchange.send_file(BODY)

    return script


@pytest.mark.parametrize(
    "status",
    [
        *(202, 408, 409, 418, 420, 423, 425, 449, 500, 501, 502, 503, 504, 505, 507, 508, 511),
        *(520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 561, 598, 599),
    ],
)
def test_what_passes_is_tried_again(
    server: Misbehaving, client: HttpClient, target: Path, status: int
) -> None:
    url = server.on("/f", once(status, status))
    assert client.download(url, target, checksum=MD5).requests == 3


@pytest.mark.parametrize("status", [202, 502, 521, 529, 530])
def test_a_search_is_asked_again_too(server: Misbehaving, client: HttpClient, status: int) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(200 if exchange.number else status, b"{}" if exchange.number else b"<html>")

    assert client.get_json(server.on("/api/records", script)).payload == {}


@pytest.mark.parametrize(
    "first", [b"<html>down for maintenance</html>", b"", b'{"hits": {"hits": [', b"\xff\xfe\x00"]
)
def test_a_good_status_without_json_passes(
    server: Misbehaving, client: HttpClient, first: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(200, b'{"hits": 1}' if exchange.number > 1 else first)

    assert client.get_json(server.on("/api/records", script)).payload == {"hits": 1}
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_what_is_final_stays_so_though_every_answer_says_when_to_come_back(
    server: Misbehaving, client: HttpClient, target: Path, status: int
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(status, b"{}", Retry_After="60"))
    with pytest.raises(NetworkError):
        client.download(url, target)
    assert len(server.requests) == 1


class Clock:
    """The time of a client that waits for nothing: its clock goes on as it sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("status", [500, 502, 503, 418, 423, 409])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_followed(
    server: Misbehaving,
    client: HttpClient,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    form: str,
) -> None:
    clock = Clock()
    monkeypatch.setattr("zml_dask.net.client.time", clock)
    monkeypatch.setattr("zml_dask.net.throttle.time", clock)
    asked: list[float] = []

    def script(exchange: Exchange) -> None:
        asked.append(clock.now)
        if exchange.number == 0:
            date = email.utils.formatdate(time.time() + 600, usegmt=True)
            exchange.send(status, b"", Retry_After="600" if form == "seconds" else date)
        else:
            exchange.send_file(BODY)

    client.download(server.on("/f", script), target, checksum=MD5)
    waited = asked[1] - asked[0]
    assert len(asked) == 2
    # A date is compared with the answer's own, which is of another instant.
    assert waited == 600 if form == "seconds" else 300 < waited < 900


@pytest.mark.parametrize(
    "advice", ["3601", "9" * 17, "Fri, 01 Jan 2100 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]
)
@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (503, "server_error")])
def test_nobody_waits_for_a_far_future(
    server: Misbehaving, client: HttpClient, target: Path, advice: str, status: int, kind: str
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(status, b"", Retry_After=advice))
    for asked in (url, url, server.on("/g", lambda exchange: exchange.send_file(BODY))):
        with pytest.raises(NetworkError, match=r"until \d{4}-.*again then") as caught:
            client.download(asked, target, checksum=MD5)
        assert caught.value.kind == kind
        assert not caught.value.permanent
    assert len(server.requests) == 1


def test_a_busy_server_is_left_alone_by_all() -> None:
    budget = Budget()
    budget.observe("default", 100.0, 503, {"Retry-After": "7"})
    assert budget.grant("search", 101.0) == 6.0
    # Without advice it concerns one request alone, as does a gateway's own trouble.
    for status, headers in ((503, {}), (502, {"Retry-After": "7"}), (200, {"Retry-After": "7"})):
        other = Budget()
        other.observe("default", 100.0, status, headers)
        assert other.grant("default", 101.0) == 0.0


def test_a_secondary_limit_is_a_limit(server: Misbehaving, target: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(403, b'{"message": "rate limit"}', X_RateLimit_Remaining="0")

    options = HttpOptions(rate_limit_attempts=3)
    with (
        HttpClient(options) as client,
        pytest.raises(NetworkError, check=lambda error: error.kind == "rate_limited"),
    ):
        client.download(server.on("/f", script), target)
    assert len(server.requests) == 3


@pytest.mark.parametrize("body", [b"<html>unusual traffic</html>", b'{"message": "bot traffic"}'])
def test_a_block_is_told_from_a_file_that_is_not_public(
    server: Misbehaving, client: HttpClient, target: Path, body: bytes
) -> None:
    with pytest.raises(NetworkError, check=lambda error: error.kind == "blocked"):
        client.download(server.on("/f", lambda exchange: exchange.send(403, body)), target)
    other = server.on("/g", lambda exchange: exchange.send(403, b'{"message": "no"}'))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "forbidden"):
        client.download(other, target)


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX: y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_answers_before_the_answer(
    server: Misbehaving, client: HttpClient, target: Path, interim: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.handler.wfile.write(interim)
        exchange.send_file(BODY)

    url = server.on("/f", script)
    for _ in range(2):  # the connection is used again
        client.download(url, target, checksum=MD5)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [200, 203])
def test_what_a_proxy_has_touched_is_good(
    server: Misbehaving, client: HttpClient, target: Path, status: int
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(status, BODY))
    assert client.download(url, target, checksum=MD5).requests == 1
    url = server.on("/j", lambda exchange: exchange.send(status, b"[1]"))
    assert client.get_json(url).payload == [1]


@pytest.mark.parametrize("number", [99, 101, 250, 3000])
def test_many_headers_do_no_harm(
    server: Misbehaving, client: HttpClient, target: Path, number: int
) -> None:
    extra = {f"X_Trace_{i}": "y" for i in range(number)}
    url = server.on("/f", lambda exchange: exchange.send_file(BODY, **extra))
    assert client.download(url, target, checksum=MD5).requests == 1


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/real/a file.zip", "/real/a%20file.zip"),
        ("/real/fiché.zip", "/real/fich%C3%A9.zip"),
        ("/real/\u65e5\u672c.zip", "/real/%E6%97%A5%E6%9C%AC.zip"),
        ("/real/a%20b%2Fc.zip", "/real/a%20b%2Fc.zip"),
        ('/real/<x>|{y}^`".zip', "/real/%3Cx%3E%7C%7By%7D%5E%60%22.zip"),
        ("real/rel.zip", "/real/rel.zip"),
        ("  /real/spaces around.zip  ", "/real/spaces%20around.zip"),
        ("?x=a b", "/"),
    ],
)
def test_locations_as_browsers_follow_them(
    server: Misbehaving, client: HttpClient, target: Path, location: str, path: str
) -> None:
    def script(exchange: Exchange) -> None:
        if "?" in exchange.handler.path:
            exchange.send_file(BODY)
            return
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        exchange.handler.wfile.write(head.encode())

    server.on(path, lambda exchange: exchange.send_file(BODY))
    url = server.on("/", script)
    client.download(url, target, checksum=MD5)
    assert server.requests[-1][0] == path


def test_latin_1_in_a_location(server: Misbehaving, client: HttpClient, target: Path) -> None:
    def script(exchange: Exchange) -> None:
        exchange.handler.wfile.write(
            b"HTTP/1.1 302 Found\r\nLocation: /fich\xe9\r\nContent-Length: 0\r\n\r\n"
        )

    server.on("/fich%C3%A9", lambda exchange: exchange.send_file(BODY))
    client.download(server.on("/", script), target, checksum=MD5)


@pytest.mark.parametrize("location", ["/a\tb", "/a\x0bb", "http://x\\@y/", "http:// /x", "/\x7f"])
def test_no_location_hides_a_control_character(
    server: Misbehaving, client: HttpClient, target: Path, location: str
) -> None:
    def script(exchange: Exchange) -> None:
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        exchange.handler.wfile.write(head.encode())

    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"):
        client.download(server.on("/", script), target)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


SOURCE = b"def f(x):\n    return x + 1\n" * 400


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZip", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
        ("zstd", zstandard.compress),
    ],
)
@pytest.mark.parametrize("known", ["md5", "size", "nothing"])
def test_a_body_that_was_compressed_unasked(
    server: Misbehaving, client: HttpClient, target: Path, name: str, pack: object, known: str
) -> None:
    url = server.on(
        "/script.py", lambda exchange: exchange.send(200, pack(SOURCE), Content_Encoding=name)
    )
    checksum = f"md5:{hashlib.md5(SOURCE).hexdigest()}"
    download = client.download(
        url,
        target,
        checksum=checksum if known == "md5" else None,
        size=len(SOURCE) if known != "nothing" else None,
    )
    assert target.read_bytes() == SOURCE
    assert (download.bytes, f"md5:{download.md5}", download.requests) == (len(SOURCE), checksum, 1)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("known", ["md5", "size", "nothing"])
def test_an_archive_that_is_called_compressed_for_being_so(
    server: Misbehaving, client: HttpClient, target: Path, known: str
) -> None:
    packed = gzip.compress(SOURCE)
    url = server.on(
        "/code.tar.gz", lambda exchange: exchange.send(200, packed, Content_Encoding="x-gzip")
    )
    checksum = f"md5:{hashlib.md5(packed).hexdigest()}" if known == "md5" else None
    size = len(packed) if known == "size" else None
    client.download(url, target, checksum=checksum, size=size)
    assert target.read_bytes() == packed


@pytest.mark.parametrize(
    "line", [b"no header", b"X-A : b", b": c", b"X-B: c\r\n d", b"\xe9\xff", b"-" * 70]
)
def test_a_line_that_is_no_header_hides_none_that_is(
    server: Misbehaving, client: HttpClient, target: Path, line: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length : %d\r\n\r\n" % (line, len(BODY))
        exchange.handler.wfile.write(head + BODY)

    # Without a checksum only the length says where the body ends.
    assert client.download(server.on("/f", script), target).requests == 1
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("name", ["utf-8", "binary", "aws-chunked", "none", "identity", ""])
def test_what_is_no_compression_stands_in_nobody_s_way(
    server: Misbehaving, client: HttpClient, target: Path, name: str
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY, Content_Encoding=name))
    client.download(url, target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert client.read_range(url, 5, 99) == BODY[5:99]


def test_a_compression_that_is_none(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send(200, SOURCE, Content_Encoding="gzip"))
    client.download(url, target)
    assert target.read_bytes() == SOURCE


def test_a_compressed_body_that_breaks_off_goes_on(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    packed = gzip.compress(BODY)
    url = server.on(
        "/f", lambda exchange: exchange.send_file(packed, upto=1000, Content_Encoding="gzip")
    )
    client.download(url, target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert server.asked("/f")[1]["range"] == "bytes=1000-"


def test_a_compressed_body_is_bounded(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    url = server.on("/f", lambda exchange: exchange.send(200, bomb, Content_Encoding="gzip"))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "truncated"):
        client.download(url, target, checksum=MD5, size=len(BODY))
    assert list(target.parent.iterdir()) == []
    client.download(url, target, max_bytes=1_000_000)
    assert target.read_bytes() == bomb


def test_a_part_of_a_compressed_body_is_none(server: Misbehaving, client: HttpClient) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY, Content_Encoding="gzip"))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "range_unsupported"):
        client.read_range(url, 0, 100)


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_page_in_the_place_of_a_file_passes(
    server: Misbehaving, client: HttpClient, target: Path, times: int, is_known: bool
) -> None:
    def script(exchange: Exchange) -> None:
        if exchange.number < times:
            exchange.send(200, b"<html>maintenance</html>", Content_Type="text/html")
        else:
            exchange.send_file(BODY)

    promised = {"checksum": MD5, "size": len(BODY)} if is_known else {}
    client.download(server.on("/code.zip", script), target, **promised)
    assert target.read_bytes() == BODY


def test_a_page_for_ever_is_an_answer_that_may_pass_another_day(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on(
        "/code.zip", lambda exchange: exchange.send(200, b"<html>", Content_Type="text/html")
    )
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_answer") as caught:
        client.download(url, target, checksum=MD5)
    assert not caught.value.permanent


def test_parts_without_a_total_or_a_length(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    def script(exchange: Exchange) -> None:
        if exchange.number == 0:
            exchange.send_file(BODY, upto=1000)
            return
        start = int(exchange.headers["range"].removeprefix("bytes=").removesuffix("-"))
        exchange.send(
            206,
            BODY[start:],
            Content_Range=f"bytes {start}-{len(BODY) - 1}/*",
            Content_Length="",
            Connection="close",
        )

    client.download(server.on("/f", script), target, checksum=MD5)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("known", ["md5", "size", "nothing"])
@pytest.mark.parametrize("quirk", ["status 200", "whole blocks", "part unasked", "whole as part"])
def test_parts_as_servers_send_them(
    server: Misbehaving, client: HttpClient, target: Path, quirk: str, known: str
) -> None:
    def script(exchange: Exchange) -> None:
        asked = exchange.headers.get("range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        stop = len(BODY)
        if asked is None and (quirk != "part unasked" or exchange.number > 9):
            exchange.send_file(BODY, upto=300_000 if exchange.number == 0 else None)
            return
        if quirk == "whole blocks":
            start = start // 65_536 * 65_536
        elif quirk == "part unasked":
            stop = min(start + 300_000, stop)
        span = f"bytes {start}-{stop - 1}/{len(BODY)}"
        part = BODY if quirk == "whole as part" else BODY[start:stop]
        exchange.send(200 if quirk == "status 200" else 206, part, Content_Range=span)

    facts = {"md5": {"checksum": MD5}, "size": {"size": len(BODY)}, "nothing": {}}[known]
    client.download(server.on("/f", script), target, **facts)  # type: ignore[arg-type]
    assert target.read_bytes() == BODY


def _echo(exchange: Exchange) -> None:
    said = exchange.headers.get("authorization", "")
    kind = exchange.handler.path.strip("/").partition("?")[0]
    if kind == "json":
        exchange.send(403, f'{{"message": "bad credentials: {said}"}}'.encode())
    elif kind == "page":
        exchange.send(400, f"<html>{' ' * 3000}{said} {'y' * 4000}</html>".encode())
    elif kind == "cut":
        exchange.send(400, f"{'x' * 190} {said}".encode())
    elif kind == "redirect":
        exchange.send(302, Location=f"file:///{said.split()[1]}/x")
    elif kind == "api/records":
        exchange.send(200, f'{{"title": "{said}"}}'.encode())
    else:
        exchange.send(404, f'{{"message": {{"headers": ["{said}"]}}}}'.encode())


@pytest.mark.parametrize("path", ["json", "page", "cut", "redirect", "other"])
def test_a_token_that_a_server_repeats_is_struck_out(
    server: Misbehaving, target: Path, path: str
) -> None:
    secret = "tok/en-Very+Secret-0123456789"
    url = server.on(f"/{path}", _echo)
    with HttpClient(token=Token(secret, server.url.removeprefix("http://"))) as client:
        with pytest.raises(NetworkError) as caught:
            client.download(url, target)
        assert "Secret" not in repr(caught.value)
        assert "tok/en" not in str(caught.value.__context__)
        records = client.get_json(server.on("/api/records", _echo))
    assert records.payload == {"title": "Bearer ***"}


def test_a_redirect_carries_the_token_to_nobody(
    server: Misbehaving, other_server: Misbehaving, target: Path
) -> None:
    def script(exchange: Exchange) -> None:
        said = exchange.headers["authorization"].split()[1]
        exchange.send(302, Location=f"{other_server.url}/steal?token={said}")

    url = server.on("/f", script)
    token = Token("very-secret", server.url.removeprefix("http://"))
    with (
        HttpClient(token=token) as client,
        pytest.raises(NetworkError, check=lambda error: error.kind == "not_found"),
    ):
        client.download(url, target)
    assert other_server.requests[0][0] == "/steal"
    assert "very-secret" not in str(other_server.requests)


def test_a_cookie_comes_back_along_redirects_to_its_own_server_alone(
    server: Misbehaving, other_server: Misbehaving, client: HttpClient, target: Path
) -> None:
    def front(exchange: Exchange) -> None:
        if exchange.headers.get("cookie") == "seen=1":
            exchange.send(302, Location=f"{other_server.url}/f")
        else:
            exchange.send(302, Location="/f", Set_Cookie="seen=1; Path=/")

    other_server.on("/f", lambda exchange: exchange.send_file(BODY))
    client.download(server.on("/f", front), target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert "cookie" not in other_server.asked("/f")[0]
    client.download(server.url + "/f", target, checksum=MD5)
    assert ["cookie" in asked for asked in server.asked("/f")] == [False, True, False, True]


def test_too_large_stays_too_large(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY, Content_Encoding="gzip"))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"):
        client.download(url, target, max_bytes=1000)


def test_a_server_in_trouble_is_known() -> None:
    budget = Budget()
    budget.observe("default", 0.0, 0, {})  # of unknown fate: a clone by git, a dead worker
    assert budget.trouble == ""
    budget.observe("default", 1.0, 0, {}, took=3.0)
    assert budget.trouble == "does not answer"
    budget.observe("default", 2.0, 404, {}, took=0.1)
    assert budget.trouble == ""
    for _ in range(2):
        budget.observe("default", 3.0, 502, {}, took=0.1)
    assert budget.trouble == ""
    budget.observe("default", 3.0, 502, {}, took=0.1)
    assert budget.trouble == "answers 502"
