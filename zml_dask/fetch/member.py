"""One member of an archive, and what its path may be."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

MemberStatus = Literal[
    "ok", "too_large", "damaged", "encrypted", "unsupported", "duplicate", "refused"
]

_UNSHOWABLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


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


def showable(path: str) -> tuple[str, str | None]:
    r"""A path with what cannot be shown escaped, and a note where there is something to note.

    Nothing is ever written under such a path, so one that is absolute or climbs
    up (``../``) is harmless here: it is kept, noted, and its content read.

    Examples
    --------
    >>> showable("a/b.py")
    ('a/b.py', None)
    >>> showable("a\x1b[31m.py")
    ('a\\x1b[31m.py', 'its path holds characters that cannot be shown')
    >>> showable("../../etc/passwd")[1]
    'its path leads out of the archive'
    """
    note = None
    if path.startswith("/") or (".." in path and ".." in path.split("/")):
        note = "its path leads out of the archive"
    if path.isascii() and path.isprintable():
        return path, note
    if any(unicodedata.category(character) in _UNSHOWABLE for character in path):
        note = "its path holds characters that cannot be shown"
        path = "".join(
            character.encode("unicode_escape", "backslashreplace").decode("ascii")
            if unicodedata.category(character) in _UNSHOWABLE
            else character
            for character in path
        )
    return path, note


def decoded(raw: bytes, fallback: str) -> str:
    """A path's bytes as text: UTF-8 if they are, else a single-byte encoding that takes all."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback)
