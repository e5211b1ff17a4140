"""What an answer that is no success means: which error it is, and whether it may pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
import urllib3

from zml_dask.net.errors import (
    BadQueryError,
    BadRequestError,
    BlockedError,
    ConnectError,
    ForbiddenError,
    GoneError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TooLargeError,
    shown,
)
from zml_dask.net.patience import Patience

PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524})
"""Statuses after which the same request may succeed."""

BROKEN_CONNECTION: Final = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""What `requests` and urllib3 raise while a connection or a body breaks off."""

_PIECE: Final = 64 * 1024
_READ_OF_A_REFUSAL: Final = 4096
_SHOWN_OF_A_REFUSAL: Final = 200
_SEARCH_SYNTAX: Final = "a 500 to a search means a query that the server cannot parse"


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """A JSON body and what came with it."""

    payload: Any
    headers: Mapping[str, str]
    status: int


def error_of(answer: requests.Response, url: str, *, is_search: bool) -> NetworkError:
    """The error that an answer of 4xx or 5xx stands for.

    A 403 with a page of HTML refuses the client; with JSON, the file. A 500 to a
    search is Zenodo's way of rejecting the query's syntax.
    """
    status = answer.status_code
    said, is_page = _what_it_says(answer)
    where = f"{shown(url)} answers {status}{said}"
    if status in {401, 403, 451}:
        if is_page or "unusual traffic" in said:
            return BlockedError(
                f"{where}: the server blocks this client; pause, and name a contact"
            )
        return ForbiddenError(f"{where}: the file is not public; a token may open it")
    if status == 404:
        return NotFoundError(f"{where}: there is no such record or file")
    if status == 410:
        return GoneError(f"{where}: the record was withdrawn")
    if status == 429:
        return RateLimitedError(f"{where}, however long we wait; use fewer workers or try later")
    if status == 500 and is_search:
        return BadQueryError(f"{where}; {_SEARCH_SYNTAX}: check it")
    if status >= 500:
        return ServerError(f"{where} again and again; try later")
    return BadRequestError(f"{where}: the request is not accepted")


def may_pass(status: int, *, is_search: bool) -> bool:
    """Whether trying again may help."""
    return status in PASSING and not (is_search and status == 500)


def connect_error(url: str, cause: BaseException) -> ConnectError:
    """No answer, or a broken one, for reasons of the connection."""
    reason = type(cause).__name__
    return ConnectError(f"{shown(url)} cannot be read ({reason}); check the network, or try later")


def read_bounded(answer: requests.Response, patience: Patience, limit: int) -> bytes:
    """A body, decoded, within the time and of at most `limit` bytes.

    Raises
    ------
    TooLargeError, DeadlineError
    """
    pieces, count = [], 0
    for piece in answer.iter_content(_PIECE):
        patience.check()
        count += len(piece)
        if count > limit:
            raise TooLargeError(f"{shown(patience.url)} answers more than {limit:,} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _what_it_says(answer: requests.Response) -> tuple[str, bool]:
    """The message in a refusal's body, quoted (empty where there is none); whether it is a page."""
    try:
        head = next(answer.iter_content(_READ_OF_A_REFUSAL), b"")
    except BROKEN_CONNECTION:
        return "", False
    text = head.decode("utf-8", "replace").strip()
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        message = text
    else:
        message = str(payload.get("message", "")) if isinstance(payload, dict) else ""
    message = " ".join(message.split())[:_SHOWN_OF_A_REFUSAL]
    return (f" ({message!r})" if message else ""), text.startswith("<")
