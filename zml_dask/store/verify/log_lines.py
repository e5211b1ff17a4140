"""Lines of a JSON Lines log that check themselves.

A log grows and is never rewritten, so no list can hold its checksum: each line
carries the CRC-32C of what stands before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c

_SEAL = ', "crc32c": "'
_END = '"}'


def sealed_line(event: Mapping[str, Any]) -> str:
    r"""Arrange an event as one line of JSON whose last member is the checksum of the others.

    Examples
    --------
    >>> sealed_line({"event": "start"})
    '{"event": "start", "crc32c": "3eda603b"}\n'
    """
    body = json.dumps(event)[:-1]
    return f"{body}{_SEAL}{google_crc32c.value(body.encode()):08x}{_END}\n"


def damaged_lines(log: bytes) -> Iterator[tuple[int, bool]]:
    r"""Give the number (from 1) of each line that is not as written, and whether it was torn.

    A line is torn, and not damaged, where a process that died ended it short.

    Examples
    --------
    >>> line = sealed_line({"event": "start"})
    >>> list(damaged_lines(f"{line}{line[:30]}\n{line.replace('s', 'S', 1)}".encode()))
    [(2, True), (3, False)]
    """
    for number, line in enumerate(log.decode("utf-8", "replace").split("\n"), 1):
        body, found, rest = line.rpartition(_SEAL)
        expected = f"{google_crc32c.value(body.encode()):08x}{_END}"
        if not line or (found and rest == expected):
            continue
        torn = expected.startswith(rest) if found else not line.endswith(_END)
        yield number, torn
