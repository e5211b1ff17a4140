"""Servers that would hold a worker, or fill its memory, for as long as it lets them."""

from __future__ import annotations

import gzip
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zml_dask.errors import NetworkError
from zml_dask.net.client import HttpClient, HttpOptions

Talk = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def speak() -> Iterator[Callable[[Talk], str]]:
    """Serves whatever bytes a function sends, no HTTP library between; gives the URL."""
    over = threading.Event()
    listeners: list[socket.socket] = []

    def listen(talk: Talk) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65_536)
                    talk(connection)
                except OSError:
                    pass  # the client has had enough

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/f"

    yield listen
    over.set()
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # ends its accept, which would take another server's
        listener.close()


def for_ever(begin: bytes, piece: bytes, pause: float = 0.0) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(begin)
        wait = threading.Event()
        while not wait.wait(pause):
            connection.sendall(piece)

    return talk


@pytest.fixture
def hasty() -> Iterator[HttpClient]:
    """A client of little time, whose read timeout is never what ends a request."""
    options = HttpOptions(deadline=0.5, read_timeout=60, attempts=2, backoff=0.001)
    with HttpClient(options) as client:
        yield client


ENDLESS: dict[str, tuple[Talk, str]] = {
    "a head that drips": (for_ever(OK, b"X", 0.02), "deadline"),
    "a head of many lines that drips": (for_ever(OK, b"A: b\r\n", 0.02), "deadline"),
    "100 Continue": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), "connection"),
    "a head of large lines": (for_ever(OK, b"A: " + b"b" * 60_000 + b"\r\n"), "connection"),
    "trailers": (for_ever(CHUNKED + b"1\r\n1\r\n0\r\n", b"A: b\r\n"), "deadline"),
    "a chunk's extension": (for_ever(CHUNKED + b"1;", b"x" * 65_536), "truncated"),
    "a body of tiny chunks": (for_ever(CHUNKED, b"1\r\n1\r\n", 0.001), "deadline"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_whatever_never_ends_is_ended_by_us(
    speak: Callable[[Talk], str], tmp_path: Path, name: str
) -> None:
    talk, kind = ENDLESS[name]
    # The read timeout is never what ends a request; the deadline is where nothing else would.
    deadline = 0.5 if kind == "deadline" else 60
    options = HttpOptions(deadline=deadline, read_timeout=60, attempts=2, backoff=0.001)
    with HttpClient(options) as client:
        for ask in (client.get_json, lambda url: client.download(url, tmp_path / "f")):
            with pytest.raises(NetworkError, check=lambda error: error.kind == kind):
                ask(speak(talk))
    assert not list(tmp_path.iterdir())


def test_a_proxy_that_drips_meets_the_deadline(
    speak: Callable[[Talk], str], hasty: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, kind = ENDLESS["a head that drips"]
    monkeypatch.setenv("http_proxy", speak(talk))
    with pytest.raises(NetworkError, check=lambda error: error.kind == kind):
        hasty.get_json("http://zenodo.example/api/records")


def test_a_connection_kept_open_has_the_time_of_each_request(
    speak: Callable[[Talk], str], tmp_path: Path
) -> None:
    """The deadline is a request's own, though the connection is older."""
    answer = OK + b"Content-Length: 2\r\n\r\n{}"

    def talk(connection: socket.socket) -> None:
        while True:
            connection.sendall(answer)
            if not connection.recv(65_536):
                return

    url = speak(talk)
    with HttpClient(HttpOptions(deadline=60)) as client:
        for _ in range(3):
            assert client.get_json(url).payload == {}
        (pool,) = client._session.get_adapter(url).poolmanager.pools._container.values()
        assert pool.num_connections == 1


@pytest.mark.parametrize("kind", ["json", "refusal"])
def test_a_bomb_in_many_wrappings_takes_no_memory(
    speak: Callable[[Talk], str], tmp_path: Path, kind: str
) -> None:
    """A gigabyte of zeros in 300 bytes, unpacked by a process that may not have it."""
    bomb = gzip.compress(gzip.compress(gzip.compress(bytes(10**9), 1)))
    status = b"HTTP/1.1 404 Not Found\r\n" if kind == "refusal" else OK
    head = status + b"Content-Encoding: gzip, gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    url = speak(lambda connection: connection.sendall(head + bomb))
    script = textwrap.dedent(
        """
        import sys
        from zml_dask.net.client import HttpClient, HttpOptions
        from zml_dask.errors import NetworkError

        with HttpClient(HttpOptions(max_json_bytes=1_000_000, attempts=1)) as client:
            try:
                client.get_json(sys.argv[1])
            except NetworkError as error:
                print(error.kind)
        """
    )
    limit = 700 * 1024 * 1024
    ran = subprocess.run(
        [sys.executable, "-c", script, url],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert ran.stdout.split() == [{"json": "too_large", "refusal": "not_found"}[kind]], ran.stderr[
        -2000:
    ]


def test_a_chunked_body_without_end_meets_the_size_limit(
    speak: Callable[[Talk], str], tmp_path: Path
) -> None:
    url = speak(for_ever(CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n"))
    with (
        HttpClient() as client,
        pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"),
    ):
        client.download(url, tmp_path / "f", max_bytes=1_000_000)
    assert not list(tmp_path.iterdir())
