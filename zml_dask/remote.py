"""Explanations of the errors of fsspec and of the clients that it uses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

_NO_ACCESS = (
    "access is denied ({error}); give credentials (for S3 the storage options key and secret, or "
    "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or anon=True if the bucket is "
    "public; S3 also says so of an object that is not there, to who may not list the bucket"
)


class RemoteFailure(NamedTuple):
    """Why a file could not be read or written, in one line, with what to do.

    It does not exist (`is_missing`), may not be accessed (`is_denied`), or something else is wrong.
    """

    reason: str
    is_missing: bool = False
    is_denied: bool = False


def explain_fsspec(error: Exception) -> RemoteFailure:
    """Say why fsspec failed to read or write.

    fsspec raises whatever the client of a kind of storage raises; over HTTP, also
    `FileNotFoundError` for whatever went wrong. Raises `error` itself if it is a mistake of this
    package: one of Python's own exceptions that no client raises on purpose.
    """
    causes = list(causes_of(error))
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        reason = _NO_ACCESS.format(error=str(error).rstrip("."))
        return RemoteFailure(reason, is_denied=True)
    for each in causes:
        if type(each).__module__.startswith("aiohttp."):  # which takes long to import
            status = getattr(each, "status", None)
            if status in (401, 403):
                return RemoteFailure(
                    f"the server refuses it ({status}); check the address, or give what it asks "
                    "for, say storage_options={'headers': {'Authorization': ...}}",
                    is_denied=True,
                )
            if status:
                return RemoteFailure(f"the server answers {status}", status in (404, 410))
            return RemoteFailure(f"{reason_of(causes)}; check the network, or try later")
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return RemoteFailure(reason, isinstance(error, FileNotFoundError))
    # Each client has its own root of errors. An ImportError is about its package, a ValueError
    # about a value that it refuses, as botocore an endpoint without http://.
    if type(error).__module__ == "builtins" and not isinstance(error, ImportError | ValueError):
        raise error
    if is_ours(error):  # of a file that was read, and is not what it has to be
        return RemoteFailure(str(error))
    return RemoteFailure(f"{error or type(error).__name__}; check the address and the options")


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it wraps, as `requests` and urllib3 do in several ways."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        found = pending.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [*found.args, getattr(found, "reason", None), found.__cause__, found.__context__]


def reason_of(causes: list[BaseException]) -> str:
    """Say in a few words why a connection failed: the innermost cause that is known."""
    for each in reversed(causes):
        if isinstance(each, socket.gaierror | UnicodeError):
            return "its name has no address"
        if isinstance(each, ConnectionRefusedError):
            return "connection refused"
        if isinstance(each, TimeoutError) or type(each).__name__ == "ReadTimeoutError":
            return "no answer in time"
        if isinstance(each, ConnectionResetError):
            return "connection reset"
        if isinstance(each, OSError) and each.strerror and not isinstance(each, ssl.SSLError):
            return each.strerror
    return type(causes[0]).__name__


def is_ours(error: BaseException) -> bool:
    """Whether this package's own code raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "zml_dask"
