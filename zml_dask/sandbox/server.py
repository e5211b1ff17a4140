"""The sandbox over HTTP/1.1: a thread per connection, with Zenodo's rate limits."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from zml_dask.errors import ZmlError
from zml_dask.sandbox.answers import Answer, Body, Request, error_answer
from zml_dask.sandbox.corpus import Corpus
from zml_dask.sandbox.exporter import Exporter
from zml_dask.sandbox.routes import answer, is_content, is_search

_log = logging.getLogger(__name__)

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """How many requests are answered; None: any number, and no headers about it.

    Searches have a limit a minute of their own; all others one a minute and one an hour.
    """

    search: int | None = None
    minute: int | None = None
    hour: int | None = None


GUEST = SandboxLimits(search=30, minute=60, hour=2000)
"""Zenodo's published limits for guests."""


class RateLimiter:
    """Counts requests in moving windows, by a clock in seconds; refused ones do not count."""

    def __init__(self, limits: SandboxLimits, clock: Callable[[], float] = time) -> None:
        self._limits = limits
        self._clock = clock
        self._granted: dict[tuple[str, bool], deque[float]] = {}
        self._lock = threading.Lock()

    def ask(self, client: str, *, is_search: bool) -> tuple[bool, dict[str, str]]:
        """Count one request of `client`; return whether it is answered, and headers for the answer.

        These are ``X-RateLimit-*`` and, on every answer as from Zenodo, ``Retry-After``.
        """
        limits = self._limits
        all_windows = (
            [(limits.search, _MINUTE)]
            if is_search
            else [(limits.minute, _MINUTE), (limits.hour, _HOUR)]
        )
        windows = [(count, seconds) for count, seconds in all_windows if count is not None]
        if not windows:
            return True, {}
        with self._lock:
            now = self._clock()
            times = self._granted.setdefault((client, is_search), deque())
            while times and times[0] <= now - windows[-1][1]:
                times.popleft()
            used = [sum(1 for at in times if at > now - seconds) for _, seconds in windows]
            is_granted = all(count > n for (count, _), n in zip(windows, used, strict=True))
            if is_granted:
                times.append(now)
                used = [n + 1 for n in used]
            # The headers describe the window with the fewest requests left.
            left, limit, seconds = min(
                (count - n, count, seconds)
                for (count, seconds), n in zip(windows, used, strict=True)
            )
            oldest = next((at for at in times if at > now - seconds), now)
        return is_granted, {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(math.ceil(oldest + seconds)),
            "Retry-After": str(math.ceil(max(oldest + seconds - now, 0.0))),
        }


class _Server(ThreadingHTTPServer):
    """The listening socket and all connections, so that closing it ends these too."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, sandbox: Sandbox, host: str, port: int) -> None:
        self.sandbox = sandbox
        self._open: set[socket.socket] = set()
        super().__init__((host, port), sandbox.handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in mid-answer is no error of the sandbox.
        _log.debug("a connection of the sandbox ended early", exc_info=True)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                _log.debug("a connection was closed already")


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests and writes answers."""

    protocol_version = "HTTP/1.1"
    server_version = "nginx"
    sys_version = ""
    # Else headers and body, sent apart, wait 40 ms for each other.
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: _Server
    _statuses: ClassVar[dict[int, str]] = {one.value: one.phrase for one in HTTPStatus}

    def do_GET(self) -> None:
        """Answer with headers and body."""
        self._serve(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with headers only."""
        self._serve(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - overrides it
        """Print nothing."""

    def _serve(self, *, with_body: bool) -> None:
        sandbox = self.server.sandbox
        target = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        bearer = headers.get("authorization", "").startswith("Bearer ")
        request = Request(
            path=unquote(target.path),
            query=query,
            headers=headers,
            api_url=sandbox.api_url,
            is_authenticated=bearer or "access_token" in query,
        )
        reply = sandbox.reply(request, self.client_address[0])
        body = reply.body
        length = body.stop - body.start if isinstance(body, Body) else len(body)
        self.send_response(reply.status, self._statuses.get(reply.status))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(self.stated_length(length)))
        self.end_headers()
        if with_body:
            self.send_body(body, length)

    def stated_length(self, length: int) -> int:
        """Return what ``Content-Length`` says of a body."""
        return length

    def send_body(self, body: bytes | Body, length: int) -> None:
        """Send a body."""
        if isinstance(body, bytes):
            self.wfile.write(body)
        elif isinstance(body.content.source, Path):
            # The kernel copies, which leaves the processor to the client under test.
            self.wfile.flush()
            with body.content.source.open("rb") as stream:
                self.connection.sendfile(stream, body.start, length)
        else:
            self.wfile.write(body.content.read(body.start, body.stop))


class Sandbox:
    """A local Zenodo, served while its context lasts.

    Parameters
    ----------
    port : int, optional
        0 takes a free one.
    limits : SandboxLimits, optional
        Default: none.
    host : str, optional
        Address to listen on. Default: the loopback interface, which only this machine reaches.

    Attributes
    ----------
    exporter : Exporter
        Its metadata dumps.
    n_requests, n_downloads : int
        Requests that have been answered, and those of them for a file's bytes.

    Examples
    --------
    >>> import json
    >>> from urllib.request import urlopen
    >>> from zml_dask.sandbox.corpus import make_record
    >>> with Sandbox(Corpus([make_record(7)])) as sandbox:
    ...     json.load(urlopen(f"{sandbox.api_url}/records/7"))["title"]
    'Record 7'
    """

    handler: ClassVar[type[BaseHTTPRequestHandler]] = Handler

    def __init__(
        self,
        corpus: Corpus,
        *,
        port: int = 0,
        limits: SandboxLimits | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.corpus = corpus
        self.exporter = Exporter(corpus)
        self.n_requests = self.n_downloads = 0
        self._count_lock = threading.Lock()
        self._host, self._port = host, port
        self._limiter = RateLimiter(limits or SandboxLimits())
        self._server: _Server | None = None

    @property
    def api_url(self) -> str:
        """Root of the API: ``http://127.0.0.1:PORT/api``."""
        return f"http://{self._host}:{self._port}/api"

    def __enter__(self) -> Self:
        try:
            self._server = _Server(self, self._host, self._port)
        except (OSError, OverflowError) as error:
            raise ZmlError(
                f"port {self._port} of {self._host} cannot be used: {error}; "
                "take another with --port"
            ) from error
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def reply(self, request: Request, client: str) -> Answer:
        """Answer a request of a client, within the limits."""
        # Zenodo counts by agent and address, and apart from that by account.
        account = request.headers.get("authorization") or request.headers.get("user-agent", "")
        is_granted, headers = self._limiter.ask(
            f"{client} {account}", is_search=is_search(request.path)
        )
        reply = (
            answer(request, self.corpus, self.exporter)
            if is_granted
            else error_answer(429, "Rate limit exceeded.")
        )
        with self._count_lock:
            self.n_requests += 1
            self.n_downloads += is_content(request.path)
        return Answer(reply.status, {**reply.headers, **headers}, reply.body)
