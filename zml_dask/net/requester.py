"""One request and its answer: in its turn, only to where it may go, its errors told apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import requests

from zml_dask.net.answers import BROKEN_CONNECTION, connect_error, error_of, may_pass
from zml_dask.net.budget import SEARCH
from zml_dask.net.connection import checked_by
from zml_dask.net.errors import BadRedirectError, NetworkError, shown
from zml_dask.net.options import HttpOptions, Token
from zml_dask.net.patience import Patience
from zml_dask.net.session import new_session
from zml_dask.net.throttle import Throttle, bucket_of
from zml_dask.net.urls import MOST_REDIRECTS, REDIRECTS, check_url, redirected


class Requester:
    """Sends single requests, for any thread; what they are tried for is not its business.

    Parameters
    ----------
    options : HttpOptions
    throttle : Throttle
        Asked before every request.
    token : Token or None
        Sent to its own host only.

    Attributes
    ----------
    requests_sent : int
        Every attempt and every redirect counts.
    """

    def __init__(self, options: HttpOptions, throttle: Throttle, token: Token | None) -> None:
        self.requests_sent = 0
        self._options = options
        self._throttle = throttle
        self._count_lock = threading.Lock()
        self._session = new_session(options, token)

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def await_turn(self, url: str) -> None:
        """Ask the throttle for a request that somebody else (git) will send."""
        self._throttle.acquire(url)
        self._throttle.report(url, 0, {})

    def attempt(
        self,
        patience: Patience,
        good: set[int],
        take: Callable[[requests.Response], NetworkError | None],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> NetworkError | None:
        """Send a request and have its answer taken.

        Parameters
        ----------
        patience : Patience
            Of what is asked for; says where, and for how long.
        good : set of int
            Statuses whose answers are taken.
        take : callable
            Given such an answer; returns None, or what was wrong with it.
        params, headers : mapping, optional

        Returns
        -------
        NetworkError or None
            What went wrong and may pass.

        Raises
        ------
        NetworkError
            Where it will not pass.
        """
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
                    timeout=(self._options.connect_timeout, self._options.read_timeout),
                )
            status, seen = answer.status_code, answer.headers
        finally:
            self._throttle.report(url, status, seen, time.monotonic() - sent)
        return answer
