"""The failures of a request: one type per kind."""

from __future__ import annotations

from zml_dask.errors import RecordError


class NetworkError(RecordError):
    """Root of the failures of a request."""

    kind = "network"


class ForbiddenError(NetworkError):
    """The server knows the file and will not give it: restricted or embargoed."""

    kind = "forbidden"


class BlockedError(NetworkError):
    """The server refuses *us*, not the file: its page says unusual traffic."""

    kind = "blocked"


class NotFoundError(NetworkError):
    """There is no such record or file."""

    kind = "not_found"


class GoneError(NetworkError):
    """The record was withdrawn and has a tombstone."""

    kind = "gone"


class RateLimitedError(NetworkError):
    """The server went on answering 429 although we waited as it asked."""

    kind = "rate_limited"


class ServerError(NetworkError):
    """The server went on answering 5xx."""

    kind = "server_error"


class BadRequestError(NetworkError):
    """The server does not accept the request; sending it again changes nothing."""

    kind = "bad_request"


class BadQueryError(BadRequestError):
    """The server cannot parse the query of a search; or, rarely, it stumbles over a good one."""


class BadAnswerError(NetworkError):
    """The answer is not what its status or type promises (JSON that is none)."""

    kind = "bad_answer"


class ConnectError(NetworkError):
    """No connection, or one that broke or fell silent, again and again."""

    kind = "connection"


class DeadlineError(NetworkError):
    """The whole download took longer than it may."""

    kind = "deadline"


class ChecksumError(NetworkError):
    """The content is whole but has another md5 than the record says."""

    kind = "checksum"


class TruncatedError(NetworkError):
    """The server went on sending fewer bytes than the file has."""

    kind = "truncated"


class TooLargeError(NetworkError):
    """The file is larger than the limit."""

    kind = "too_large"


class DiskFullError(NetworkError):
    """The local disk, or the quota on it, is full."""

    kind = "disk_full"


class ScratchError(NetworkError):
    """The folder for downloads cannot be written."""

    kind = "scratch"


class BadRedirectError(NetworkError):
    """The server sends us where we do not go."""

    kind = "bad_redirect"


class BadUrlError(NetworkError):
    """The URL is none that may be fetched."""

    kind = "bad_url"


class RangeUnsupportedError(NetworkError):
    """The server answers a request for a part with the whole."""

    kind = "range_unsupported"
