"""A mosaic of a dataset's images: small grey PNGs that are embedded in the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from zml_dask.raster.images import Images
from zml_dask.store.snapshot import Snapshot

_SPACE = 32


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of the mosaic: its origin, and a ``data:`` URL of its PNG."""

    language: str
    path: str
    record_id: int
    url: str


def to_grey(image: Images) -> NDArray[np.uint8]:
    """Turn code points, (height, width), into grey levels, uint8 of the same shape.

    A space is white; visible ASCII is 200 to 0, darker as code points rise; all others are black.

    Examples
    --------
    >>> to_grey(np.array([[32, 33, 126, 4096]], np.uint32)).tolist()
    [[255, 200, 14, 0]]
    """
    ink = np.minimum(image.astype(np.int64), 133) - 33
    return np.where(image == _SPACE, 255, 200 - np.clip(ink, 0, 100) * 2).astype(np.uint8)


def tiles(
    snapshot: Snapshot, examples: pd.DataFrame, languages: Sequence[str], n: int = 64
) -> list[Tile]:
    """Read the first images of up to `n` files, evenly over some languages.

    `examples` are rows of the files table whose first image is full.
    """
    examples = examples[examples["language"].isin(languages)]
    if not len(examples):
        return []
    turn = examples.sort_values("file_id").groupby("language").cumcount()
    chosen = examples.assign(turn=turn).sort_values(["turn", "language", "file_id"]).head(n)
    chosen = chosen.sort_values("first_image")
    images = snapshot.images.read(chosen["first_image"].to_numpy(np.int64))
    urls = map(_png_url, images)
    return [
        Tile(str(row["language"]), str(row["path"]), int(row["record_id"]), url)
        for row, url in sorted(
            zip(chosen.to_dict("records"), urls, strict=True),
            key=lambda pair: (pair[0]["language"], pair[0]["file_id"]),
        )
    ]


def _png_url(image: Images) -> str:
    file = io.BytesIO()
    Image.fromarray(to_grey(image)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
