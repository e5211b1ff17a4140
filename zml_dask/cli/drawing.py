"""An image of code in a terminal: two pixels per cell, coloured by the kind of character."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.style import Style
from rich.text import Text

_SPACE = 32
_BLANK, _LETTER, _DIGIT, _MARK, _OTHER = range(5)
_COLOURS = ("grey11", "grey82", "gold1", "turquoise2", "orchid")
"""By kind of pixel: blank, letters, digits, punctuation, anything beyond ASCII."""

_HALVES = " ▄▀█"
"""A cell's two pixels, upper and lower, where there is no colour."""


def draw(image: NDArray[np.uint32], console: Console) -> None:
    """Print one image, 80 by 80 pixels as 40 lines of 80 cells.

    `image` is of uint32 code points, shape (height, width). Without colour the cells only tell a
    character from a space.
    """
    for line in lines_of(image, coloured=console.color_system is not None):
        console.print(line, soft_wrap=True)


def lines_of(image: NDArray[np.uint32], *, coloured: bool) -> list[Text]:
    """Return the lines that :func:`draw` prints: one for two rows of `image`.

    It is of uint32, shape (height, width). With `coloured`, a cell's colours show the kinds of its
    two characters.

    Examples
    --------
    >>> image = np.full((4, 3), 32, np.uint32)
    >>> image[0, 0] = image[1, 1] = image[2, 2] = image[3, 2] = ord("x")
    >>> [line.plain for line in lines_of(image, coloured=False)]
    ['▀▄ ', '  █']
    """
    kinds = _kinds(image)
    if len(kinds) % 2:
        kinds = np.vstack([kinds, np.zeros((1, kinds.shape[1]), kinds.dtype)])
    upper, lower = kinds[0::2], kinds[1::2]
    if not coloured:
        cells = 2 * (upper != _BLANK) + (lower != _BLANK)
        return [Text("".join(_HALVES[cell] for cell in row)) for row in cells.tolist()]
    return [
        _coloured(above, below) for above, below in zip(upper.tolist(), lower.tolist(), strict=True)
    ]


def _coloured(above: list[int], below: list[int]) -> Text:
    line = Text()
    for top, bottom in zip(above, below, strict=True):
        line.append("▀", Style(color=_COLOURS[top], bgcolor=_COLOURS[bottom]))
    return line


def _kinds(image: NDArray[np.uint32]) -> NDArray[Any]:
    """Return the kind of each pixel, uint8 of the image's shape."""
    kinds = np.full(image.shape, _MARK, np.uint8)
    kinds[(image >= ord("0")) & (image <= ord("9"))] = _DIGIT
    lower = image | 0x20
    kinds[(lower >= ord("a")) & (lower <= ord("z"))] = _LETTER
    kinds[image >= 128] = _OTHER
    kinds[image <= _SPACE] = _BLANK
    return kinds
