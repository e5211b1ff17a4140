"""The members of an archive of any kind: recognised by content, streamed, bounded.

Nothing is ever written under a member's name: a member is a path, its bytes or
the reason why there are none. One level of archive is read; an archive within
an archive is a file like any other, so nested bombs stay shut.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from zml_dask.fetch.layers import BrokenStreamError, Layer, OverLimitError, peel
from zml_dask.fetch.limits import FetchLimits, Meter
from zml_dask.fetch.member import Member, MemberStatus
from zml_dask.fetch.sniff import Kind, recognise, unsupported_format
from zml_dask.fetch.tar_members import tar_members
from zml_dask.fetch.zip_directory import BrokenDirectoryError, find_directory, forget_pages, mapped
from zml_dask.fetch.zip_members import zip_members
from zml_dask.fetch.zip_salvage import salvaged_members
from zml_dask.text_safety import escape_path

__all__ = ["Member", "is_sound", "kind_of", "read_members"]

_MOST_MAPPED: Final = 64 * 1024 * 1024
_SUFFIXES: Final = (".gz", ".bz2", ".xz", ".zst")


def read_members(
    archive: Path, *, name: str, limits: FetchLimits | None = None
) -> Iterator[Member]:
    """Every regular file of an archive, with its content or the reason why not.

    Folders, links within the archive and the insides of version-control folders
    give no member. Zip files come in path order, tar files in their own.

    Parameters
    ----------
    archive : Path
        A zip, a tar under any of gzip, bzip2, xz and zstd, one compressed file,
        or any other file, which is then its own only member.
    name : str
        What the archive is called: the path of a bare file, and of rows about
        the archive as a whole.
    limits : FetchLimits, optional

    Yields
    ------
    Member

    Raises
    ------
    ArchiveTimeError
        Where reading takes too long.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "whatever"
    ...     _ = file.write_text("print(1)")
    ...     list(read_members(file, name="run.py"))
    [Member(path='run.py', size=8, data=b'print(1)', status='ok', reason=None)]
    """
    limits = FetchLimits() if limits is None else limits
    size = archive.stat().st_size
    meter = Meter(limits, size, escape_path(name)[0])
    with archive.open("rb") as file:
        layer = Layer(file, meter, counted=False)
        if recognise(layer.peek()) == "zip":
            yield from _zip(mapped(file), meter)
            return
        kind, inner, depth = peel(layer, meter)
        if kind == "tar":
            yield from tar_members(inner, meter)
        else:
            yield _single(kind, inner, meter, size if depth == 0 else None)


def kind_of(archive: Path, *, limits: FetchLimits | None = None) -> Kind:
    """What an archive is, under whatever compression.

    Returns
    -------
    Kind
        ``"zip"`` and ``"tar"`` have members; ``"unsupported"`` is an archive that
        is not read, or a zip without a single readable header; everything else
        is one file.
    """
    limits = FetchLimits() if limits is None else limits
    meter = Meter(limits, archive.stat().st_size, archive.name)
    with archive.open("rb") as file:
        kind, _, depth = peel(Layer(file, meter, counted=False), meter)
    return "unsupported" if kind == "zip" and depth else kind


def is_sound(archive: Path, kind: Kind) -> bool:
    """Whether an archive has members that can be listed: a tar, or a zip with its directory."""
    if kind != "zip":
        return kind == "tar"
    with archive.open("rb") as file:
        try:
            find_directory(mapped(file))
        except BrokenDirectoryError:
            return False
        return True


def _zip(buffer: memoryview, meter: Meter) -> Iterator[Member]:
    try:
        members = zip_members(buffer, find_directory(buffer), meter)
    except BrokenDirectoryError:
        members = salvaged_members(buffer, meter)
    held = 0
    for member in members:
        yield member
        held += len(member.data or b"")
        if held > _MOST_MAPPED:
            forget_pages(buffer)
            held = 0


def _single(kind: Kind, layer: Layer, meter: Meter, size: int | None) -> Member:
    """The only member of what is no archive."""
    name, limit = meter.name, meter.limits.max_file_bytes
    head = layer.peek()
    if kind not in {"bare", "unsupported"}:
        inside = "a zip file within a compression" if kind == "zip" else "too many compressions"
        return Member(name, size, None, "unsupported", inside)
    if kind == "unsupported":
        reason = f"{unsupported_format(head)} archives are not read"
        return Member(name, size, None, "unsupported", reason)
    path = name
    if size is None:
        path = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
    if size is not None and size > limit:
        return Member(path, size, None, "too_large", f"over the limit of {limit:,} bytes")
    status: MemberStatus = "ok"
    try:
        data = layer.read(limit + 1)
    except OverLimitError as error:
        return Member(path, size, None, "refused", str(error))
    except BrokenStreamError as error:
        return Member(path, size, None, "damaged", f"it does not decompress ({error})")
    if len(data) > limit:
        return Member(path, size, None, "too_large", f"over the limit of {limit:,} bytes")
    return Member(path, len(data), data, status, None)
