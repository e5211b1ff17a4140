"""The compressions of zip files, each undone within the size that its header states.

Two of them no library at hand undoes: PKZIP imploded until 1993; Windows' Explorer and
7-Zip write Deflate64. Only members of the size of source files are read, so plain
Python is fast enough, and it cannot be made to touch memory that is not its own.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

import zstandard

from zml_dask.fetch.streams import (
    OPENERS,
    InflateError,
    Readable,
    inflate,
    memory_error,
    open_deflate,
)

Unpacker = Callable[[memoryview, int], bytes]

# What the decompressors raise; `struct` where LZMA's own header breaks off.
DECOMPRESSION_ERRORS: Final = (InflateError, OSError, EOFError, ValueError, lzma.LZMAError,
                                struct.error, zlib.error, zstandard.ZstdError)  # fmt: skip

Codes = dict[tuple[int, int], int]
"""Symbol of each code, by its length and its bits, the first of them highest."""

_LONGEST_CODE: Final = 16
_LENGTH_BASE: Final = (
    *range(3, 11), *range(11, 19, 2), *range(19, 35, 4), *range(35, 67, 8),
    *range(67, 131, 16), *range(131, 258, 32), 3,
)  # fmt: skip
_LENGTH_EXTRA: Final = (*(0,) * 8, *(n for n in range(1, 6) for _ in range(4)), 16)
_DISTANCE_EXTRA: Final = (0, 0, *(n for n in range(15) for _ in range(2)))
_DISTANCE_BASE: Final = tuple(
    1 + sum(1 << extra for extra in _DISTANCE_EXTRA[:code]) for code in range(32)
)
_ORDER: Final = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_FIXED: Final = (*(8,) * 144, *(9,) * 112, *(7,) * 24, *(8,) * 8)


class _Bits:
    """Bits of a body, the lowest of each byte first; EOFError behind the last."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._body = body
        self._position = 0
        self._held = 0
        self._count = 0

    def take(self, count: int) -> int:
        while self._count < count:
            if self._position >= len(self._body):
                raise EOFError("the body ends too early")
            self._held |= self._body[self._position] << self._count
            self._position += 1
            self._count += 8
        value = self._held & ((1 << count) - 1)
        self._held >>= count
        self._count -= count
        return value

    def symbol(self, codes: Codes) -> int:
        code = 0
        for length in range(1, _LONGEST_CODE + 1):
            code = code << 1 | self.take(1)
            symbol = codes.get((length, code))
            if symbol is not None:
                return symbol
        raise ValueError("an unknown code")

    def align(self) -> None:
        self.take(self._count % 8)


def inflate64(body: bytes | memoryview, size: int) -> bytes:
    """Content of a Deflate64 stream, and at most one byte more than `size` of it.

    It differs from deflate in a window of 64 KiB and lengths of up to 65,538. `EOFError` or
    `ValueError` if it is damaged.
    """
    bits, out, is_last = _Bits(body), bytearray(), False
    while not is_last and len(out) <= size:
        is_last, kind = bool(bits.take(1)), bits.take(2)
        if kind == 0:
            bits.align()
            count, check = bits.take(16), bits.take(16)
            if count != check ^ 0xFFFF:
                raise ValueError("a stored block's length is wrong")
            for _ in range(min(count, size + 1 - len(out))):
                out.append(bits.take(8))
        elif kind == 1:
            _inflate_block(bits, out, _codes(_FIXED), _codes((5,) * 32), size)
        elif kind == 2:
            _inflate_block(bits, out, *_dynamic_codes(bits), size)
        else:
            raise ValueError("an unknown kind of block")
    return bytes(out)


def _dynamic_codes(bits: _Bits) -> tuple[Codes, Codes]:
    n_literals, n_distances, n_lengths = bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4
    of_lengths = [0] * 19
    for symbol in _ORDER[:n_lengths]:
        of_lengths[symbol] = bits.take(3)
    codes = _codes(of_lengths)
    lengths: list[int] = []
    while len(lengths) < n_literals + n_distances:
        symbol = bits.symbol(codes)
        if symbol < 16:
            lengths.append(symbol)
        elif symbol == 16:
            lengths += [lengths[-1] if lengths else 0] * (3 + bits.take(2))
        elif symbol == 17:
            lengths += [0] * (3 + bits.take(3))
        else:
            lengths += [0] * (11 + bits.take(7))
    return _codes(lengths[:n_literals]), _codes(lengths[n_literals:][:n_distances])


def _inflate_block(
    bits: _Bits, out: bytearray, literals: Codes, distances: Codes, size: int
) -> None:
    while len(out) <= size:
        symbol = bits.symbol(literals)
        if symbol < 256:
            out.append(symbol)
        elif symbol == 256:
            return
        elif symbol > 285:
            raise ValueError("an unknown length")
        else:
            length = _LENGTH_BASE[symbol - 257] + bits.take(_LENGTH_EXTRA[symbol - 257])
            code = bits.symbol(distances)
            distance = _DISTANCE_BASE[code] + bits.take(_DISTANCE_EXTRA[code])
            if distance > len(out):
                raise ValueError("a match reaches before the begin")
            _copy(out, distance, min(length, size + 1 - len(out)))


