"""The failures of a request: one type per kind."""

from __future__ import annotations

from typing import ClassVar

from zml_dask.errors import RecordError


class NetworkError(RecordError):
    """Root of the failures of a request."""

    kind: ClassVar[str] = "network"


class ForbiddenError(NetworkError):
    """The server knows the file and will not give it: restricted or embargoed."""

    kind: ClassVar[str] = "forbidden"
    permanent: ClassVar[bool] = True


class BlockedError(NetworkError):
    """The server refuses *us*, not the file: its page says unusual traffic."""

    kind: ClassVar[str] = "blocked"


class NotFoundError(NetworkError):
    """There is no such record or file."""

    kind: ClassVar[str] = "not_found"
    permanent: ClassVar[bool] = True


class GoneError(NetworkError):
    """The record was withdrawn and has a tombstone."""

    kind: ClassVar[str] = "gone"
    permanent: ClassVar[bool] = True


class RateLimitedError(NetworkError):
    """The server went on answering 429 although we waited as it asked."""

    kind: ClassVar[str] = "rate_limited"


class ServerError(NetworkError):
    """The server went on answering 5xx."""

    kind: ClassVar[str] = "server_error"


class BadRequestError(NetworkError):
    """The server does not accept the request; sending it again changes nothing."""

    kind: ClassVar[str] = "bad_request"
    permanent: ClassVar[bool] = True


class BadQueryError(BadRequestError):
    """The server cannot parse the query of a search; or, rarely, it stumbles over a good one."""


class BadAnswerError(NetworkError):
    """The answer is not what its status or type promises (JSON that is none)."""

    kind: ClassVar[str] = "bad_answer"


class ConnectError(NetworkError):
    """No connection, or one that broke or fell silent, again and again."""

    kind: ClassVar[str] = "connection"


class DeadlineError(NetworkError):
    """The whole download took longer than it may."""

    kind: ClassVar[str] = "deadline"


class ChecksumError(NetworkError):
    """The content is whole but has another md5 than the record says."""

    kind: ClassVar[str] = "checksum"
    permanent: ClassVar[bool] = True


class TruncatedError(NetworkError):
    """The server went on sending fewer bytes than the file has."""

    kind: ClassVar[str] = "truncated"


class TooLargeError(NetworkError):
    """The file is larger than the limit."""

    kind: ClassVar[str] = "too_large"
    permanent: ClassVar[bool] = True


class DiskFullError(NetworkError):
    """The local disk, or the quota on it, is full."""

    kind: ClassVar[str] = "disk_full"


class ScratchError(NetworkError):
    """The folder for downloads cannot be written."""

    kind: ClassVar[str] = "scratch"


class BadRedirectError(NetworkError):
    """The server sends us where we do not go."""

    kind: ClassVar[str] = "bad_redirect"
    permanent: ClassVar[bool] = True


class BadUrlError(NetworkError):
    """The URL is none that may be fetched."""

    kind: ClassVar[str] = "bad_url"
    permanent: ClassVar[bool] = True


class RangeUnsupportedError(NetworkError):
    """The server answers a request for a part with the whole."""

    kind: ClassVar[str] = "range_unsupported"
    permanent: ClassVar[bool] = True
