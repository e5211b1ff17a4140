"""The one HTTP client: polite, patient within limits, and told apart in its errors.

Built on `requests`, whose redirects are switched off and followed here, one
checked step at a time, and whose retries are not used: ours have to ask the
shared throttle before every attempt, and resume a body where it broke off.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

import requests

from zml_dask.net.answers import (
    BROKEN_CONNECTION,
    JsonAnswer,
    connect_error,
    error_of,
    may_pass,
    read_bounded,
)
from zml_dask.net.budget import SEARCH
from zml_dask.net.connection import checked_by
from zml_dask.net.download import Download, TransferPlan
from zml_dask.net.errors import (
    BadAnswerError,
    BadRedirectError,
    NetworkError,
    RangeUnsupportedError,
    shown,
)
from zml_dask.net.options import HttpOptions, Token
from zml_dask.net.patience import Patience
from zml_dask.net.session import new_session
from zml_dask.net.throttle import LocalThrottle, Throttle, bucket_of
from zml_dask.net.transfer import Transfer, content_range
from zml_dask.net.urls import MOST_REDIRECTS, REDIRECTS, check_url, redirected

__all__ = ["Download", "HttpClient", "HttpOptions", "JsonAnswer", "Token"]

T = TypeVar("T")

# A file is wanted as it is: an archive that a server compresses once more on
# its way would fit neither its length nor its md5.
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}


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

    Attributes
    ----------
    options : HttpOptions
    requests_sent : int
        Every attempt and every redirect counts.
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
    ) -> None:
        self.options = HttpOptions() if options is None else options
        self.requests_sent = 0
        self.has_token = token is not None
        self._throttle: Throttle = LocalThrottle() if throttle is None else throttle
        self._count_lock = threading.Lock()
        self._session = new_session(self.options, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def get_json(self, url: str, params: Mapping[str, str] | None = None) -> JsonAnswer:
        """GET a JSON document.

        Raises
        ------
        NetworkError
            One of its types by what went wrong; a 500 to a search is a
            `BadRequestError`.
        """
        patience = Patience(url, self.options)

        def read(answer: requests.Response) -> JsonAnswer:
            body = read_bounded(answer, patience, self.options.max_json_bytes)
            try:
                payload = json.loads(body)
            except (ValueError, RecursionError):
                raise BadAnswerError(f"{shown(url)} answers something that is not JSON") from None
            return JsonAnswer(payload, dict(answer.headers), answer.status_code)

        return self._persist(patience, {200}, read, params=params)

    def read_range(self, url: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of a file; fewer where it ends before.

        Raises
        ------
        RangeUnsupportedError
            Where the server answers with the whole file (whose body is not read).
        NetworkError
            One of its other types by what went wrong.
        """
        patience = Patience(url, self.options)

        def read(answer: requests.Response) -> bytes:
            part = content_range(answer)
            if answer.status_code != 206 or part is None or part[0] != start or part[1] >= stop:
                raise RangeUnsupportedError(
                    f"{shown(url)} answers {answer.status_code} to a request for a part of it"
                )
            length = part[1] - start + 1
            body = read_bounded(answer, patience, length)
            if len(body) != length:
                raise requests.ConnectionError("short part")
            return body

        headers = _AS_IT_IS | {"Range": f"bytes={start}-{stop - 1}"}
        return self._persist(patience, {200, 206, 416}, read, headers=headers)

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

        Returns
        -------
        Download

        Raises
        ------
        NetworkError
            One of its types by what went wrong.
        """
        plan = TransferPlan(url, target, max_bytes, checksum, size, keep_partial, wanted)
        patience = Patience(url, self.options)
        with Transfer(plan) as transfer:
            transfer.settle_if_whole()
            while not transfer.finished:
                failure = self._attempt(
                    patience,
                    {200, 206, 416},
                    lambda answer: transfer.take(answer, patience.check),
                    headers=_AS_IT_IS | transfer.headers(),
                )
                if failure is not None and not transfer.settle_if_whole():
                    patience.failed(failure, progressed=transfer.progressed())
            return transfer.result(patience.requests)

    def await_turn(self, url: str) -> None:
        """Ask the throttle for a request that somebody else (git) will send."""
        self._throttle.acquire(url)
        self._throttle.report(url, 0, {})

    def _persist(
        self,
        patience: Patience,
        good: set[int],
        read: Callable[[requests.Response], T],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Try until `read` has made something of an answer."""
        results: list[T] = []
        while not results:
            failure = self._attempt(
                patience,
                good,
                lambda answer: results.append(read(answer)),
                params=params,
                headers=headers,
            )
            if failure is not None:
                patience.failed(failure)
        return results[0]

    def _attempt(
        self,
        patience: Patience,
        good: set[int],
        take: Callable[[requests.Response], NetworkError | None],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> NetworkError | None:
        """One request; None, or what went wrong that may pass. Raises what will not."""
        url = patience.url
        is_search = bucket_of(url) == SEARCH
        try:
            with self._open(patience, params, headers) as answer:
                if answer.status_code in good:
                    return take(answer)
                failure = error_of(answer, url, is_search=is_search)
                if may_pass(answer.status_code, is_search=is_search):
                    return failure
                raise failure
        except BROKEN_CONNECTION as error:
            return connect_error(url, error)

    @contextmanager
    def _open(
        self,
        patience: Patience,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Iterator[requests.Response]:
        """Send a request and follow where it leads, one checked step at a time."""
        url = check_url(patience.url)
        for _ in range(MOST_REDIRECTS + 1):
            with self._send(url, patience, params, headers) as answer:
                if answer.status_code not in REDIRECTS:
                    yield answer
                    return
                url = redirected(url, answer.headers.get("Location"))
                params = None
        raise BadRedirectError(f"{shown(patience.url)} redirects more than {MOST_REDIRECTS} times")

    def _send(
        self,
        url: str,
        patience: Patience,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> requests.Response:
        patience.grant(self._throttle.acquire(url))
        patience.requests += 1
        with self._count_lock:
            self.requests_sent += 1
        status = 0
        seen: Mapping[str, str] = {}
        sent = time.monotonic()
        try:
            with checked_by(patience.check):
                answer = self._session.get(
                    url,
                    params=params,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(self.options.connect_timeout, self.options.read_timeout),
                )
            status, seen = answer.status_code, answer.headers
        finally:
            self._throttle.report(url, status, seen, time.monotonic() - sent)
        return answer
