"""The `requests` session of a client: its name, its token, and nothing it was not told."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy

import requests

from zml_dask.net.connection import TimedAdapter
from zml_dask.net.options import HttpOptions, Token
from zml_dask.net.throttle import host_of, is_loopback


class _TokenAuth(requests.auth.AuthBase):
    """Adds the token to requests to its host, and nothing (no ``.netrc`` either) elsewhere."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token, url = self._token, request.url or ""
        if token is None or host_of(url) != token.host.lower():
            return request
        # In clear text only to this machine.
        if url.startswith("https://") or is_loopback(token.host):
            request.headers["Authorization"] = f"Bearer {token.value}"
        return request


class _Session(requests.Session):
    """Leaves redirects alone: even unfollowed, `requests` parses them and may stumble."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def new_session(options: HttpOptions, token: Token | None) -> requests.Session:
    """Connections are kept; cookies and ``.netrc`` are not heeded, redirects not followed."""
    session = _Session()
    session.headers["User-Agent"] = options.user_agent
    session.auth = _TokenAuth(token)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = TimedAdapter()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session
