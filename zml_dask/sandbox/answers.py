"""Requests, answers and file contents as plain values, so that the routes need no socket."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, Final

_MD5: Final = partial(hashlib.md5, usedforsecurity=False)


class Content:
    """Bytes to be served, made once, by whichever thread asks first.

    They are given, or a file that holds them, or a function that returns either.
    """

    def __init__(self, make: bytes | Path | Callable[[], bytes | Path]) -> None:
        self._make = make
        self._made: tuple[bytes | Path, int, str] | None = None
        self._lock = threading.Lock()

    def _get(self) -> tuple[bytes | Path, int, str]:
        with self._lock:
            if self._made is None:
                source = self._make() if callable(self._make) else self._make
                with source.open("rb") if isinstance(source, Path) else BytesIO(source) as stream:
                    digest = hashlib.file_digest(stream, _MD5)
                    self._made = source, stream.seek(0, SEEK_END), digest.hexdigest()
            return self._made

    @property
    def source(self) -> bytes | Path:
        """The content, or the file that holds it."""
        return self._get()[0]

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._get()[1]

    @property
    def md5(self) -> str:
        """Its checksum, hex digits."""
        return self._get()[2]

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``."""
        source = self.source
        if isinstance(source, bytes):
            return source[start:stop]
        with source.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


BLOCKED_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>Blocked</title></head><body><h1>Access blocked</h1>"
    b"<p>Access to this resource has been blocked due to unusual traffic.</p></body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request to the API at `api_url`, as the client calls it.

    The path is percent-decoded, without the query; of several arguments with one name the last
    counts; names of headers are in lower case.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    api_url: str
    is_authenticated: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes ``[start, stop)`` of some content."""

    content: Content
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers, and bytes or a part of a content."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body = b""


def json_answer(status: int, payload: Any, **headers: str) -> Answer:
    """Answer with JSON."""
    body = json.dumps(payload).encode("utf-8")
    return Answer(status, {"Content-Type": "application/json"} | headers, body)


def error_answer(status: int, message: str, **more: Any) -> Answer:
    """Answer with an error in Zenodo's form."""
    return json_answer(status, {"status": status, "message": message} | more)


def redirect(location: str, status: int = 302) -> Answer:
    """Redirect the client."""
    return Answer(status, {"Location": location, "Content-Type": "text/html"})


def internal_error() -> Answer:
    """Answer as Zenodo does to a query that it cannot parse."""
    return error_answer(
        500,
        "The server encountered an internal error and was unable to complete your request. "
        "Either the server is overloaded or there is an error in the application.",
        error_id="00000000000000000000000000000000",
    )


def validation_error(field_name: str, message: str) -> Answer:
    """Refuse the value of one argument."""
    errors = [{"field": field_name, "messages": [message]}]
    return error_answer(400, "A validation error occurred.", errors=errors)


def blocked() -> Answer:
    """Answer as Zenodo's proxy does to clients that it has blocked: with a page of HTML."""
    return Answer(403, {"Content-Type": "application/octet-stream"}, BLOCKED_PAGE)


def content_answer(content: Content, range_header: str | None) -> Answer:
    """Answer with a content, or the part of it that a ``Range`` header requests."""
    size = content.size
    headers = {"Content-Type": "application/octet-stream", "ETag": f'"md5:{content.md5}"'}
    span = None if range_header is None else _span(range_header, size)
    if span is None:
        return Answer(200, headers, Body(content, 0, size))
    start, stop = span
    if start >= stop:
        return Answer(416, headers | {"Content-Range": f"bytes */{size}"})
    span_header = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, headers | {"Content-Range": span_header}, Body(content, start, stop))


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Read a ``Range`` header; None for one that a server may ignore."""
    unit, _, span = header.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in span:
        return None
    try:
        if not first:
            return max(size - int(last), 0), size
        return int(first), min(int(last) + 1, size) if last else size
    except ValueError:
        return None
