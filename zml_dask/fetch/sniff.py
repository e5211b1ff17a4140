"""What kind of archive a file is, by its first bytes; its name is not asked."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["zip", "tar", "gzip", "bzip2", "xz", "zstd", "unsupported", "bare"]

HEAD_BYTES: Final = 512
_BLOCK: Final = 512
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04")
_COMPRESSED: Final[tuple[tuple[bytes, Kind], ...]] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_UNSUPPORTED: Final = (
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"MSCF", "cab"),
)
# Office documents and e-books are zip files too, but nobody's source code.
_DOCUMENTS: Final = (b"[Content_Types].xml", b"mimetypeapplication/")


def recognise(head: bytes) -> Kind:
    r"""Kind of a file.

    Parameters
    ----------
    head : bytes
        Its first 512 bytes, or all of a shorter one.

    Examples
    --------
    >>> recognise(b"PK\x03\x04" + bytes(26)), recognise(b"import os")
    ('zip', 'bare')
    """
    if head.startswith(_ZIP):
        return "bare" if head[30:].startswith(_DOCUMENTS) else "zip"
    for magic, kind in _COMPRESSED:
        if head.startswith(magic):
            return kind
    if head.startswith(b"BZh") and head[3:4].isdigit() and head[4:8] in {b"1AY&", b"\x17rE8"}:
        return "bzip2"
    if unsupported_format(head) is not None:
        return "unsupported"
    return "tar" if _is_tar_header(head) else "bare"


def unsupported_format(head: bytes) -> str | None:
    """Name of a format that is known and not read; None for any other."""
    for magic, name in _UNSUPPORTED:
        if head.startswith(magic):
            return name
    return None


def _is_tar_header(head: bytes) -> bool:
    """Whether a block's own checksum holds: older tars have no other mark."""
    if len(head) < _BLOCK:
        return False
    field = head[148:156].strip(b" \x00")
    if not field or not field.isdigit():
        return False
    try:
        stated = int(field, 8)
    except ValueError:
        return False
    # The checksum's own field counts as eight spaces.
    return sum(head[:148]) + sum(head[156:_BLOCK]) + 8 * 32 == stated
