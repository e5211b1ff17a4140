"""The HTTP client: it asks the throttle, retries transient errors, and raises permanent ones.

It is built on `requests`. Redirects are followed here, one checked step at a time.
The retries of `requests` are not used: ours ask the shared throttle before every
attempt, and resume a body where it broke off.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar

from zml_dask.errors import NetworkError, UsageError
from zml_dask.net.connection import Hop, Token, new_session, resolve, travelling
from zml_dask.net.responses import (
    BROKEN_CONNECTION,
    OK,
    JsonAnswer,
    connect_error,
    error_of,
    read_bounded,
)
from zml_dask.net.throttle import LONGEST_PAUSE, LocalThrottle, Throttle, host_of, retry_after
from zml_dask.net.transfer import Download, Transfer, TransferPlan, content_encoding, content_range
from zml_dask.net.urls import (
    MOST_REDIRECTS,
    REDIRECTS,
    check_url,
    is_private_host,
    is_public,
    redirected,
)
from zml_dask.text_safety import redact_url

__all__ = ["Download", "HttpClient", "HttpOptions", "JsonAnswer", "Token"]

T = TypeVar("T")

# A file that the server compresses for the transfer has another length and md5 than it states.
_UNCOMPRESSED: Final = {"Accept-Encoding": "identity"}
_REDACTED: Final = "***"
_PART: Final = 206
_GOOD_PARTS: Final = OK | {_PART, 416}
# In seconds. `time.gmtime` refuses much later instants.
_LONGEST_SHOWN_PAUSE: Final = 1e10
# An unreachable server is reported within five seconds of the first attempt.
_FIRST_CONNECT_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Patience and limits of a client.

    Attributes
    ----------
    connect_timeout, read_timeout : float
        Seconds to a connection, and between two pieces of an answer.
    deadline : float
        Seconds for one file or answer, all attempts together; time spent
        waiting for the throttle does not count.
    attempts : int
        Tries without progress before giving up.
    backoff, max_backoff : float
        Seconds: the n-th pause is drawn from zero to ``backoff * 2**n``,
        at most `max_backoff`.
    rate_limit_attempts : int
        Answers of 429 to one request before giving up.
    max_json_bytes : int
        Largest JSON body, decoded.
    contact : str
        Where the people behind a build can be reached, a URL or ``mailto:``;
        by default what ``ZML_CONTACT`` says. Part of the ``User-Agent``, without
        which Zenodo blocks a client.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    deadline: float = 3600.0
    attempts: int = 6
    backoff: float = 1.0
    max_backoff: float = 60.0
    rate_limit_attempts: int = 20
    max_json_bytes: int = 256 * 1024 * 1024
    contact: str = field(
        default_factory=lambda: os.environ.get("ZML_CONTACT", "https://pypi.org/project/zml-dask/")
    )

    def __post_init__(self) -> None:
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise UsageError(
                f"the contact {self.contact!r} cannot be sent to a server: give a URL or a "
                "mailto: address in ASCII, by ZML_CONTACT"
            )

    @property
    def user_agent(self) -> str:
        """The header ``User-Agent``: name, version and contact."""
        return f"zml-dask/{version('zml-dask')} (+{self.contact})"

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; random, so that workers part."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(failures, 30))
        return random.uniform(0.0, longest)  # noqa: S311 (no secret depends on it)


@dataclass(slots=True)
class _Request:
    """A request with all its attempts: what is asked, what has failed, and when to give up."""

    url: str
    options: HttpOptions
    on_retry: Callable[[str], None] | None
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    good: frozenset[int] = OK  # statuses of the answers whose body is read
    sent: int = 0  # attempts so far, each redirect included
    retry_after: float = 0.0  # seconds to wait, as the last transient error asked
    failures: int = 0  # attempts in a row that failed without progress
    is_answered: bool = False  # by the headers of what was asked for, in any attempt
    _deadline: float = field(init=False)
    _rate_limited: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.options.deadline

    def extend_deadline(self, seconds: float) -> None:
        """Do not count time that was spent waiting for the throttle."""
        self._deadline += seconds

    def check_deadline(self) -> None:
        """Raise `NetworkError` if time is up."""
        if time.monotonic() > self._deadline:
            raise NetworkError(
                "deadline",
                f"{redact_url(self.url)} takes longer than {self.options.deadline:g} s; "
                "raise the deadline, or try at another time",
            )

    def record_failure(self, failure: NetworkError, *, progressed: bool = False) -> None:
        """Count a transient failure and pause, or raise it if it is the last one allowed.

        If much of the body arrived before it (`progressed`), the count starts again, so that a
        file of 5 GB may arrive in twenty pieces.
        """
        if failure.kind == "rate_limited":
            # The throttle knows how long to wait, and does so before the next attempt.
            self._rate_limited += 1
            if self._rate_limited >= self.options.rate_limit_attempts:
                raise failure
            self.check_deadline()
            return
        self.failures = 1 if progressed else self.failures + 1
        if self.failures >= self.options.attempts:
            raise failure
        self.check_deadline()
        asked, self.retry_after = self.retry_after, 0.0
        self.extend_deadline(asked)
        pause = max(asked, self.options.pause(self.failures - 1))
        if self.on_retry is not None:
            self.on_retry(
                f"{failure} (attempt {self.failures + 1} of {self.options.attempts} "
                f"in {pause:.0f} s)"
            )
        time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))


class HttpClient:
    """A client that may be shared by the threads of one process.

    Parameters
    ----------
    options : HttpOptions
        Picklable; the client itself is not.
    throttle : Throttle, optional
        Asked before every request. Default: one of this process alone.
    token : Token, optional
        Sent to its own host only.
    on_retry : callable, optional
        Takes a line for the person who waits, whenever a request has failed and
        will be tried again.

    Attributes
    ----------
    options : HttpOptions
    has_token : bool
        Zenodo grants larger pages to clients that have one.

    Examples
    --------
    >>> with HttpClient() as client:
    ...     client.requests_sent
    0
    """

    def __init__(
        self,
        options: HttpOptions | None = None,
        throttle: Throttle | None = None,
        token: Token | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self.options = HttpOptions() if options is None else options
        self.has_token = token is not None
        self.requests_sent = 0
        self._token = token
        self._on_retry = on_retry
        self._throttle: Throttle = LocalThrottle() if throttle is None else throttle
        self._count_lock = threading.Lock()
        self._refusals: dict[str, tuple[float, str, str]] = {}
        self._session = new_session(self.options.user_agent, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def get_json(self, url: str, params: Mapping[str, str] | None = None) -> JsonAnswer:
        """GET a JSON document.

        The kind of a `NetworkError` says what went wrong; a 500 to a search is of the kind
        "bad_query".
        """
        request = self._request(url, params=params)

        def read(response: requests.Response) -> JsonAnswer | NetworkError:
            limit = self.options.max_json_bytes
            body = read_bounded(response, url, limit, request.check_deadline)
            if self._token is not None:
                body = body.replace(self._token.value.encode(), _REDACTED.encode())
            try:
                payload = json.loads(body)
            except (ValueError, RecursionError):
                # A page of a proxy or of maintenance, with a status of success.
                return NetworkError(
                    "bad_answer", f"{redact_url(url)} answers something that is not JSON"
                )
            return JsonAnswer(payload, response.headers)

        return self._get(request, read)

    def read_range(self, url: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of a file; fewer where it ends before.

        `NetworkError` of the kind "range_unsupported" where the server answers with the whole file
        (whose body is not read); of another by what went wrong.
        """
        headers = _UNCOMPRESSED | {"Range": f"bytes={start}-{stop - 1}"}
        request = self._request(url, headers=headers, good=_GOOD_PARTS)

        def read(response: requests.Response) -> bytes:
            part, status = content_range(response), response.status_code
            fits = part is not None and part[0] == start and part[1] < stop
            if status != _PART or part is None or not fits or content_encoding(response):
                raise NetworkError(
                    "range_unsupported",
                    f"{redact_url(url)} answers {status} to a request for a part of it",
                )
            length = part[1] - start + 1
            body = read_bounded(response, url, length, request.check_deadline)
            if len(body) != length:
                raise requests.ConnectionError("short part")
            return body

        return self._get(request, read)

    def download(
        self,
        url: str,
        target: Path,
        *,
        max_bytes: int | None = None,
        checksum: str | None = None,
        size: int | None = None,
        keep_partial: bool = False,
        wanted: Callable[[bytes], bool] | None = None,
        report: Callable[[int], None] | None = None,
    ) -> Download:
        """Stream a file to disk: resumed where it breaks off, checked at the end.

        Parameters
        ----------
        url : str
        target : Path
            Where it ends up, by a rename, once it is whole and right.
        max_bytes : int, optional
            Refuse more, before and during.
        checksum : str, optional
            ``"md5:..."``.
        size : int, optional
            Bytes that the record promises; decides only where there is no checksum.
        keep_partial : bool
            Leave what there is of a failed download beside `target`, and start
            from such a remnant (only where a checksum can prove the whole).
        wanted : callable, optional
            Given the first bytes (512, or all of a shorter file); where it
            returns False the transfer stops.
        report : callable, optional
            Given the bytes on disk, after every piece that has come.

        Raises
        ------
        NetworkError
            Its kind says what went wrong.
        """
        plan = TransferPlan(url, target, max_bytes, checksum, size, keep_partial, wanted, report)
        request = self._request(url, good=_GOOD_PARTS)
        with Transfer(plan) as transfer:
            transfer.accept_if_complete()
            while not transfer.finished:
                request.headers = _UNCOMPRESSED | transfer.headers()
                failure = self._attempt(
                    request, lambda response: transfer.receive(response, request.check_deadline)
                )
                if failure is not None and not transfer.accept_if_complete():
                    request.record_failure(failure, progressed=transfer.progressed())
            return transfer.result(request.sent)

    def resolve_redirects(self, url: str) -> str:
        """Return where the redirects of a URL end, each of them checked; the body is not read."""
        return self._get(self._request(url), lambda response: response.url)

    def await_turn(self, url: str) -> None:
        """Ask the throttle for a request that another program (git) will send."""
        self._throttle.acquire(url)
        self._throttle.report(url, 0, {})

    def _redact(self, text: str | None) -> str:
        """Remove the token from a server's message: some repeat a request's headers."""
        if text and self._token is not None:
            for secret in (self._token.value, quote(self._token.value, safe="")):
                text = text.replace(secret, _REDACTED)
        return text or ""

    def _request(self, url: str, **details: Any) -> _Request:
        return _Request(url, self.options, self._on_retry, **details)

    def _get(self, request: _Request, read: Callable[[requests.Response], T | NetworkError]) -> T:
        """Try until `read` accepts a response."""
        while True:
            found = self._attempt(request, read)
            if not isinstance(found, NetworkError):
                return found
            request.record_failure(found)

    def _attempt(
        self, request: _Request, read: Callable[[requests.Response], T | NetworkError]
    ) -> T | NetworkError:
        """Send a request once; return what `read` does or a transient error; raise a permanent one.

        `read` is given a response with one of the good statuses.
        """
        try:
            with self._open(request) as response:
                if response.status_code in request.good:
                    request.is_answered = True
                    return read(response)
                failure, is_transient = error_of(response, request.url, self._redact)
                if not is_transient:
                    raise failure
                request.retry_after = retry_after(response.headers) or 0.0
                if request.retry_after <= LONGEST_PAUSE:
                    return failure
                self._refuse(response.url, request.retry_after, failure)
        except BROKEN_CONNECTION as error:
            failure, is_transient = connect_error(
                request.url, error, is_answered=request.is_answered
            )
            if is_transient:
                return failure
        raise failure

    def _refuse(self, url: str, seconds: float, failure: NetworkError) -> NoReturn:
        """Give up on a server that asks for a very long pause, and send it nothing until then."""
        end = time.gmtime(time.time() + min(seconds, _LONGEST_SHOWN_PAUSE))
        until = time.strftime("%Y-%m-%d %H:%M UTC", end)
        message = f"{host_of(url)} asks to wait until {until}; run the same command again then"
        self._refusals[host_of(url)] = time.monotonic() + seconds, failure.kind, message
        raise NetworkError(failure.kind, message)

    @contextmanager
    def _open(self, request: _Request) -> Iterator[requests.Response]:
        """Send a request and follow where it leads, one checked step at a time."""
        url, params = check_url(request.url), request.params
        hop = Hop(request.check_deadline)
        # Some servers redirect until they receive their cookie. It is sent to that server only,
        # and kept for this request only.
        jars = defaultdict[str, RequestsCookieJar](RequestsCookieJar)
        for _ in range(MOST_REDIRECTS + 1):
            cookies = jars[host_of(url)]
            with self._send(url, params, request, hop, cookies) as response:
                if response.status_code not in REDIRECTS:
                    yield response
                    return
                extract_cookies_to_jar(cookies, response.request, response.raw)  # type: ignore[no-untyped-call]
                location = response.headers.get("Location")
                # Through a proxy the server's address is unknown: then `redirected` judges by
                # how the host is spelt.
                from_inside = None if hop.peer is None else not is_public(hop.peer)
                target = redirected(url, self._redact(location), from_inside=from_inside)
                if from_inside is None and not is_private_host(urlsplit(url).hostname):
                    # The proxy will connect to the target, so its addresses are checked here. If
                    # this machine cannot resolve the name, the proxy has to.
                    parts = urlsplit(target)
                    with suppress(OSError, UnicodeError):
                        resolve(parts.hostname or "", parts.port or 0, public_only=True)
                hop = Hop(request.check_deadline, public_only=from_inside is False)
                url, params = target, None
        raise NetworkError(
            "bad_redirect", f"{redact_url(request.url)} redirects more than {MOST_REDIRECTS} times"
        )

    def _send(
        self,
        url: str,
        params: Mapping[str, str] | None,
        request: _Request,
        hop: Hop,
        cookies: RequestsCookieJar,
    ) -> requests.Response:
        until, kind, message = self._refusals.get(host_of(url), (0.0, "", ""))
        if time.monotonic() < until:
            raise NetworkError(kind, message)
        request.extend_deadline(self._throttle.acquire(url))
        request.sent += 1
        with self._count_lock:
            self.requests_sent += 1
        status = 0
        seen: Mapping[str, str] = {}
        sent = time.monotonic()
        connect_timeout = self.options.connect_timeout
        if not request.failures:
            connect_timeout = min(connect_timeout, _FIRST_CONNECT_TIMEOUT)
        try:
            with travelling(hop):
                response = self._session.get(
                    url,
                    params=params,
                    headers=request.headers,
                    cookies=cookies,
                    stream=True,
                    allow_redirects=False,
                    timeout=(connect_timeout, self.options.read_timeout),
                )
            status = response.status_code
            seen = {"Date": formatdate(usegmt=True), **response.headers}
        finally:
            self._throttle.report(url, status, seen, time.monotonic() - sent)
        return response
