"""The `requests` session of a client: timed connections to checked addresses.

*Time.* A read timeout bounds the silence between two pieces, not their number: a
server that drips its headers, or announces "100 Continue" again and again, would hold
a worker for as long as it likes, and `http.client` returns nothing meanwhile. So each
read asks first whether there is time left.

*Addresses.* A name is resolved once, and the connection goes to the address that was
checked: a name whose address changes in between (DNS rebinding) leads nowhere else.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import connection as urllib3_connection

from zml_dask.errors import UsageError
from zml_dask.net.throttle import host_of, is_loopback
from zml_dask.net.urls import is_public, private_redirect

_LONGEST_HEAD: Final = 1024 * 1024
_CONNECTIONS: Final = 32
_SHORTEST_CONNECT: Final = 1.0

# The standard library refuses an answer with over 100 headers, which a few servers send. Here
# the size of the whole head is limited instead.
http.client._MAXHEADERS = max(http.client._MAXHEADERS, 10_000)  # type: ignore[attr-defined] # noqa: SLF001


_HEADER_LINE: Final = re.compile(rb"[!-9;-~]+:|[ \t]")
_SPACE_BEFORE_COLON: Final = re.compile(rb"^([!-9;-~]+)[ \t]+:")


@dataclass(slots=True)
class Hop:
    """One request on its way: the time that it has, and which servers it may reach."""

    # Called before each read of the answer, its body included; raises an error when time is up.
    check_time: Callable[[], None] = lambda: None
    public_only: bool = False  # refuse servers that are not on the public internet
    peer: str | None = None  # the server's address; None before it is reached, and through a proxy


_hop: ContextVar[Hop | None] = ContextVar("_hop", default=None)


@contextmanager
def travelling(hop: Hop) -> Iterator[None]:
    """Apply a hop's limits to the requests that are sent within."""
    token = _hop.set(hop)
    try:
        yield
    finally:
        _hop.reset(token)


def resolve(host: str, port: int, *, public_only: bool = False) -> list[str]:
    """Return the addresses of a host, in the order in which to try them.

    Raises `OSError` (`socket.gaierror`) if the name has no address; `NetworkError` if `public_only`
    and none of them is public.
    """
    family = urllib3_connection.allowed_gai_family()
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if public_only:
        addresses = [address for address in addresses if is_public(address)]
        if not addresses:
            raise private_redirect(f"//{host}")
    return addresses


def new_session(user_agent: str, token: Token | None) -> requests.Session:
    """Make a session that keeps connections, no cookies, and follows no redirects."""
    session = _Session()
    session.headers["User-Agent"] = user_agent
    session.auth = _TokenAuth(token)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, which is never shown, and the only host that may see it.

    The host has its port where it has one (``zenodo.org``).
    """

    value: str = field(repr=False)
    host: str

    @classmethod
    def load(cls, path: str | Path | None, api_url: str) -> Token | None:
        """Load a token from a file, else from ``ZENODO_TOKEN``, for the host of `api_url`.

        Returns None if there is neither. Raises `UsageError` if the file cannot be read, is
        empty, or holds more than a token.
        """
        if path is None:
            value = os.environ.get("ZENODO_TOKEN", "").strip()
        else:
            try:
                value = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"token file {str(path)!r} cannot be read: {type(error).__name__}; "
                    "give a file that holds the token alone"
                ) from None
            if not value:
                raise UsageError(f"token file {str(path)!r} is empty")
        if not value:
            return None
        if not value.isascii() or not value.isprintable() or " " in value:
            raise UsageError("the access token is not one word of ASCII; check its file")
        return cls(value, host_of(api_url))


class _TokenAuth(requests.auth.AuthBase):
    """Adds the token to requests to its host, and nothing (no ``.netrc`` either) elsewhere."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token, url = self._token, request.url or ""
        if token is None or host_of(url) != token.host.lower():
            return request
        # It is sent unencrypted to this machine only.
        if url.startswith("https://") or is_loopback(token.host):
            request.headers["Authorization"] = f"Bearer {token.value}"
        return request


