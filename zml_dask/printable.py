"""Text that others wrote, made safe to print: a path in an archive may hold escape sequences."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return `text` with everything that is not plainly visible written as an escape.

    That is control characters (so no ANSI sequence, no line end), the marks that
    reverse the direction of writing, and lone surrogates.

    Examples
    --------
    >>> printable("src/\x1b[2Ja.py"), printable("naïve \u202e.txt")
    ('src/\\x1b[2Ja.py', 'naïve \\u202e.txt')
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def printable_lines(text: str) -> str:
    r"""Return text of several lines made safe, its line ends kept.

    Examples
    --------
    >>> printable_lines("a\n\x07b\n")
    'a\n\\x07b\n'
    """
    return "\n".join(printable(line) for line in text.split("\n"))
