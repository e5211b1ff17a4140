r"""Normalised text from the bytes of a file: decoded, line ends and tabs replaced, lines counted.

Normalised text is UTF-8 with ``\n`` as the only line end and without tabs. It is staged on disk,
and the images are made from it. The rules are in ``docs/format.md``, "Rasterising".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zml_dask.encodings import decode
from zml_dask.errors import ZmlError
from zml_dask.raster import kernels

WIDTH = 80
"""Characters per line, as in the legacy (2018) dataset."""

HEIGHT = 80
"""Lines per image, as in the legacy (2018) dataset."""


class BinaryFileError(ZmlError):
    """The file holds NUL bytes and is not UTF-16 or UTF-32: not text."""


@dataclass(frozen=True, slots=True)
class NormalizedText:
    r"""A file's text as it is staged and rasterised: UTF-8 without byte order mark, tab or ``\r``.

    `encoding` says how it was decoded, as in `zml_dask.encodings.DecodedText`, and `note` what
    is wrong with it. Of the `n_lines` lines, `n_cut` are longer than the image is wide; a final
    newline begins no further line.
    """

    text: bytes
    encoding: str
    n_lines: int
    n_cut: int
    note: str | None = None

    def n_images(self, height: int = HEIGHT) -> int:
        """Number of images of `height` lines that the text fills."""
        return -(-self.n_lines // height)


def normalize_text(data: bytes, *, width: int = WIDTH, keep_binary: bool = False) -> NormalizedText:
    r"""Decode the bytes of a whole file and replace its line ends and tabs.

    Lines of more than `width` characters are counted as cut. `BinaryFileError` if `data` has NUL
    bytes and is not UTF-16 or UTF-32, unless `keep_binary`, as for the legacy (2018) dataset.

    Examples
    --------
    >>> text = normalize_text(b"if x:\r\n\treturn 1\r\n")
    >>> text.text, text.encoding, text.n_lines
    (b'if x:\n    return 1\n', 'ascii', 2)
    >>> normalize_text(b"caf\xe9").encoding
    'windows-1252 (assumed)'
    """
    decoded = decode(data, keep_nul=keep_binary)
    if decoded is None:
        raise BinaryFileError("the file holds NUL bytes, so it is not text")
    text, n_lines, n_cut = normalize_utf8(decoded.utf8, width=width)
    return NormalizedText(text, decoded.encoding, n_lines, n_cut, decoded.note)


def normalize_utf8(utf8: bytes, *, width: int = WIDTH) -> tuple[bytes, int, int]:
    """Replace line ends and tabs of UTF-8; also return the numbers of lines and of cut lines."""
    source: NDArray[np.uint8] = np.frombuffer(utf8, np.uint8)
    if b"\r" not in utf8 and b"\t" not in utf8:
        n_lines, n_cut = kernels.count_lines(source, width)
        return utf8, n_lines, n_cut
    capacity = source.size + (kernels.TAB_WIDTH - 1) * utf8.count(b"\t")
    target = np.empty(capacity, np.uint8)
    size, n_lines, n_cut = kernels.normalize(source, target, width)
    return target[:size].tobytes(), n_lines, n_cut


def visible_text(text: bytes, width: int = WIDTH) -> bytes:
    r"""Return ``to_text(*rasterize(text))`` of a normalised text as UTF-8, without drawing images.

    These are the lines, cut at `width` characters, without trailing spaces, each ended by ``\n``.
    Their hash is recorded, so that the images can be compared with it later.

    Examples
    --------
    >>> visible_text(b"ab  \ncdef", width=3)
    b'ab\ncde\n'
    """
    source = np.frombuffer(text, np.uint8)
    target = np.empty(source.size + 1, np.uint8)
    return target[: kernels.copy_visible(source, target, width)].tobytes()
