"""A small HTTP server that misbehaves on purpose."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zml_dask.net.client import HttpClient, HttpOptions

BODY = bytes(range(256)) * 4096
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()

Script = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request, and the means to answer it in any way, right or wrong."""

    handler: BaseHTTPRequestHandler
    number: int

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.handler.headers.items()}

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; ``Content_Length="5"`` lies, ``Content_Length=""`` leaves it out."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names.setdefault("Content-Length", str(len(body)))
        self.handler.send_response(status)
        for name, value in names.items():
            if value:
                self.handler.send_header(name, value)
        self.handler.end_headers()
        self.handler.wfile.write(body)
        if names["Content-Length"] != str(len(body)):
            self.cut()

    def cut(self) -> None:
        self.handler.wfile.flush()
        self.handler.close_connection = True

    def send_file(self, body: bytes, *, upto: int | None = None, **headers: str) -> None:
        """A file with Range, cut off after `upto` bytes of this answer's body."""
        asked = self.headers.get("range")
        start, stop, status = 0, len(body), 200
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(len(body), int(last) + 1 if last else len(body))
            if start >= len(body):
                self.send(416, Content_Range=f"bytes */{len(body)}")
                return
            status = 206
            headers["Content_Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        part = body[start:stop]
        headers["Content_Length"] = str(len(part))
        self.send(status, part if upto is None else part[:upto], **headers)


@dataclass
class Misbehaving:
    """The server: what it does with each path, and what it was asked."""

    url: str
    scripts: dict[str, Script] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def on(self, path: str, script: Script) -> str:
        self.scripts[path] = script
        return self.url + path

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.requests if asked == path]


def _serve() -> Iterator[Misbehaving]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            with lock:
                number = len(server.asked(path))
                exchange = Exchange(self, number)
                server.requests.append((path, exchange.headers))
            script = server.scripts.get(path)
            if script is None:
                exchange.send(404, b'{"status": 404, "message": "no such thing"}')
            else:
                script(exchange)

        def log_message(self, *args: object) -> None:
            """Keep the tests' output clean."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """A client that hangs up is nothing to talk about."""

    http = Server(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Misbehaving(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    yield from _serve()


@pytest.fixture
def other_server() -> Iterator[Misbehaving]:
    yield from _serve()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(HttpOptions(backoff=0.001, max_backoff=0.01)) as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "archive"
