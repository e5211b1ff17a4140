"""An HTTP server that enforces a limit as Zenodo does, and counts what it answered."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Limited:
    """At most `count` requests in any `seconds`; a refusal asks for `retry_after` seconds."""

    def __init__(self, count: int = 40, seconds: float = 4.0, retry_after: int = 1) -> None:
        self.count, self.seconds, self.retry_after = count, seconds, retry_after
        self.answered: list[tuple[float, int]] = []
        self.refuse_next = 0
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def answer(self) -> tuple[int, int]:
        """Status, and how many requests remain."""
        with self._lock:
            now = time.monotonic()
            while self._times and self._times[0] <= now - self.seconds:
                self._times.popleft()
            refused = len(self._times) >= self.count
            if self.refuse_next:
                self.refuse_next -= 1
                refused = True
            if not refused:
                self._times.append(now)
            status = 429 if refused else 200
            self.answered.append((now, status))
            return status, self.count - len(self._times)

    def statuses(self) -> list[int]:
        return [status for _, status in self.answered]


@contextmanager
def serving(limited: Limited) -> Iterator[str]:
    """Serve on the loopback device; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, remaining = limited.answer()
            self.send_response(status)
            self.send_header("X-RateLimit-Limit", str(limited.count))
            self.send_header("X-RateLimit-Remaining", str(remaining))
            # As Zenodo does, on every answer; only to be heeded on 429.
            self.send_header("Retry-After", str(limited.retry_after))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
