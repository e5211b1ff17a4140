"""Text to images and back, by the rules of ``docs/format.md``, "Rasterising".

An image is `height` lines by `width` characters; each pixel is the code point
of one character. Short lines are padded with spaces, long ones cut.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zml_dask.arguments import checked
from zml_dask.errors import UsageError
from zml_dask.raster import kernels
from zml_dask.raster.text import HEIGHT, WIDTH, normalize_utf8

Images = NDArray[np.uint32]
"""Images of text: (image, row, column), one code point per pixel."""

_MAX_SIDE = np.iinfo(np.uint16).max


def n_lines_dtype(height: int) -> type[np.uint8 | np.uint16]:
    """Return the smallest unsigned type for numbers of lines up to `height`."""
    return np.uint8 if height <= np.iinfo(np.uint8).max else np.uint16


@checked
def rasterize(
    text: str, width: int = WIDTH, height: int = HEIGHT
) -> tuple[Images, NDArray[np.uint8 | np.uint16]]:
    r"""Cut `text` into images of `height` lines by `width` characters.

    First, line ends (``\r\n``, ``\r``) become ``\n`` and tabs become four spaces. A final newline
    begins no further line. Lines are cut at `width` characters or padded with spaces, and the last
    image is padded with rows of spaces.

    Parameters
    ----------
    text : str
        A file's text.
    width, height : int
        Size of an image in characters and lines, 1 to 65,535.

    Returns
    -------
    images : numpy.ndarray of uint32, shape (n, height, width)
        Code points. ``n`` is the number of lines divided by `height`, rounded up.
    n_lines : numpy.ndarray of uint8 or uint16, shape (n,)
        How many rows of each image are lines of the text; uint16 where
        `height` is over 255.

    Raises
    ------
    UsageError
        If a side is out of range, or `text` is not a str.

    Examples
    --------
    >>> images, n_lines = rasterize("def f():\n\treturn 1\n")
    >>> images.shape, images.dtype.name, n_lines.tolist()
    ((1, 80, 80), 'uint32', [2])
    >>> "".join(map(chr, images[0, 1, :12]))
    '    return 1'
    """
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise UsageError(
            f"image size {height} x {width} is invalid: both sides must be between 1 and "
            f"{_MAX_SIDE:,}"
        )
    # Lone surrogates are code points like others, although UTF-8 does not allow them.
    utf8, total, _ = normalize_utf8(text.encode("utf-8", "surrogatepass"), width=width)
    return rasterize_utf8(utf8, total, width, height)


def rasterize_utf8(
    text: bytes, total_lines: int, width: int = WIDTH, height: int = HEIGHT
) -> tuple[Images, NDArray[np.uint8 | np.uint16]]:
    """Do the same as :func:`rasterize` for normalised UTF-8 whose lines are already counted."""
    n = -(-total_lines // height)
    images = np.empty((n, height, width), np.uint32)
    n_lines = np.empty(n, n_lines_dtype(height))
    rasterize_into([text], images, n_lines)
    return images, n_lines


def rasterize_into(
    texts: list[bytes], images: Images, n_lines: NDArray[np.uint8 | np.uint16], *, skip: int = 0
) -> int:
    r"""Rasterise normalised texts one after another into given arrays, each from a new image.

    Writes into `images`, (n, height, width), until they are full, and how many rows of each are
    lines into `n_lines`, (n,). The first `skip` images of the first text are left out, because they
    are in the previous shard. Returns the number of images written.

    Examples
    --------
    >>> images, n_lines = np.zeros((2, 80, 80), np.uint32), np.zeros(2, np.uint8)
    >>> rasterize_into([b"a\n", b"b\nc\n"], images, n_lines), n_lines.tolist()
    (2, [1, 2])
    """
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    stops = np.cumsum(sizes)
    text = np.frombuffer(texts[0] if len(texts) == 1 else b"".join(texts), np.uint8)
    return int(kernels.rasterize(text, stops - sizes, stops, skip, images, n_lines))


def to_text(images: ArrayLike, n_lines: ArrayLike | None = None) -> str:
    r"""Convert images back to text: the inverse of :func:`rasterize`.

    It cannot restore spaces at the end of lines, what was cut from long lines, and whether the
    last line ended in a newline: here it always does.

    Parameters
    ----------
    images : array_like of uint32, shape (n, height, width)
        Images of one file in order; a single image may be (height, width).
    n_lines : array_like of int, shape (n,) or scalar, optional
        How many rows of each image are lines. By default all, except for rows of spaces at
        the end of the last image.

    Returns
    -------
    str
        The lines, each ended by ``\n``.

    Examples
    --------
    >>> to_text(*rasterize("a\n\tb"))
    'a\n    b\n'
    >>> to_text(rasterize("a\n\tb")[0])
    'a\n    b\n'
    """
    try:
        pixels = np.ascontiguousarray(images, np.uint32)
        given = None if n_lines is None else np.asarray(n_lines, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"to_text() takes arrays of code points and of lines: {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[np.newaxis]
    if given is None:
        given = np.full(pixels.shape[0], pixels.shape[1] if pixels.ndim == 3 else 0)
        if pixels.ndim == 3 and pixels.shape[0]:
            used = np.flatnonzero((pixels[-1] != ord(" ")).any(axis=1))
            given[-1] = used[-1] + 1 if used.size else 0
    counts = np.atleast_1d(given)
    if pixels.ndim != 3 or counts.shape != pixels.shape[:1]:
        raise UsageError(
            f"images of shape {pixels.shape} and n_lines of shape {counts.shape} do not go "
            "together; give (n, height, width) and (n,)"
        )
    if counts.size and (counts.min() < 0 or counts.max() > pixels.shape[1]):
        raise UsageError(f"n_lines must lie between 0 and the height, {pixels.shape[1]}")
    target = np.empty(pixels.size + pixels.shape[0] * pixels.shape[1], np.uint32)
    size = kernels.unrasterize(pixels, counts, target)
    points = target[:size].astype("<u4", copy=False).tobytes()
    try:
        return points.decode("utf-32-le", "surrogatepass")
    except UnicodeDecodeError as error:
        raise UsageError(f"to_text() takes code points, of at most {sys.maxunicode:,}") from error
