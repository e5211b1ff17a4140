"""Deflate undone by `isal`, bounded by what the caller expects; what decompressors complain of."""

from __future__ import annotations

import lzma
from typing import Final, cast

from isal import isal_zlib

InflateError: Final = cast("type[Exception]", isal_zlib.error)
"""What a broken stream raises; no kin of `zlib.error`, though named as such."""


def inflate(body: bytes | memoryview, size: int) -> bytes:
    """Content of a raw deflate stream, and at most one byte more than `size` of it.

    That byte shows a header that understates; nothing else of what it hides is
    ever unpacked.

    Raises
    ------
    InflateError
    """
    data: bytes = isal_zlib.decompressobj(wbits=-15).decompress(body, size + 1)
    return data


def memory_error(error: lzma.LZMAError) -> Exception:
    """What an error of LZMA stands for: `MemoryError` where its limit of memory was met."""
    return MemoryError(str(error)) if "emory" in str(error) else error


def crc32(data: bytes, value: int = 0) -> int:
    """CRC-32 as in zip and gzip, ten times as fast as zlib's."""
    checksum: int = isal_zlib.crc32(data, value)
    return checksum
