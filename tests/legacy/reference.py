"""The first edition's rasteriser, written from its description alone.

Slow and plain on purpose; it gives what 2018 gave, oddities included.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

SIDE = 80


def segments_2018(data: bytes) -> list[NDArray[np.int64]]:
    """Return a file's segments, (lines, 80) int64 with up to 80 lines each."""
    text = data.decode("utf-8", "ignore")  # invalid bytes are dropped
    text = text.replace("\r", "").replace("\t", " " * 4)
    pieces = text.split("\n")
    segments = []
    for start in range(0, len(pieces), SIDE):
        rows: list[str] | str = pieces[start : start + SIDE]
        if start + SIDE >= len(pieces):
            # What follows the last newline is dropped; alone in its segment, it
            # stands for the segment instead, and its characters for the rows.
            rows = rows[:-1] if len(rows) > 1 else rows[0]
        segments.append(_pixels(rows))
    return segments


def _pixels(rows: list[str] | str) -> NDArray[np.int64]:
    if not rows:
        return np.empty((0, 0), np.int64)
    return np.array([[ord(c) for c in row[:SIDE].ljust(SIDE)] for row in rows], np.int64)


def must_be_equal(data: bytes) -> bool:
    """Whether the first edition's segments of a file and ours have to be the same.

    Whole files with a final newline, valid UTF-8, no other line ends than a
    newline (or one after a carriage return), and a number of lines that leaves a
    remainder of 1 to 79 by 80.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return (
        "\0" not in text
        and not text.startswith("\ufeff")
        and text.endswith("\n")
        and not re.search("\r(?!\n)", text)
        and text.count("\n") % SIDE != 0
    )
