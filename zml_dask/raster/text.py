r"""Bytes of a file to settled text: decoded, line ends and tabs normalised, lines counted.

"Settled" text is UTF-8 with ``\n`` as the only line end and without tabs: what
is staged on disk, and what the images are drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import ZmlError
from zml_dask.raster import kernels

WIDTH = 80
"""Characters a line, by the first edition's choice."""

HEIGHT = 80
"""Lines an image, by the first edition's choice."""

MAX_SOURCE_BYTES = 100_000
"""Largest file that is read, in bytes, inclusive; the first edition's limit."""

_BOMS = (
    # UTF-32 before UTF-16: its little-endian mark begins with UTF-16's.
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

FALLBACK_ENCODING = "latin-1"
"""Read where a file is not UTF-8: all 256 bytes have a character in it, so none is lost."""


class BinaryFileError(ZmlError):
    """The file holds NUL bytes and no byte order mark: not text."""


class UndecodableFileError(ZmlError):
    """The file's byte order mark promises an encoding that its bytes do not keep."""


@dataclass(frozen=True, slots=True)
class SettledText:
    r"""A file's text as it is staged and drawn.

    Attributes
    ----------
    text : bytes
        UTF-8 without byte order mark, lines ended by ``\n``, no tabs, no ``\r``.
    encoding : str
        What the file was read as: ``"ascii"``, ``"utf-8"``, ``"utf-8-sig"``,
        ``"utf-16-le"``, ``"utf-16-be"``, ``"utf-32-le"``, ``"utf-32-be"`` or ``"latin-1"``.
    n_lines : int
        Number of lines; a final newline opens none.
    n_cut : int
        How many of them are longer than the image is wide.
    """

    text: bytes
    encoding: str
    n_lines: int
    n_cut: int

    def n_images(self, height: int = HEIGHT) -> int:
        """Number of images of `height` lines that the text fills."""
        return -(-self.n_lines // height)


def settle_text(data: bytes, *, width: int = WIDTH, keep_binary: bool = False) -> SettledText:
    r"""Decode a file's bytes and settle its line ends and tabs (design, rules 2 to 4).

    Parameters
    ----------
    data : bytes
        The whole file.
    width : int
        Characters a line holds before it counts as cut.
    keep_binary : bool
        Read a file with NUL bytes all the same, as the first edition did.

    Returns
    -------
    SettledText

    Raises
    ------
    BinaryFileError
        If `data` has a NUL byte, no byte order mark, and `keep_binary` is false.
    UndecodableFileError
        If `data` has a byte order mark and is not in the encoding it names.

    Examples
    --------
    >>> settle_text(b"if x:\r\n\treturn 1\r\n")
    SettledText(text=b'if x:\n    return 1\n', encoding='ascii', n_lines=2, n_cut=0)
    >>> settle_text(b"caf\xe9").encoding
    'latin-1'
    """
    utf8, encoding = _to_utf8(data, keep_binary=keep_binary)
    text, n_lines, n_cut = settle_utf8(utf8, width=width)
    return SettledText(text, encoding, n_lines, n_cut)


def settle_utf8(utf8: bytes, *, width: int = WIDTH) -> tuple[bytes, int, int]:
    """Normalise line ends and tabs of UTF-8 bytes; also count lines, and those cut at `width`."""
    source: NDArray[np.uint8] = np.frombuffer(utf8, np.uint8)
    if b"\r" not in utf8 and b"\t" not in utf8:
        n_lines, n_cut = kernels.count_lines(source, width)
        return utf8, n_lines, n_cut
    room = source.size + (kernels.TAB_WIDTH - 1) * utf8.count(b"\t")
    target = np.empty(room, np.uint8)
    size, n_lines, n_cut = kernels.settle(source, target, width)
    return target[:size].tobytes(), n_lines, n_cut


def _to_utf8(data: bytes, *, keep_binary: bool) -> tuple[bytes, str]:
    """Decode `data` by rule 2; return it as UTF-8 with the name of its encoding."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                decoded = data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                if encoding == "utf-32-le":
                    continue  # UTF-16 text may begin with a NUL character
                raise UndecodableFileError(
                    f"the byte order mark says {encoding}, but {error.reason} at byte "
                    f"{error.start + len(mark)}; the file is listed, not rasterised"
                ) from error
            return decoded.encode(), "utf-8-sig" if encoding == "utf-8" else encoding
    if not keep_binary and b"\0" in data:
        raise BinaryFileError("the file holds NUL bytes: listed, not rasterised")
    if data.isascii():
        return data, "ascii"
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(FALLBACK_ENCODING).encode(), FALLBACK_ENCODING
    return data, "utf-8"
