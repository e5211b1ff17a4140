"""Which URLs may be fetched, which redirects followed, and which addresses are public."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import inet_aton
from typing import Final
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from zml_dask.errors import NetworkError
from zml_dask.text_safety import redact_url

REDIRECTS: Final = (301, 302, 303, 307, 308)
MOST_REDIRECTS: Final = 10

# What a URL may hold unquoted (RFC 3986), and the percent sign of what is quoted already.
_URL_CHARACTERS: Final = "!#$%&'()*+,/:;=?@[]~-._"
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\]")
# IPv6 prefixes whose last 32 bits are an IPv4 address: mapped, compatible, and NAT64.
_LAST_IS_IPV4: Final = tuple(map(ip_network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")
_SIX_TO_FOUR: Final = ip_network("2002::/16")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def check_url(url: str) -> str:
    """Return a URL that may be fetched: http(s), a host, no credentials.

    Raises `NetworkError` for anything else: a hostile record must not read local files.

    Examples
    --------
    >>> check_url("https://zenodo.org/api/records")
    'https://zenodo.org/api/records'
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise NetworkError("bad_url", f"{redact_url(url)} is not a URL ({error})") from None
    if parts.scheme not in {"http", "https"}:
        raise NetworkError(
            "bad_url",
            f"{redact_url(url)!r} is not fetched: only http and https are, "
            "unless the user's own catalogue names the URL",
        )
    if not parts.hostname:
        raise NetworkError("bad_url", f"{redact_url(url)} names no host")
    if parts.username is not None or parts.password is not None:
        raise NetworkError(
            "bad_url", f"{redact_url(url)} carries credentials; they do not belong in a catalogue"
        )
    if " " in url or _FORBIDDEN.search(url):
        # A backslash ends the host for some readers of URLs and not for others.
        raise NetworkError(
            "bad_url", f"{redact_url(url)} holds a space, control character or backslash"
        )
    return url


def redirected(url: str, location: str | None, *, from_inside: bool | None = None) -> str:
    r"""Return where a redirect of `url` leads.

    `location` is the header as `http.client` gives it: bytes read as Latin-1. Spaces and other
    characters that a URL may not hold are quoted, as browsers do. `from_inside` says whether the
    server that answered is in the private network; by default the host in `url` shows it.

    Raises `NetworkError` if the redirect leads off http(s), from https to http, or from the
    public internet to this machine or its private network.

    Examples
    --------
    >>> redirected("https://a.org/x", "/files/my code.zip")
    'https://a.org/files/my%20code.zip'
    """
    if not location:
        raise NetworkError("bad_redirect", f"{redact_url(url)} redirects to nowhere")
    try:
        # This is checked before quoting, which hides such characters, and before `urljoin`,
        # which drops some.
        is_forbidden = _FORBIDDEN.search(location) is not None
        target = check_url("" if is_forbidden else urljoin(url, _quoted(location)))
    except (NetworkError, ValueError):
        raise NetworkError(
            "bad_redirect",
            f"{redact_url(url)} redirects to {redact_url(location)!r}, which is not fetched",
        ) from None
    old, new = urlsplit(url), urlsplit(target)
    if old.scheme == "https" and new.scheme == "http":
        raise NetworkError(
            "bad_redirect", f"{redact_url(url)} redirects to unencrypted {redact_url(target)}"
        )
    if from_inside is None:
        from_inside = is_private_host(old.hostname)
    if not from_inside and is_private_host(new.hostname):
        raise private_redirect(target)
    return target


def private_redirect(url: str) -> NetworkError:
    """Return the error for a redirect from a public server to a private address."""
    return NetworkError(
        "bad_redirect",
        f"a public server redirects into the private network: {redact_url(url)} is not fetched",
    )


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    An IPv6 address that embeds an IPv4 address (mapped, compatible, 6to4, NAT64,
    ISATAP) is public only if that one is. Multicast is not.

    Examples
    --------
    >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("64:ff9b::7f00:1")
    (True, False, False)
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        embedded = _embedded_ipv4(ip)
        if embedded is not None:
            return is_public(str(embedded)) and ip not in _LOCAL_NAT64
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def is_private_host(host: str | None) -> bool:
    """Return whether a host is this machine or spelt as an address that is not public."""
    # `requests` normalises a name in the same way: Unicode has many forms of digits and dots.
    name = unicodedata.normalize("NFKC", host or "").replace("\u3002", ".").lower().rstrip(".")
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    with suppress(ValueError):
        return not is_public(name)
    with suppress(OSError, ValueError):
        # The system's resolver also accepts 127.1, 0x7f.1 and 2130706433 as addresses.
        return not is_public(str(IPv4Address(inet_aton(name))))
    return False


def _embedded_ipv4(ip: IPv6Address) -> IPv4Address | None:
    number = int(ip)
    if ip in _SIX_TO_FOUR:
        return IPv4Address(number >> 80 & 0xFFFF_FFFF)
    is_isatap = number >> 32 & 0xFFFF_FFFF in _ISATAP
    if is_isatap or ip in _LOCAL_NAT64 or any(ip in network for network in _LAST_IS_IPV4):
        return IPv4Address(number & 0xFFFF_FFFF)
    return None


def _quoted(location: str) -> str:
    """Quote what a URL may not hold, in all but the host."""
    with suppress(UnicodeError):
        # Servers write UTF-8, whatever the standard of the header says.
        location = location.encode("latin-1").decode("utf-8")
    scheme, netloc, path, query, fragment = urlsplit(location.strip(" "))
    path, query, fragment = (quote(part, safe=_URL_CHARACTERS) for part in (path, query, fragment))
    return urlunsplit((scheme, netloc, path, query, fragment))
