"""The first edition's rasteriser, written afresh from its published description.

Every line becomes a row of 80 code points, by a loop over its characters, and
every 80 rows an int64 array. Kept as slow as it was described, for comparison.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 80


def rasterise_2018(data: bytes) -> list[NDArray[np.int64]]:
    """Return the segments of one file's bytes; the last one is not padded."""
    text = data.decode("utf-8", "ignore").replace("\t", "    ").replace("\r", "")
    lines = text.split("\n")[:-1]
    segments: list[NDArray[np.int64]] = []
    for start in range(0, len(lines), SIDE):
        rows = []
        for line in lines[start : start + SIDE]:
            row = [ord(character) for character in line[:SIDE]]
            row.extend([ord(" ")] * (SIDE - len(row)))
            rows.append(row)
        segments.append(np.array(rows, dtype=np.int64))
    return segments
