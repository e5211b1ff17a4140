"""What a model may take instead of code points."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import UsageError

Encoding = Literal["codepoint", "uint8", "float32", "index", "onehot"]
"""``codepoint``: uint32 as stored; ``uint8``: the code point where it is under 256, else 255;
``float32``: that divided by 255, from 0 to 1;
``index``: position in a vocabulary, for an embedding; ``onehot``: a plane a character of it."""

VOCABULARY = "".join(map(chr, range(32, 127)))
"""Printable ASCII, 95 characters."""

UNKNOWN = 0
"""Index of every character that the vocabulary does not hold."""

_HIGHEST_BYTE = 255


def encode(
    images: NDArray[np.uint32], encoding: Encoding, vocabulary: str = VOCABULARY
) -> NDArray[Any]:
    """Turn code points into what a model takes.

    Parameters
    ----------
    images : numpy.ndarray of uint32, shape (n, height, width)
    encoding : Encoding
    vocabulary : str
        Characters in the order of their indices, of which the first is 1; for
        ``index`` and ``onehot``.

    Returns
    -------
    numpy.ndarray
        As uint32, uint8 or float32, shape (n, height, width); for ``index`` uint8 or
        uint16, 0 for what is not in the vocabulary; for ``onehot`` uint8, shape
        (n, 1 + len(vocabulary), height, width), channels first as PyTorch has them.

    Raises
    ------
    UsageError
        If there is no such encoding, or the vocabulary names a character twice.

    Examples
    --------
    >>> image = np.array([[[97, 98, 0x4E2D]]], np.uint32)
    >>> encode(image, "index", "ab").tolist(), encode(image, "uint8").tolist()
    ([[[1, 2, 0]]], [[[97, 98, 255]]])
    >>> encode(image, "onehot", "ab").shape
    (1, 3, 1, 3)
    """
    match encoding:
        case "codepoint":
            return images
        case "uint8":
            clipped = np.empty(images.shape, np.uint8)
            # Without a temporary array of four times the size.
            return np.minimum(images, np.uint32(_HIGHEST_BYTE), out=clipped, casting="unsafe")
        case "float32":
            scaled = np.minimum(images, np.uint32(_HIGHEST_BYTE)).astype(np.float32)
            return np.divide(scaled, np.float32(_HIGHEST_BYTE), out=scaled)
        case "index":
            return _indices(images, vocabulary)
        case "onehot":
            indices = _indices(images, vocabulary)
            planes = np.arange(1 + len(vocabulary), dtype=indices.dtype).reshape(1, -1, 1, 1)
            hot: NDArray[np.bool_] = indices[:, np.newaxis] == planes
            return hot.view(np.uint8)
    raise UsageError(
        f"no encoding {encoding!r}; there are codepoint, uint8, float32, index and onehot"
    )


def _indices(images: NDArray[np.uint32], vocabulary: str) -> NDArray[Any]:
    points = np.array([ord(char) for char in vocabulary], np.int64)
    if np.unique(points).size != points.size:
        raise UsageError("the vocabulary holds a character twice; name each once")
    dtype = np.uint8 if points.size <= _HIGHEST_BYTE else np.uint16
    table = np.zeros(int(points.max(initial=0)) + 2, dtype)  # the last for all that lie beyond
    table[points] = np.arange(1, points.size + 1)
    indices: NDArray[Any] = table[np.minimum(images, table.size - 1)]
    return indices
