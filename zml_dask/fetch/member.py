"""One member of an archive, and what its path may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemberStatus = Literal[
    "ok", "too_large", "damaged", "encrypted", "unsupported", "duplicate", "refused"
]


@dataclass(frozen=True, slots=True)
class Member:
    """What an archive holds under one path.

    Attributes
    ----------
    path : str
        As in the archive; characters that cannot be shown are escaped.
    size : int or None
        Bytes, unpacked, as the archive says; None where it does not.
    data : bytes or None
        The content, where `status` is ``"ok"``.
    status : MemberStatus
    reason : str or None
        Why it is not ``"ok"``; of one that is, what to know about its path.
    """

    path: str
    size: int | None
    data: bytes | None
    status: MemberStatus
    reason: str | None


def is_version_control(path: str) -> bool:
    """Whether a path lies within a folder of a version-control system.

    Examples
    --------
    >>> is_version_control("a/.git/config"), is_version_control("a/.gitignore")
    (True, False)
    """
    return (
        "/.git/" in path
        or "/.hg/" in path
        or "/.svn/" in path
        or path.startswith((".git/", ".hg/", ".svn/"))
    )


def decoded(raw: bytes, fallback: str) -> str:
    """A path's bytes as text: UTF-8 if they are, else a single-byte encoding that takes all."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback)
