"""The sandbox over HTTP/1.1 on the loopback interface, a thread a connection."""

from __future__ import annotations

import logging
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from zml_dask.errors import ZmlError
from zml_dask.sandbox.answers import Answer, Body, Request, error_answer, internal_error
from zml_dask.sandbox.corpus import Corpus
from zml_dask.sandbox.exporter import Exporter
from zml_dask.sandbox.faults import FaultCounter, Faults
from zml_dask.sandbox.limits import RateLimiter, SandboxLimits
from zml_dask.sandbox.request_log import RequestLog, Seen
from zml_dask.sandbox.routes import answer, is_search

_log = logging.getLogger(__name__)
_PIECE: Final = 256 * 1024


class SandboxPortError(ZmlError):
    """The port is taken, or may not be used."""


class Sandbox:
    """A local Zenodo, served while its context lasts.

    Parameters
    ----------
    corpus : Corpus
    port : int, optional
        0 takes a free one.
    faults : Faults, optional
        May be set anew at any time; counting begins again then.
    limits : SandboxLimits, optional
        Default: none.

    Attributes
    ----------
    requests : RequestLog
    exporter : Exporter
        Its metadata dumps.

    Examples
    --------
    >>> import json
    >>> from urllib.request import urlopen
    >>> from zml_dask.sandbox.corpus import make_record
    >>> with Sandbox(Corpus([make_record(7)])) as sandbox:
    ...     json.load(urlopen(f"{sandbox.api_url}/records/7"))["title"]
    'Record 7'
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        port: int = 0,
        faults: Faults | None = None,
        limits: SandboxLimits | None = None,
    ) -> None:
        self.corpus = corpus
        self.exporter = Exporter(corpus)
        self.requests = RequestLog()
        self._port = port
        self._counter = FaultCounter(faults or Faults())
        self._limiter = RateLimiter(limits or SandboxLimits())
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def api_url(self) -> str:
        """Root of the API: ``http://127.0.0.1:PORT/api``."""
        return f"http://127.0.0.1:{self._port}/api"

    @property
    def faults(self) -> Faults:
        """What it does wrong."""
        return self._counter.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._counter = FaultCounter(faults)

    def __enter__(self) -> Self:
        try:
            self._server = _Server(self, self._port)
        except (OSError, OverflowError) as error:
            raise SandboxPortError(
                f"port {self._port} of 127.0.0.1 cannot be used: {error}; take another with --port"
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

    def reply(self, request: Request, client: str) -> tuple[Answer, str]:
        """Answer a request; and the fault that its body is to have."""
        faults = self.faults
        if faults.delay:
            time.sleep(faults.delay)
        search = is_search(request.path)
        with self._lock:
            unavailable = self._counter.is_unavailable()
            failing = search and not unavailable and self._counter.search_fails()
        # Zenodo counts by agent and address, and apart from that by account.
        account = request.headers.get("authorization") or request.headers.get("user-agent", "")
        verdict = self._limiter.ask(f"{client} {account}", is_search=search)
        if not verdict.granted:
            reply = error_answer(429, "Rate limit exceeded.")
        elif unavailable:
            reply = error_answer(503, "Service Unavailable")
        elif failing:
            reply = internal_error()
        else:
            reply = answer(request, self.corpus, self.exporter, faults)
        fault = ""
        if isinstance(reply.body, Body):
            with self._lock:
                fault = self._counter.body()
        return Answer(reply.status, {**reply.headers, **verdict.headers}, reply.body), fault


class _Server(ThreadingHTTPServer):
    """The listening socket, and every connection, so that closing really closes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self.sandbox = sandbox
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

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


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, writes answers, and does the faults."""

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
        """Keep quiet: requests are in the sandbox's own log."""

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
        reply, fault = sandbox.reply(request, self.client_address[0])
        sandbox.requests.append(
            Seen(
                request.path,
                target.query,
                reply.status,
                request.is_authenticated,
                headers.get("user-agent", ""),
                headers.get("range"),
                time.time(),
            )
        )
        body = reply.body
        length = body.stop - body.start if isinstance(body, Body) else len(body)
        told = length + max(length // 10, 1) if fault == "lie" else length
        self.send_response(reply.status, self._statuses.get(reply.status))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(told))
        self.end_headers()
        if with_body:
            self._send(body, length, fault)

    def _send(self, body: bytes | Body, length: int, fault: str) -> None:
        if isinstance(body, bytes):
            self.wfile.write(body)
            return
        if not fault and isinstance(body.settled.source, Path):
            # The kernel copies: the client under test has the processor for itself.
            self.wfile.flush()
            with body.settled.source.open("rb") as stream:
                self.connection.sendfile(stream, body.start, length)
            return
        stop = body.start + length // 2 if fault in {"cut", "stall"} else body.stop
        for start in range(body.start, stop, _PIECE):
            piece = body.settled.read(start, min(start + _PIECE, stop))
            if fault == "corrupt" and start == body.start and piece:
                piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
            self.wfile.write(piece)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(self.server.sandbox.faults.stall_seconds)
        if fault in {"cut", "stall", "lie"}:
            self.close_connection = True