def explode(body: bytes | memoryview, size: int, flags: int) -> bytes:
    """Return the `size` bytes of an imploded member; the stream has no end mark of its own.

    In `flags`, of the member's header, bit 1 is a window of 8 KiB rather than 4, and bit 2 says
    that literals are coded too. Raises `EOFError` or `ValueError`.
    """
    bits, out = _Bits(body), bytearray()
    has_literals = bool(flags & 4)
    low_bits = 7 if flags & 2 else 6
    literals = _shannon_fano(bits, 256) if has_literals else {}
    lengths, distances = _shannon_fano(bits, 64), _shannon_fano(bits, 64)
    while len(out) < size:
        if bits.take(1):
            out.append(bits.symbol(literals) if has_literals else bits.take(8))
            continue
        low = bits.take(low_bits)
        distance = (bits.symbol(distances) << low_bits | low) + 1
        length = bits.symbol(lengths)
        if length == 63:
            length += bits.take(8)
        length = min(length + (3 if has_literals else 2), size - len(out))
        # What lies before the begin counts as zeros.
        zeros = min(length, max(0, distance - len(out)))
        out += bytes(zeros)
        _copy(out, distance, length - zeros)
    return bytes(out)


def _shannon_fano(bits: _Bits, count: int) -> Codes:
    """Codes of a tree as implode stores it: runs of lengths."""
    lengths: list[int] = []
    for _ in range(bits.take(8) + 1):
        length = bits.take(4) + 1
        lengths += [length] * (bits.take(4) + 1)
    if len(lengths) != count:
        raise ValueError("a tree of the wrong size")
    return _codes(lengths, is_inverted=True)


def _codes(lengths: Sequence[int], *, is_inverted: bool = False) -> Codes:
    """Canonical Huffman codes of symbols by their lengths; implode inverts each bit."""
    codes: Codes = {}
    code = 0
    for length in range(1, _LONGEST_CODE + 1):
        code <<= 1
        for symbol, own in enumerate(lengths):
            if own == length:
                if code >> length:
                    raise ValueError("more codes than there can be")
                codes[length, code ^ ((1 << length) - 1) if is_inverted else code] = symbol
                code += 1
    return codes


def _copy(out: bytearray, distance: int, length: int) -> None:
    """Repeat what lies so far back."""
    start = len(out) - distance
    if distance >= length:
        out += out[start : start + length]
        return
    for position in range(start, start + length):
        out.append(out[position])


def _stored(body: memoryview, size: int) -> bytes:
    return bytes(body[: size + 1])


def _unpack_bzip2(body: memoryview, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(body, size + 1)


def _unpack_xz(body: memoryview, size: int) -> bytes:
    try:
        return lzma.LZMADecompressor(memlimit=128 * 1024 * 1024).decompress(body, size + 1)
    except lzma.LZMAError as error:
        raise memory_error(error) from error


def _unpack_zstd(body: memoryview, size: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
    with decompressor.stream_reader(body) as reader:
        return reader.read(size + 1)


def _unpack_lzma(body: memoryview, size: int) -> bytes:
    """A raw LZMA stream after the four bytes and the properties that zip puts before it."""
    _, n_properties, packed_properties, dictionary = struct.unpack_from("<2sHBL", body, 0)
    if n_properties != 5:
        raise lzma.LZMAError("unknown properties")
    rest, lc = divmod(packed_properties, 9)
    pb, lp = divmod(rest, 5)
    properties = {
        "id": lzma.FILTER_LZMA1,
        "lc": lc,
        "lp": lp,
        "pb": pb,
        # No match reaches back further than the file: a header that asks for
        # gigabytes gets what the file can use.
        "dict_size": max(4096, min(dictionary, size + 1)),
    }
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[properties])
    # Where no mark ends the stream, more bytes than it holds would come out of its last ones.
    return decompressor.decompress(body[9:], size)


UNPACKERS: Final[dict[int, Unpacker]] = {
    0: _stored,
    8: inflate,
    9: inflate64,
    12: _unpack_bzip2,
    14: _unpack_lzma,
    93: _unpack_zstd,
    95: _unpack_xz,
}
STREAMS: Final[dict[int, Callable[[Readable], Readable]]] = {
    0: lambda stream: stream,
    8: open_deflate,
    12: OPENERS["bzip2"],
    93: OPENERS["zstd"],
    95: OPENERS["xz"],
}
IMPLODED: Final = 6
SLOW: Final = frozenset({IMPLODED, 9})
