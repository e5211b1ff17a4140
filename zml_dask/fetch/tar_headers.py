"""The headers of a tar stream, one entry at a time, whatever they claim.

`tarfile` reads a pax or GNU header of any stated size into memory, before it can
be asked; so the blocks are walked here, and it parses the single ones.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import Final

from zml_dask.fetch.layers import Layer, OverLimitError
from zml_dask.fetch.limits import Meter
from zml_dask.fetch.member import decoded

BLOCK: Final = 512
_LARGEST_HEADER: Final = 1024 * 1024
_PIECE: Final = 1024 * 1024
# A number of twelve bytes, or of any number of digits, is no size that a table holds.
_LARGEST_SIZE: Final = 2**62
_NO_BLOCK: Final = bytes(BLOCK)
_MAGIC: Final = b"ustar"


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry of a tar stream.

    Attributes
    ----------
    path, link : str
    kind : bytes
        Type flag, as in `tarfile`.
    size : int
        Bytes of content that follow in the stream, without padding.
    problem : str or None
        Why the content is not to be read as a file.
    """

    path: str
    link: str
    kind: bytes
    size: int
    problem: str | None = None


class BrokenHeaderError(Exception):
    """A block that should be a header is none; the walk goes on at the next that is."""


class CutOffError(Exception):
    """The stream ends before its end mark."""


def read_entry(layer: Layer, meter: Meter) -> TarEntry | None:
    """The next entry of a stream; None at its end mark.

    Raises
    ------
    BrokenHeaderError
        Ask again: the next call looks for the next header.
    CutOffError, BrokenStreamError, OverLimitError
    """
    pax: dict[str, str] = {}
    long_path = long_link = problem = None
    while True:
        block = _next_block(layer)
        info = _parse(block)
        if info is None:
            return None
        if not 0 <= info.size <= _LARGEST_SIZE:
            raise BrokenHeaderError("a header states an impossible size")
        if info.type in {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}:
            body = _header_body(layer, info.size, meter)
            if body is None:
                problem = "its extended header is over 1 MiB"
            elif info.type != tarfile.XGLTYPE:
                pax.update(_pax_records(body))
            continue
        if info.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
            body = _header_body(layer, info.size, meter)
            if body is None:
                problem = "its extended header is over 1 MiB"
                continue
            text = decoded(body.partition(b"\x00")[0], "latin-1")
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_path = text
            else:
                long_link = text
            continue
        break
    if info.type == tarfile.GNUTYPE_SPARSE:
        problem = "a GNU sparse file"
        _skip_sparse_map(layer, block)
    sparse_path = pax.get("GNU.sparse.name")
    if sparse_path is not None or "GNU.sparse.major" in pax or "GNU.sparse.map" in pax:
        problem = "a GNU sparse file"
    path = sparse_path or pax.get("path") or long_path or _rescued(info.name)
    link = pax.get("linkpath") or long_link or _rescued(info.linkname)
    size = _pax_size(pax.get("size"), info.size)
    kind = info.type
    if path.endswith("/") and kind in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        kind = tarfile.DIRTYPE
    return TarEntry(path, link, kind, size, problem)


def resume(layer: Layer) -> bool:
    """Step over blocks up to the next header of the modern kind; False where none comes.

    Raises
    ------
    BrokenStreamError, OverLimitError
    """
    while len(block := layer.read(BLOCK)) == BLOCK:
        if block[257:262] == _MAGIC and _is_header(block):
            layer.unread(block)
            return True
    return False


def skip(layer: Layer, count: int) -> None:
    """Read over so many bytes, and not one more.

    Raises
    ------
    CutOffError, BrokenStreamError, OverLimitError
    """
    while count > 0:
        gone = len(layer.read(min(count, _PIECE)))
        if not gone:
            raise CutOffError
        count -= gone


def padding(size: int) -> int:
    """Bytes between the end of a content and the next block."""
    return -size % BLOCK


def _next_block(layer: Layer) -> bytes:
    block = layer.read(BLOCK)
    if len(block) < BLOCK:
        raise CutOffError
    return block


def _parse(block: bytes) -> tarfile.TarInfo | None:
    if block == _NO_BLOCK:
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise BrokenHeaderError(f"a header is broken ({error})") from None
    except (ValueError, IndexError, OverflowError):
        raise BrokenHeaderError("a header is broken") from None


def _is_header(block: bytes) -> bool:
    try:
        return _parse(block) is not None
    except BrokenHeaderError:
        return False


def _header_body(layer: Layer, size: int, meter: Meter) -> bytes | None:
    """Content of an extended header; None of one that is too large, which is read over.

    Each counts as a member: a chain of them must end as well.
    """
    over = meter.add_member()
    if over is not None:
        raise OverLimitError(over)
    if size > _LARGEST_HEADER:
        skip(layer, size + padding(size))
        return None
    body = layer.read(size)
    if len(body) < size:
        raise CutOffError
    skip(layer, padding(size))
    return body


def _pax_records(body: bytes) -> dict[str, str]:
    r"""Records ``LENGTH KEY=VALUE\n`` of a pax header, up to the first that is none."""
    records: dict[str, str] = {}
    position = 0
    while position < len(body):
        digits, space, _ = body[position : position + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        end = position + int(digits)
        key, equals, value = body[position + len(digits) + 1 : end].partition(b"=")
        if not equals or end > len(body) or not value.endswith(b"\n"):
            break
        records[decoded(key, "latin-1")] = decoded(value[:-1], "latin-1")
        position = end
    return records


def _pax_size(text: str | None, size: int) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        return size
    if len(text) > len(str(_LARGEST_SIZE)) or int(text) > _LARGEST_SIZE:
        raise BrokenHeaderError("a header states an impossible size")
    return int(text)


def _rescued(name: str) -> str:
    """A name whose bytes are not UTF-8, by the single-byte encoding that takes all."""
    if name.isascii():
        return name
    return decoded(name.encode("utf-8", "surrogateescape"), "latin-1")


def _skip_sparse_map(layer: Layer, header: bytes) -> None:
    """Read over the blocks that continue an old GNU sparse file's map."""
    more = bool(header[482])
    while more:
        more = bool(_next_block(layer)[504])
