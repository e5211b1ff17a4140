"""The one HTTP client: polite, patient within limits, and told apart in its errors.

Built on `requests`, whose redirects are switched off and followed here, one
checked step at a time, and whose retries are not used: ours have to ask the
shared throttle before every attempt, and resume a body where it broke off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

import requests

from zml_dask.net.answers import JsonAnswer, read_bounded
from zml_dask.net.download import Download, TransferPlan
from zml_dask.net.errors import BadAnswerError, RangeUnsupportedError, shown
from zml_dask.net.options import HttpOptions, Token
from zml_dask.net.patience import Patience
from zml_dask.net.requester import Requester
from zml_dask.net.throttle import LocalThrottle, Throttle
from zml_dask.net.transfer import Transfer, content_range

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
        self.has_token = token is not None
        asked: Throttle = LocalThrottle() if throttle is None else throttle
        self._requester = Requester(self.options, asked, token)

    @property
    def requests_sent(self) -> int:
        """How many requests went out: every attempt and every redirect counts."""
        return self._requester.requests_sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._requester.close()

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
                failure = self._requester.attempt(
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
        self._requester.await_turn(url)

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
            failure = self._requester.attempt(
                patience,
                good,
                lambda answer: results.append(read(answer)),
                params=params,
                headers=headers,
            )
            if failure is not None:
                patience.failed(failure)
        return results[0]
