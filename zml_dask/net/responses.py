"""The errors that responses and broken connections mean, and whether they are transient."""

from __future__ import annotations

import html
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
import urllib3

from zml_dask.errors import NetworkError
from zml_dask.net.throttle import SEARCH, bucket_of
from zml_dask.remote import causes_of, reason_of
from zml_dask.text_safety import escape_text, redact_url

OK: Final = frozenset({200, 203})
"""Statuses of a whole body; 203 is one that a proxy has touched."""

TRANSIENT: Final = frozenset({202, 204, 205, 408, 409, 418, 420, 421, 423, 425, 429, 449})
"""Statuses, beside all of 5xx, after which the same request may succeed (418, 420 and 449 are
those of some rate limiters)."""

FINAL: Final = frozenset({401, 403, 404, 410, 451})
"""Statuses that stay, even with a ``Retry-After`` (Zenodo sends that with every answer)."""

BROKEN_CONNECTION: Final = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""What `requests` and urllib3 raise while a connection or a body breaks off."""

CA_BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_READ_BYTES: Final = 64 * 1024
_REFUSAL_BYTES: Final = 4096
_QUOTED_CHARACTERS: Final = 200
_MARKUP: Final = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^>]*>?", re.DOTALL | re.IGNORECASE
)
"""What a page of HTML has besides its title and text."""
_CERTIFICATE_EXPIRED: Final = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""
_CERTIFICATE_OF_ANOTHER_HOST: Final = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """A JSON body and the headers of its response, by names in any case."""

    payload: Any
    headers: Mapping[str, str]


def error_of(
    response: requests.Response, url: str, redact: Callable[[str], str]
) -> tuple[NetworkError, bool]:
    """Return the error that an unsuccessful answer means, and whether it is transient.

    A 403 with a page of HTML refuses the client; with JSON, the file. Zenodo answers 500 to a
    search whose query it cannot parse. `redact` removes secrets from what the server says.
    """
    status, headers = response.status_code, response.headers
    message, is_page = _message_of(response, redact)
    where = f"{redact_url(url)} answers {status}{message}"
    if status == 429 or (status == 403 and headers.get("X-RateLimit-Remaining") == "0"):
        return NetworkError(
            "rate_limited", f"{where}, however long we wait; use fewer workers or try later"
        ), True
    if status == 500 and bucket_of(url) == SEARCH:
        return NetworkError(
            "bad_query", f"{where}; that means a query that the server cannot parse: check it"
        ), False
    if status == 407 and (proxy := proxy_of(url)) is not None:
        refusal = _refused_by_proxy(*proxy, "407 Proxy Authentication Required")
        return NetworkError("connection", f"{redact_url(url)} cannot be read: {refusal}"), False
    asks_to_retry = "Retry-After" in headers and status >= 400 and status not in FINAL
    transient = status >= 500 or status in TRANSIENT or asks_to_retry
    if status in {401, 403, 451}:
        if is_page or "traffic" in message:
            kind, advice = "blocked", ": the server blocks this client; pause, and name a contact"
        else:
            kind, advice = "forbidden", ": the file is not public; a token may open it"
    elif status == 404:
        kind, advice = "not_found", ": there is no such record or file"
    elif status == 410:
        kind, advice = "gone", ": the record was withdrawn"
    elif status >= 500 or status in TRANSIENT - {204, 205}:
        kind, advice = "server_error", "; try later"
    elif status < 400:
        kind, advice = "bad_answer", ", without the content that was asked for"
    else:
        kind, advice = "bad_request", ": the request is not accepted"
    return NetworkError(kind, where + advice), transient


def connect_error(
    url: str, cause: BaseException, *, is_answered: bool = False
) -> tuple[NetworkError, bool]:
    """Return the error that a failed connection means, and whether trying again may help.

    It does not for a certificate that is not trusted, nor for wrong settings of this machine. If
    the server can be reached and has begun to send the file (`is_answered`), the file is at fault.
    """
    where = redact_url(url)
    causes = list(causes_of(cause))
    advice = _wrong_setting(url, causes) or _wrong_certificate(causes)
    if advice is not None:
        return NetworkError("connection", f"{where} cannot be read: {advice}"), False
    reason = reason_of(causes)
    proxy, is_unreached = proxy_of(url), _is_connect_failure(causes)
    if is_answered and not is_unreached:
        return NetworkError("truncated", f"{where} breaks off ({reason}); try later"), True
    if proxy is not None and is_unreached:
        name, address = proxy
        return NetworkError(
            "connection",
            f"{where} cannot be read: the proxy {redact_url(address)}, which {name} names, "
            f"does not answer ({reason})",
        ), True
    return NetworkError(
        "connection", f"{where} cannot be read ({reason}); check the network, or try later"
    ), True


def read_bounded(
    response: requests.Response, url: str, limit: int, check_time: Callable[[], None]
) -> bytes:
    """Return a body, decompressed, of at most `limit` bytes.

    Raises `NetworkError` for a larger one, or when `check_time` finds that time is up.
    """
    pieces, count = [], 0
    for piece in response.iter_content(_READ_BYTES):
        check_time()
        count += len(piece)
        if count > limit:
            raise NetworkError("too_large", f"{redact_url(url)} answers more than {limit:,} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _message_of(response: requests.Response, redact: Callable[[str], str]) -> tuple[str, bool]:
    """Return the message in a refusal's body, quoted ('' for none), and whether it is a page."""
    try:
        head = next(response.iter_content(_REFUSAL_BYTES), b"")
    except BROKEN_CONNECTION:
        return "", False
    text = head.decode("utf-8", "replace").strip()
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        message = text
        if len(head) >= _REFUSAL_BYTES:
            # A secret that the limit cuts in two would not be recognised.
            message = message.rpartition(" ")[0]
        if text.startswith("<"):
            message = html.unescape(_MARKUP.sub(" ", message))
    else:
        message = str(payload.get("message", "")) if isinstance(payload, dict) else ""
    message = " ".join(redact(message).split())[:_QUOTED_CHARACTERS]
    return (f" ({message!r})" if message else ""), text.startswith("<")


