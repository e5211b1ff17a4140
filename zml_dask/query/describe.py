"""How a dataset shows itself, in a terminal and in a notebook."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zml_dask.query.counting import count_by
from zml_dask.raster.images import Images

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset
from zml_dask.text_safety import escape_text

_STRIP = 8
_TOP = 5
_BLANK = (32, 0)


def describe(view: Dataset) -> str:
    """Summarise in a few lines; what is in the whole dataset needs nothing to be read."""
    facts = [f"{name:<10}{value}" for name, value in _facts(view)]
    return "\n".join([f"<Dataset {escape_text(view.url)}>", *facts])


def describe_html(view: Dataset) -> str:
    """Summarise with a strip of the first images, each a PNG within the page."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in _facts(view)
    )
    images = view.images[:_STRIP].compute()
    strip = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(to_png(shade(image))).decode()}" '
        'style="margin:2px;border:1px solid #ccc">'
        for image in images
    )
    return f"<b>{html.escape(escape_text(view.url))}</b><table>{rows}</table><div>{strip}</div>"


def _facts(view: Dataset) -> Iterator[tuple[str, str]]:
    shape = view.info.shape
    counts = view.counted
    images = f"{counts['images']:,}"
    yield "images", f"{images} of {shape.height} x {shape.width}, uint32 code points"
    yield "files", f"{counts['files']:,}"
    yield "records", f"{counts['records']:,}"
    if view.is_unselected:
        yield "failures", f"{view.info.counts.failures:,}"
        large = view.snapshot.left_out()
        if large.files:
            yield "too large", str(large)
    languages = count_by(view, ["language"]).head(_TOP)
    top = (
        f"{escape_text(name) if isinstance(name, str) else '(not named)'} {count:,}"
        for name, count in languages["images"].items()
    )
    yield "languages", ", ".join(top) or "none"


def shade(image: Images) -> NDArray[np.uint8]:
    """Shades of grey of an image, uint8: white where it is blank, darker for later characters.

    Examples
    --------
    >>> shade(np.array([[32, 65, 20000]], np.uint32)).tolist()
    [[255, 148, 53]]
    """
    dark = 180 - np.minimum(image, 255) // 2
    return np.where(np.isin(image, _BLANK), 255, dark).astype(np.uint8)


def to_png(grey: NDArray[np.uint8]) -> bytes:
    r"""Encode shades of grey, shape (height, width), as PNG.

    Examples
    --------
    >>> to_png(np.zeros((2, 2), np.uint8))[:4]
    b'\x89PNG'
    """
    height, width = grey.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = grey
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
