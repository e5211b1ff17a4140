"""Requests and answers as plain values, so that the routes need no socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from zml_dask.sandbox.content import Settled

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
    is_authenticated : bool
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    api_url: str
    is_authenticated: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes ``[start, stop)`` of some content. Faults fall on these bodies only."""

    settled: Settled
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


def content_answer(settled: Settled, range_header: str | None) -> Answer:
    """Answer with a content, or the part of it that a ``Range`` header asks for."""
    headers = {"Content-Type": "application/octet-stream", "ETag": f'"md5:{settled.md5}"'}
    if range_header is None:
        return Answer(200, headers, Body(settled, 0, settled.size))
    span = _span(range_header, settled.size)
    if span is None:
        return Answer(200, headers, Body(settled, 0, settled.size))
    start, stop = span
    if start >= stop:
        return Answer(416, headers | {"Content-Range": f"bytes */{settled.size}"})
    told = f"bytes {start}-{stop - 1}/{settled.size}"
    return Answer(206, headers | {"Content-Range": told}, Body(settled, start, stop))


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