def _wrong_setting(url: str, causes: list[BaseException]) -> str | None:
    """Name the setting of this machine that makes the connection impossible."""
    proxy = proxy_of(url)
    if proxy is not None:
        name, address = proxy
        if any("SOCKS support" in str(each) for each in causes):
            return (
                f"{name} names a SOCKS proxy, which needs PySocks: pip install 'zml-dask[socks]', "
                f"or unset {name}"
            )
        if any(isinstance(each, requests.exceptions.InvalidProxyURL) for each in causes):
            return f"the proxy that {name} names, {redact_url(address)!r}, is not a URL; correct it"
        refusal = next((str(e) for e in causes if "Tunnel connection failed: 40" in str(e)), None)
        if refusal is not None:
            detail = refusal.partition("Tunnel connection failed: ")[2][:40].partition("'")[0]
            return _refused_by_proxy(name, address, escape_text(detail))
        if address.startswith("https:") and any(map(_is_not_tls, causes)):
            return (
                f"the proxy {redact_url(address)}, which {name} names, does not speak TLS; "
                "begin its address with http://"
            )
    bundle = next(((n, os.environ[n]) for n in CA_BUNDLE_VARIABLES if os.environ.get(n)), None)
    if bundle is not None and url.startswith("https:"):
        name, path = bundle
        if not os.path.exists(path):  # noqa: PTH110 (the variable's own words)
            return f"{name} names {path!r}, which does not exist; correct or unset it"
        if any("NO_CERTIFICATE_OR_CRL_FOUND" in str(each) for each in causes):
            return f"{name} names {path!r}, which holds no certificate; correct or unset it"
    return None


def _refused_by_proxy(name: str, address: str, detail: str) -> str:
    advice = "check the user and password in it"
    if not detail.startswith("407"):
        advice = "it may not let this host through; ask those who run it"
    return f"the proxy {redact_url(address)}, which {name} names, answers {detail}; {advice}"


def _is_not_tls(cause: BaseException) -> bool:
    """Whether a server answers the begin of TLS with something else."""
    reasons = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
    return isinstance(cause, ssl.SSLError) and cause.reason in reasons


def _wrong_certificate(causes: list[BaseException]) -> str | None:
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            detail = escape_text(each.verify_message[:_QUOTED_CHARACTERS])
            if each.verify_code in _CERTIFICATE_OF_ANOTHER_HOST:
                return f"its certificate is that of another host ({detail}); check the URL"
            if each.verify_code == _CERTIFICATE_EXPIRED:
                return (
                    f"its certificate is not trusted ({detail}); check this machine's clock, or "
                    f"set {CA_BUNDLE_VARIABLES[0]} to a file with a certificate that you trust"
                )
            return (
                f"its certificate is not trusted ({detail}); set {CA_BUNDLE_VARIABLES[0]} to a "
                "file with the certificate of its authority"
            )
        if _is_not_tls(each):
            return "it does not speak TLS on this port; is the URL http:// rather than https://?"
        if isinstance(each, ssl.SSLError) and each.reason == "UNSUPPORTED_PROTOCOL":
            return "it speaks only outdated versions of TLS, which this machine refuses"
    return None


def _is_connect_failure(causes: list[BaseException]) -> bool:
    kinds = (
        requests.exceptions.ProxyError,
        requests.exceptions.ConnectTimeout,
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ConnectTimeoutError,
    )
    return any(isinstance(each, kinds) for each in causes)


def proxy_of(url: str) -> tuple[str, str] | None:
    """Return the variable that names a proxy for a URL, and the proxy; None for none."""
    proxies = requests.utils.get_environ_proxies(url)
    proxy = requests.utils.select_proxy(url, proxies)
    if not proxy:
        return None
    scheme = url.partition(":")[0]
    for name in (f"{scheme}_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            if os.environ.get(spelt) == proxy:
                return spelt.upper(), proxy
    return "the system's settings", proxy
