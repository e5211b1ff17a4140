"""Which URLs may be fetched, and which redirects followed."""

from __future__ import annotations

import unicodedata
from ipaddress import ip_address
from socket import inet_aton
from typing import Final
from urllib.parse import urljoin, urlsplit

from zml_dask.net.errors import BadRedirectError, BadUrlError, shown

REDIRECTS: Final = (301, 302, 303, 307, 308)
MOST_REDIRECTS: Final = 10


def check_url(url: str) -> str:
    """A URL that may be fetched: http(s), a host, no credentials.

    Raises
    ------
    BadUrlError
        For anything else; a hostile record must not read local files.

    Examples
    --------
    >>> check_url("https://zenodo.org/api/records")
    'https://zenodo.org/api/records'
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BadUrlError(
            f"{shown(url)} is not a URL ({error}); the record is passed over"
        ) from None
    if parts.scheme not in {"http", "https"}:
        raise BadUrlError(
            f"{shown(url)!r} is not fetched: only http and https are, "
            "unless the user's own catalogue names the URL"
        )
    if not parts.hostname:
        raise BadUrlError(f"{shown(url)} names no host")
    if parts.username is not None or parts.password is not None:
        raise BadUrlError(f"{shown(url)} carries credentials; they do not belong in a catalogue")
    if any(character <= " " or character in "\x7f\\" for character in url):
        # A backslash ends the host for some readers of URLs and not for others.
        raise BadUrlError(f"{shown(url)} holds a space, control character or backslash")
    return url


def redirected(url: str, location: str | None) -> str:
    """Where an answer of 3xx leads.

    Raises
    ------
    BadRedirectError
        Where it leads off http(s), from https to http, or from elsewhere to
        this machine or its private network.
    """
    if not location:
        raise BadRedirectError(f"{shown(url)} redirects to nowhere")
    try:
        target = check_url(urljoin(url, location))
    except (BadUrlError, ValueError):
        raise BadRedirectError(
            f"{shown(url)} redirects to {shown(location)!r}, which is not fetched"
        ) from None
    old, new = urlsplit(url), urlsplit(target)
    if old.scheme == "https" and new.scheme == "http":
        raise BadRedirectError(f"{shown(url)} redirects to unencrypted {shown(target)}")
    if _is_inside(new.hostname) and not _is_inside(old.hostname):
        raise BadRedirectError(f"{shown(url)} redirects into the private network: {shown(target)}")
    return target


def _is_inside(host: str | None) -> bool:
    """Whether a host is this machine or named by a private address, however it is spelt."""
    # As `requests` does before it looks a name up: digits and dots come in many shapes.
    name = unicodedata.normalize("NFKC", host or "").replace("\u3002", ".").lower().rstrip(".")
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        try:
            # The system's resolver takes 127.1, 0x7f.1 and 2130706433 for addresses.
            address = ip_address(inet_aton(name))
        except (OSError, ValueError):
            return False
    return not address.is_global
