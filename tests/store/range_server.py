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
    """

    def __init__(self, folder: Path) -> None:
        self.sent: list[tuple[str, int]] = []
        self.refuse_with: int | None = None
        self.delay = 0.0
        self._lock = threading.Lock()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, directory=str(folder), **options)

            def do_GET(self) -> None:
                time.sleep(server.delay)
                path = Path(self.translate_path(self.path))
                if server.refuse_with or not path.is_file():
                    self.send_error(server.refuse_with or 404)
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
                        start = max(0, size - int(wanted[2]))
                self.send_response(status)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                with server._lock:
                    server.sent.append((self.path, stop - start))
                with path.open("rb") as file:
                    file.seek(start)
                    self.wfile.write(file.read(stop - start))

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bytes_sent(self, part: str) -> int:
        """Bytes sent of what has `part` in its path."""
        return sum(size for path, size in self.sent if part in path)
