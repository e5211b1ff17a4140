"""A sandbox that keeps a log of its requests, and does something wrong when it is told to."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from zml_dask.records.parse import quote_key
from zml_dask.sandbox import server
from zml_dask.sandbox.answers import (
    Answer,
    Body,
    Request,
    blocked,
    error_answer,
    internal_error,
    json_answer,
    redirect,
)
from zml_dask.sandbox.corpus import Corpus
from zml_dask.sandbox.routes import is_content, is_search

_PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the server; those "every n-th" count the answers with a file's content.

    Attributes
    ----------
    cut_every : int
        Every n-th body breaks off in its middle; 0 never. So with the others.
    corrupt_every : int
        One byte of it is another than it should be.
    lie_every : int
        ``Content-Length`` says more than comes.
    stall_every, stall_seconds : int, float
        Half of it comes, then nothing for so long, then the end.
    unavailable : int
        The next n requests of any kind are answered 503.
    failing_searches : int
        The next n searches are answered 500.
    redirect_to : str, optional
        Requests for content are sent on (302) to their path under this URL.
    no_range : bool
        A request for a part is answered with the whole (200).
    blocked : bool
        Everything is answered with the HTML page for blocked clients (403).
    wrong_checksums : frozenset of int
        Records whose files are listed with another md5 than they have.
    delay : float
        Seconds before every answer.
    """

    cut_every: int = 0
    corrupt_every: int = 0
    lie_every: int = 0
    stall_every: int = 0
    stall_seconds: float = 0.0
    unavailable: int = 0
    failing_searches: int = 0
    redirect_to: str | None = None
    no_range: bool = False
    blocked: bool = False
    wrong_checksums: frozenset[int] = frozenset()
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was answered, and when: seconds since the epoch."""

    path: str
    query: str
    status: int
    is_authenticated: bool
    agent: str
    range: str | None
    at: float


class RequestLog(list[Seen]):
    """The requests of a sandbox, in the order of their answers."""

    def to(self, part: str) -> list[Seen]:
        """Give the requests whose path contains `part`."""
        return [seen for seen in self if part in seen.path]

    @property
    def searches(self) -> list[Seen]:
        return [seen for seen in self if is_search(seen.path)]

    @property
    def downloads(self) -> list[Seen]:
        """The requests for files' bytes."""
        return [seen for seen in self if is_content(seen.path)]


class Handler(server.Handler):
    """Sends bodies with the fault that falls on them."""

    fault = ""

    def stated_length(self, length: int) -> int:
        return length + max(length // 10, 1) if self.fault == "lie" else length

    def send_body(self, body: bytes | Body, length: int) -> None:
        if not self.fault or isinstance(body, bytes):
            super().send_body(body, length)
            return
        stop = body.start + length // 2 if self.fault in {"cut", "stall"} else body.stop
        for start in range(body.start, stop, _PIECE):
            piece = body.content.read(start, min(start + _PIECE, stop))
            if self.fault == "corrupt" and start == body.start and piece:
                piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
            self.wfile.write(piece)
        self.wfile.flush()
        sandbox: Any = self.server.sandbox
        if self.fault == "stall":
            time.sleep(sandbox.faults.stall_seconds)
        if self.fault != "corrupt":
            self.close_connection = True

    def _serve(self, *, with_body: bool) -> None:
        sandbox: Any = self.server.sandbox
        sandbox.current.handler = self
        self.fault = ""
        super()._serve(with_body=with_body)


class Sandbox(server.Sandbox):
    """A local Zenodo with faults, which may be set anew at any time; counting begins again then."""

    handler = Handler

    def __init__(self, corpus: Corpus, *, faults: Faults | None = None, **options: Any) -> None:
        super().__init__(corpus, **options)
        self.requests = RequestLog()
        self.current = threading.local()
        self._fault_lock = threading.Lock()
        self.faults = faults or Faults()

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._fault_lock:
            self._faults = faults
            self._bodies = 0
            self._unavailable = faults.unavailable
            self._failing_searches = faults.failing_searches

    def reply(self, request: Request, client: str) -> Answer:
        reply = self._reply(request, client)
        self.requests.append(
            Seen(
                path=request.path,
                query=urlencode(request.query),
                status=reply.status,
                is_authenticated=request.is_authenticated,
                agent=request.headers.get("user-agent", ""),
                range=request.headers.get("range"),
                at=time.time(),
            )
        )
        return reply

    def _reply(self, request: Request, client: str) -> Answer:
        faults = self.faults
        if faults.delay:
            time.sleep(faults.delay)
        if faults.no_range:
            headers = {name: one for name, one in request.headers.items() if name != "range"}
            request = replace(request, headers=headers)
        reply = super().reply(request, client)
        if reply.status == 429:
            return reply
        wrong = self._instead(request, faults, reply.body)
        if wrong is not None:
            reply = Answer(wrong.status, {**reply.headers, **wrong.headers}, wrong.body)
        if isinstance(reply.body, Body):
            self.current.handler.fault = self._next_fault()
        elif faults.wrong_checksums and reply.headers.get("Content-Type") == "application/json":
            payload = json.loads(reply.body)
            _change_md5s(payload, faults.wrong_checksums, request.path)
            reply = replace(reply, body=json_answer(200, payload).body)
        return reply

    def _instead(self, request: Request, faults: Faults, body: bytes | Body) -> Answer | None:
        with self._fault_lock:
            self._unavailable -= 1
            if self._unavailable >= 0:
                return error_answer(503, "Service Unavailable")
            if is_search(request.path):
                self._failing_searches -= 1
                if self._failing_searches >= 0:
                    return internal_error()
        if faults.blocked:
            return blocked()
        if faults.redirect_to is not None and isinstance(body, Body) and is_content(request.path):
            return redirect(f"{faults.redirect_to.rstrip('/')}{quote_key(request.path)}")
        return None

    def _next_fault(self) -> str:
        with self._fault_lock:
            self._bodies += 1
            every = {
                "cut": self.faults.cut_every,
                "corrupt": self.faults.corrupt_every,
                "lie": self.faults.lie_every,
                "stall": self.faults.stall_every,
            }
            hit = (name for name, n in every.items() if n and self._bodies % n == 0)
            return next(hit, "")


def _change_md5s(value: Any, records: frozenset[int], path: str) -> None:
    """Change the checksums of some records' files, wherever they are in an answer."""
    parts = path.split("/")
    number = next((int(part) for part in parts if part.isdigit()), 0)
    for hit in value.get("hits", {}).get("hits", [value]):
        if int(hit.get("id") or 0) in records or number in records:
            files = hit.get("files", hit.get("entries", []))
            entries = files.get("entries", {}) if isinstance(files, dict) else files
            for entry in entries.values() if isinstance(entries, dict) else entries:
                entry["checksum"] = "md5:" + "0" * 32
