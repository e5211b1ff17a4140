"""Downloads from servers that cut, lie, stall, redirect and refuse."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from zml_dask.errors import NetworkError
from zml_dask.net import transfer as download_module
from zml_dask.net.client import HttpClient, HttpOptions

from .conftest import BODY, MD5, Misbehaving


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
    with pytest.raises(NetworkError, check=lambda error: error.kind == "truncated"):
        client.download(url, target, checksum=MD5, size=len(BODY))
    assert len(server.requests) == client.options.attempts
    assert not list(target.parent.iterdir())


def test_a_wrong_md5_is_tried_once_more_and_then_final(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY[::-1]))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "checksum") as caught:
        client.download(url, target, checksum=MD5, size=len(BODY))
    assert caught.value.permanent
    assert len(server.requests) == 2
    assert not list(target.parent.iterdir())


def test_a_stall_ends_and_is_tried_again(server: Misbehaving, target: Path) -> None:
    released = threading.Event()

    def script(exchange: object) -> None:
        if exchange.number == 0:
            exchange.handler.send_response(200)
            exchange.handler.send_header("Content-Length", str(len(BODY)))
            exchange.handler.end_headers()
            exchange.handler.wfile.write(BODY[:1000])
            released.wait()
        else:
            exchange.send_file(BODY)

    url = server.on("/f", script)
    try:
        with HttpClient(HttpOptions(read_timeout=0.5, backoff=0.001)) as client:
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
        with (
            HttpClient(options) as client,
            pytest.raises(NetworkError, check=lambda error: error.kind == "deadline"),
        ):
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


def test_a_file_over_the_limit_is_refused_before_its_body(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"):
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
    with pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"):
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


def test_a_file_of_no_bytes_is_whole(server: Misbehaving, client: HttpClient, target: Path) -> None:
    url = server.on("/empty", lambda exchange: exchange.send_file(b""))
    md5 = f"md5:{hashlib.md5(b'').hexdigest()}"
    for checksum, size in ((md5, 0), (md5, None), (None, 0), (None, None)):
        assert client.download(url, target, checksum=checksum, size=size).bytes == 0
        assert target.read_bytes() == b""
    with pytest.raises(NetworkError, check=lambda error: error.kind == "checksum"):
        client.download(url, target, checksum=MD5, size=0)


def test_a_full_disk_says_so(
    server: Misbehaving, client: HttpClient, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(download_module.TransferPlan, "part", property(lambda self: full))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    url = server.on("/f", lambda exchange: exchange.send_file(BODY))
    with pytest.raises(
        NetworkError, match="space", check=lambda error: error.kind == "disk_full"
    ) as caught:
        client.download(url, target)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert len(server.requests) == 1


def test_a_folder_that_is_not_there_says_so(client: HttpClient, target: Path) -> None:
    with pytest.raises(NetworkError, check=lambda error: error.kind == "scratch"):
        client.download("http://127.0.0.1:9/none", target / "no" / "such")


def test_a_remnant_is_taken_up_by_the_next_run(
    server: Misbehaving, client: HttpClient, target: Path
) -> None:
    url = server.on("/f", lambda exchange: exchange.send(200, BODY[:5000], Content_Length="9999"))
    with pytest.raises(NetworkError, check=lambda error: error.kind == "truncated"):
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
    with pytest.raises(NetworkError, check=lambda error: error.kind == "range_unsupported"):
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
