"""Values out of JSON that may hold anything: each of the kind asked for, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MOST: Final = 2**63 - 1
"""The largest number that tables hold."""

_MD5: Final = re.compile(r"(?:md5:)?([0-9a-f]{32})", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def id_or_text(value: object) -> str | None:
    """Give the ``id`` of an object, or a string that stands in its place."""
    return text(mapping(value).get("id")) or text(value)


def md5_of(value: object) -> str | None:
    """Give ``"md5:..."`` of a checksum with or without its prefix; None for other algorithms."""
    match = _MD5.fullmatch(value) if isinstance(value, str) else None
    return f"md5:{match[1].lower()}" if match else None


def whole_number(value: object) -> int | None:
    """Give a whole number from 0 to 2**63-1, written as a number or in digits."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    return None


def text(value: object) -> str | None:
    """Give a string without the space around it; None for a blank one and other kinds."""
    key = raw_text(value)
    return key.strip() if key else None


def raw_text(value: object) -> str | None:
    """Give a string as it is, but for the lone surrogates that JSON can smuggle in."""
    if not isinstance(value, str) or not value.strip():
        return None
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)


def lower(value: str | None) -> str | None:
    """Give a string in lower case."""
    return value.lower() if value else None


def mapping(value: object) -> Mapping[str, Any]:
    """Give an object as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> Sequence[Any]:
    """Give a list as it is, and one value that should have been a list of one as that."""
    if isinstance(value, list | tuple):
        return value
    return [value] if isinstance(value, str | Mapping) and value else []


def distinct(values: Iterator[str | None]) -> tuple[str, ...]:
    """Give each string once, in the order of their first."""
    return tuple(dict.fromkeys(value for value in values if value))
