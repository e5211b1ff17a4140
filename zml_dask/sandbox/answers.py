"""Requests, answers and the bytes of files as plain values, so that the routes need no socket."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """Content that is there.

    Attributes
    ----------
    size : int
        Bytes.
    md5 : str
        Hex digits.
    """

    source: bytes | Path
    size: int
    md5: str

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``."""
        if isinstance(self.source, bytes):
            return self.source[start:stop]
        with self.source.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


class Content:
    """Content that is made by a function, once, by whichever thread asks first.

    Parameters
    ----------
    make : bytes, Path or callable
        The content, a file that holds it, or a function that gives either.
    """

    def __init__(self, make: bytes | Path | Callable[[], bytes | Path]) -> None:
        self._make = make
        self._kept: Made | None = None
        self._lock = threading.Lock()

    def made(self) -> Made:
        """Make it, if need be, and say how large it is and what its md5 is."""
        with self._lock:
            if self._kept is None:
                source = self._make() if callable(self._make) else self._make
                self._kept = _measured(source)
            return self._kept


def _measured(source: bytes | Path) -> Made:
    if isinstance(source, bytes):
        return Made(source, len(source), hashlib.md5(source, usedforsecurity=False).hexdigest())
    digest = hashlib.md5(usedforsecurity=False)
    with source.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return Made(source, source.stat().st_size, digest.hexdigest())


BLOCKED_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>Blocked</title></head><body><h1>Access blocked</h1>"
    b"<p>Access to this resource has been blocked due to unusual traffic.</p></body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request.

    Attributes
    ----------
    path : str
        Percent-decoded, without the query.
    query : mapping
        Its arguments; of several with one name the last.
    headers : mapping
        Names in lower case.
    api_url : str
        Root of the API as the client calls it.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    api_url: str
    is_authenticated: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes ``[start, stop)`` of some content. Faults fall on these bodies only."""

    made: Made
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
    """Send the client elsewhere."""
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
    """Answer as Zenodo's front does to clients it has blocked: HTML, whatever was asked."""
    return Answer(403, {"Content-Type": "application/octet-stream"}, BLOCKED_PAGE)


def content_answer(made: Made, range_header: str | None) -> Answer:
    """Answer with a content, or the part of it that a ``Range`` header asks for."""
    headers = {"Content-Type": "application/octet-stream", "ETag": f'"md5:{made.md5}"'}
    if range_header is None:
        return Answer(200, headers, Body(made, 0, made.size))
    span = _span(range_header, made.size)
    if span is None:
        return Answer(200, headers, Body(made, 0, made.size))
    start, stop = span
    if start >= stop:
        return Answer(416, headers | {"Content-Range": f"bytes */{made.size}"})
    span_header = f"bytes {start}-{stop - 1}/{made.size}"
    return Answer(206, headers | {"Content-Range": span_header}, Body(made, start, stop))


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Read a header of one range; None for what a server may ignore."""
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
