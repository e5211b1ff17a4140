"""Text from elsewhere, made safe to print and to store; and counts with their nouns.

A path in an archive may hold terminal escapes, a URL may hold a password, a server
may repeat our token. Each function here makes one of these harmless.
"""

from __future__ import annotations

import reprlib
import shlex
import unicodedata
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

_LONGEST_URL: Final = 300
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escape_text(text: str) -> str:
    r"""Return `text` with everything that is not plainly visible written as an escape.

    That is control characters (so no terminal sequence, no line end), the marks that
    reverse the direction of writing, and lone surrogates.

    Examples
    --------
    >>> escape_text("src/\x1b[2Ja.py"), escape_text("naïve \u202e.txt")
    ('src/\\x1b[2Ja.py', 'naïve \\u202e.txt')
    """
    return text if text.isprintable() else _escape(text, str.isprintable)


def brief_repr(value: object) -> str:
    r"""Return the repr of any value for a message: on one line, and shortened.

    Examples
    --------
    >>> brief_repr("a" * 99), brief_repr(range(10**9))
    ("'aaaaaaaaaaaa...aaaaaaaaaaaaa'", 'range(0, 1000000000)')
    """
    return escape_text(reprlib.repr(value))


def number_of(**counts: float) -> str:
    """Return counts with their nouns.

    Examples
    --------
    >>> number_of(record=1, file=1200)
    '1 record, 1,200 files'
    """
    return ", ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for noun, n in counts.items())


def as_argument(text: str) -> str:
    """Return text, made safe, as one word of a command to copy.

    Examples
    --------
    >>> as_argument("my data"), as_argument("zenodo-ml")
    ("'my data'", 'zenodo-ml')
    """
    return shlex.quote(escape_text(text))


def escape_lines(text: str) -> str:
    r"""Return text of several lines made safe, its line ends kept.

    Examples
    --------
    >>> escape_lines("a\n\x07b\n")
    'a\n\\x07b\n'
    """
    return "\n".join(escape_text(line) for line in text.split("\n"))


def escape_path(path: str) -> tuple[str, str | None]:
    r"""Return a path with its invisible characters escaped, and a note on what is odd about it.

    Nothing is ever written under such a path, so one that is absolute or climbs
    up (``../``) is harmless here: it is kept, noted, and its content read.

    Examples
    --------
    >>> escape_path("a/b.py")
    ('a/b.py', None)
    >>> escape_path("a\x1b[31m.py")
    ('a\\x1b[31m.py', 'its path holds characters that cannot be shown')
    >>> escape_path("../../etc/passwd")[1]
    'its path leads out of the archive'
    """
    note = None
    if path.startswith("/") or (".." in path and ".." in path.split("/")):
        note = "its path leads out of the archive"
    if path.isascii() and path.isprintable():
        return path, note
    escaped = _escape(path, _is_visible)
    if escaped != path:
        note = "its path holds characters that cannot be shown"
    return escaped, note


def redact_url(url: str) -> str:
    """Return a URL fit for a message: without credentials and query, printable, not endless.

    Examples
    --------
    >>> redact_url("https://user:secret@example.org/a b?access_token=1")
    'https://example.org/a%20b'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return quote(url[:_LONGEST_URL], safe=":/", errors="replace")
    host = quote(parts.netloc.rpartition("@")[2], safe=":[]", errors="replace")
    path = quote(parts.path, safe="/%:@,+~", errors="replace")
    return urlunsplit((parts.scheme, host, path, "", ""))[:_LONGEST_URL]


def encodable(value: Any) -> Any:
    r"""Escape what UTF-8 cannot hold (lone surrogates), in a string or a list of strings.

    Examples
    --------
    >>> encodable(["a", "b\ud800"])
    ['a', 'b\\ud800']
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return value


def plain_words(text: str, also: str = "") -> str:
    """Return `text` without anything that Markdown, HTML or YAML could take for markup.

    Characters in `also` are kept too: some have a meaning in YAML alone.

    Examples
    --------
    >>> plain_words("C++ <b>|x|</b>")
    'C++ ?b??x??/b?'
    """
    return "".join(c if c.isalnum() or c in f" .+#-_()/{also}" else "?" for c in text)


def _escape(text: str, is_kept: Callable[[str], bool]) -> str:
    return "".join(
        char if is_kept(char) else char.encode("unicode_escape").decode("ascii") for char in text
    )


def _is_visible(char: str) -> bool:
    return unicodedata.category(char) not in _INVISIBLE
