"""A large zip file by its parts: the directory, then only what is small enough to be read.

The parts land at their own offsets in a sparse file of the archive's size, and
the ordinary reader reads that; each member's CRC takes the place of the md5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from zml_dask.fetch.member import FetchLimits, is_version_control
from zml_dask.fetch.streams import ARCHIVE_SUFFIXES, HEAD_BYTES
from zml_dask.fetch.zip import (
    BrokenDirectoryError,
    ZipDirectory,
    decode_path,
    find_directory,
    iter_positions,
    mapped,
    read_entry,
)
from zml_dask.net.client import HttpClient
from zml_dask.net.transfer import local_disk
from zml_dask.records.record import RecordFile

# Zenodo permits a guest one or two requests per second, in which time a connection
# delivers some megabytes: a further request has to save as much.
_REQUEST_BYTES: Final = 4 * 1024 * 1024
# The parts, requests included, must come to less than this share of the whole.
_WORTH: Final = 0.5
_TAIL: Final = 256 * 1024
_LARGEST_PART: Final = 64 * 1024 * 1024
_LONGEST_LOCAL_HEADER: Final = 30 + 2 * 65_535

Span = tuple[int, int]


def fetch_parts(
    client: HttpClient, file: RecordFile, target: Path, limits: FetchLimits
) -> int | None:
    """Fetch the parts of a zip file that will be read, if they are at most `max_archive_bytes`.

    `target` becomes a sparse file as long as the whole, with holes where nothing was fetched.
    Returns the bytes fetched, or None if the file is not a zip, or the whole file is as cheap.
    Raises `NetworkError` of the kind "range_unsupported" if the server gives no parts.
    """
    size = file.size or 0
    fetched = 0
    with local_disk(target), target.open("w+b") as sparse:
        sparse.truncate(size)

        def fill(span: Span) -> None:
            nonlocal fetched
            for start in range(span[0], span[1], _LARGEST_PART):
                part = client.read_range(file.url, start, min(span[1], start + _LARGEST_PART))
                sparse.seek(start)
                sparse.write(part)
                sparse.flush()
                fetched += len(part)

        tail = (max(0, size - _TAIL), size)
        fill(tail)
        buffer = mapped(sparse)
        try:
            directory = find_directory(buffer)
            if tail[0] - directory.start > _WORTH * size:
                return None
            if directory.start < tail[0]:
                fill((directory.start, tail[0]))
            # The first bytes too, by which an archive is recognised: they may be those of
            # a folder, which is no member that is read.
            head = (0, min(HEAD_BYTES, directory.start))
            spans = [head, *_spans_to_read(buffer, directory, limits)]
        except BrokenDirectoryError:
            return None
        merged = list(merge(spans))
        wanted = sum(stop - start for start, stop in merged)
        if wanted + len(merged) * _REQUEST_BYTES > _WORTH * size:
            return None
        if fetched + wanted > limits.max_archive_bytes:
            return None
        for span in merged:
            fill(span)
    return fetched


def merge(spans: Iterable[Span], gap: int = _REQUEST_BYTES) -> Iterator[Span]:
    """Join spans that lie so close that reading over the gap is cheaper than a request.

    Examples
    --------
    >>> list(merge([(50, 60), (0, 10), (12, 20)], gap=5))
    [(0, 20), (50, 60)]
    """
    last: Span | None = None
    for start, stop in sorted(spans):
        if last is not None and start - last[1] <= gap:
            last = (last[0], max(last[1], stop))
        else:
            if last is not None:
                yield last
            last = (start, stop)
    if last is not None:
        yield last


def _spans_to_read(
    buffer: memoryview, directory: ZipDirectory, limits: FetchLimits
) -> Iterator[Span]:
    """Yield the spans of the members that will be read: local header and body."""
    wanted: list[Span] = []
    offsets: list[int] = []
    for number, (position, raw, flags, extra) in enumerate(iter_positions(buffer, directory)):
        if number >= limits.max_members:
            break
        path = decode_path(raw, flags, extra)
        entry = read_entry(buffer, position, directory.shift, path)
        offsets.append(entry.offset)
        is_read = not raw.endswith(b"/") and not is_version_control(path) and not flags & 1
        is_archive = path.lower().endswith(ARCHIVE_SUFFIXES)
        if is_read and (entry.size <= limits.max_file_bytes or is_archive):
            # Up to the next member, if the entry says that it is empty: it may be wrong.
            longest = min(entry.packed, 2 * entry.size + 65_536) or limits.max_file_bytes
            wanted.append((entry.offset, entry.offset + longest + _LONGEST_LOCAL_HEADER))
    if not offsets:
        return
    # The local header's length is only known once it is there; it ends, with
    # the body, before the next member or the directory begins.
    following = dict(zip(sorted(offsets), [*sorted(offsets)[1:], directory.start], strict=True))
    for start, most in wanted:
        stop = min(most, following[start], directory.start)
        if 0 <= start < stop:
            yield start, stop