class _Session(requests.Session):
    """Leaves redirects alone: even unfollowed, `requests` parses them and may fail."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Adapter(HTTPAdapter):
    """`requests`' adapter over connections of this module, with or without a proxy."""

    def __init__(self) -> None:
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        is_socks = proxy.lower().startswith("socks")
        manager.pool_classes_by_scheme = _socks_pools() if is_socks else _POOLS
        return manager


class _CheckedReader(io.RawIOBase):
    """A socket's reader that checks before each read whether there is time left."""

    def __init__(self, raw: io.RawIOBase, check_time: Callable[[], None]) -> None:
        self._raw = raw
        self._check_time = check_time
        self.left: int | None = None  # bytes that may still come; None for any number

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        self._check_time()
        count: int | None = self._raw.readinto(buffer)
        if self.left is not None:
            self.left -= count or 0
            if self.left < 0:
                raise http.client.HTTPException(
                    f"the head of the answer is over {_LONGEST_HEAD:,} bytes"
                )
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _CheckedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        reader: Any = self.fp
        hop = _hop.get() or Hop()
        self._reader = _CheckedReader(reader.detach(), hop.check_time)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        body: Any = self.fp
        self._reader.left = _LONGEST_HEAD
        super().begin()
        self._reader.left = None
        self.fp = body

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status of the final answer, and skip the interim ones before it (1xx).

        The standard library ends a head at the first line that is not a header, and so
        loses the length of the body: such lines are left out.
        """
        while True:
            answer: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            lines = []
            while (line := self.fp.readline(_LONGEST_HEAD)).strip():
                lines.append(_SPACE_BEFORE_COLON.sub(rb"\1:", line))
            if not 100 <= answer[1] < 200 or answer[1] == 101:
                head = b"".join(filter(_HEADER_LINE.match, lines))
                self.fp = io.BufferedReader(io.BytesIO(head + b"\r\n"))
                return answer


class _Timed:
    """Mixed into every class of connections."""

    response_class: Any = _CheckedResponse


class _Direct(_Timed):
    """Mixed into the classes of connections without a SOCKS proxy."""

    def _new_conn(self: Any) -> socket.socket:
        """Connect to the first address that answers, all of them within one timeout."""
        hop = _hop.get() or Hop()
        public_only = hop.public_only and self.proxy is None
        try:
            addresses = resolve(self._dns_host, self.port, public_only=public_only)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        until = time.monotonic() + self.timeout
        for number, address in enumerate(addresses, 1):
            share = (until - time.monotonic()) / (len(addresses) - number + 1)
            try:
                return urllib3_connection.create_connection(
                    (address, self.port),
                    max(_SHORTEST_CONNECT, share),
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection to {self.host}") from failure
        raise NewConnectionError(self, f"no connection: {failure}") from failure

    def request(self: Any, *args: Any, **options: Any) -> None:
        """Send a request, if the server at the other end may be asked."""
        if self.sock is None:
            self.connect()
        hop = _hop.get()
        if hop is not None and self.proxy is None:
            # A connection that is reused may have been made for a request with other limits.
            hop.peer = str(self.sock.getpeername()[0])
            if hop.public_only and not is_public(hop.peer):
                raise private_redirect(f"//{self.host}")
        super().request(*args, **options)  # type: ignore[misc]


def _pools(
    mixin: type, connections: Mapping[str, type], pools: Mapping[str, type[HTTPConnectionPool]]
) -> dict[str, type[HTTPConnectionPool]]:
    """Make pools by scheme, of connections that derive from `mixin` first."""
    made = {}
    for scheme, pool in pools.items():
        connection = type(connections[scheme].__name__, (mixin, connections[scheme]), {})
        made[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    return made


_POOLS: Final = _pools(
    _Direct,
    {"http": HTTPConnection, "https": HTTPSConnection},
    {"http": HTTPConnectionPool, "https": HTTPSConnectionPool},
)


@cache
def _socks_pools() -> dict[str, type[HTTPConnectionPool]]:
    """Pools of connections through a SOCKS proxy; importable only with PySocks."""
    from urllib3.contrib import socks

    return _pools(
        _Timed,
        {"http": socks.SOCKSConnection, "https": socks.SOCKSHTTPSConnection},
        {"http": socks.SOCKSHTTPConnectionPool, "https": socks.SOCKSHTTPSConnectionPool},
    )
