"""A static web server with Range, as real ones are, that counts what it sends."""

from __future__ import annotations

import re
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


class RangeServer:
    """Serves a folder over HTTP on the loopback device.

    Attributes
    ----------
    url : str
    sent : list of (path, bytes)
    refuse_with : int or None
        A status to answer everything with.
    delay : float
        Seconds before each answer, as of a server far away.
    most_at_once : int
        Requests that were under way at the same time, at most.
    together : int
        No request is answered before so many are under way.
    failures : list of int
        Statuses of the next answers, taken from its end; 0 sends half of what is asked for,
        and then nothing, over a connection that stays open.
    queries : list of str
        What came after a question mark.
    """

    def __init__(self, folder: Path) -> None:
        self.sent: list[tuple[str, int]] = []
        self.refuse_with: int | None = None
        self.delay = 0.0
        self.most_at_once = self._at_once = 0
        self.together = 0
        self._met = threading.Event()
        self.failures: list[int] = []
        self.queries: list[str] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, directory=str(folder), **options)

            def do_GET(self) -> None:
                with server._lock:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                    failure = server.failures.pop() if server.failures else None
                    server.queries += self.path.split("?")[1:]
                    if server._at_once >= server.together:
                        server._met.set()
                try:
                    server._met.wait(60)  # where they never meet, the test fails on that
                    time.sleep(server.delay)
                    self._answer(failure or server.refuse_with, silent=failure == 0)
                finally:
                    with server._lock:
                        server._at_once -= 1

            def _answer(self, failure: int | None, *, silent: bool) -> None:
                path = Path(self.translate_path(self.path))
                if failure or not path.is_file():
                    self.send_error(failure or 404)
                    return
                size = path.stat().st_size
                wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
                status, start, stop = 200, 0, size
                if wanted:
                    status = 206
                    if wanted[1]:
                        start = int(wanted[1])
                        stop = min(stop, int(wanted[2] or stop - 1) + 1)
                    else:
                        start = max(0, stop - int(wanted[2]))
                    if start >= stop:
                        self.send_error(416)
                        return
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(stop - start)
                self.send_response(status)
                self.send_header("Content-Type", self.guess_type(path))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                with server._lock:
                    server.sent.append((self.path, stop - start))
                self.wfile.write(data[: len(data) // 2] if silent else data)
                if silent:
                    server._closed.wait()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def bytes_sent(self, part: str) -> int:
        """Bytes sent of what has `part` in its path."""
        return sum(size for path, size in self.sent if part in path)
