"""Connections whose every read is within the time of its request, from the first byte of the head.

A read timeout bounds the silence between two pieces, not their number: a server
that drips its headers, or announces "100 Continue" again and again, would hold a
worker for as long as it likes, and `http.client` hands out nothing meanwhile that
a caller could look at the clock between.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_LONGEST_HEAD: Final = 1024 * 1024
_CONNECTIONS: Final = 32


def _no_limit() -> None:
    """Do not look at any clock."""


_check: ContextVar[Callable[[], None]] = ContextVar("_check", default=_no_limit)


@contextmanager
def checked_by(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each read of the answers that are opened within, their bodies included.

    Parameters
    ----------
    check : callable
        Raises where time is up.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


class TimedAdapter(HTTPAdapter):
    """`requests`' adapter over connections of this module, with or without a proxy."""

    def __init__(self) -> None:
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Give the pools of connections by way of a proxy."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _CheckedReader(io.RawIOBase):
    """A socket's reader that asks before each read whether there is time left."""

    def __init__(self, raw: io.RawIOBase, check: Callable[[], None]) -> None:
        self._raw = raw
        self._check = check
        self.left: int | None = None
        """Bytes that may still come; None for any number."""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        self._check()
        count: int | None = self._raw.readinto(buffer)
        if self.left is not None:
            self.left -= count or 0
            if self.left < 0:
                raise HTTPException(f"the head of the answer is over {_LONGEST_HEAD:,} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _CheckedResponse(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        reader: Any = self.fp
        self._reader = _CheckedReader(reader.detach(), _check.get())
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        self._reader.left = _LONGEST_HEAD
        super().begin()
        self._reader.left = None


class _HttpConnection(HTTPConnection):
    response_class = _CheckedResponse


class _HttpsConnection(HTTPSConnection):
    response_class = _CheckedResponse


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS: Final = {"http": _HttpPool, "https": _HttpsPool}
