"""Import of a record of 2018: its images are read safely, converted to text, and staged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import RecordError, ZmlError
from zml_dask.legacy.hdf5 import read_images_hdf5
from zml_dask.legacy.legacy_record import Segments
from zml_dask.legacy.pickles import read_images_pickle
from zml_dask.legacy.sources import LegacyFileError, LegacySource, SourceRecord
from zml_dask.raster.images import to_text
from zml_dask.raster.language import identify
from zml_dask.safe_pickle import DamagedPickleError, ForbiddenPickleError, load, within
from zml_dask.store.layout import FileStatus, ImageShape, extension_of
from zml_dask.store.staging import RecordStager, StagedFile, StagedRecord
from zml_dask.store.storage import Storage

_NEWLINE = 10
_MAX_CODE_POINT = 0x10FFFF


class NotTextError(ZmlError):
    """A file's segments cannot come from lines of text."""


@dataclass(frozen=True, slots=True)
class RecoveredText:
    """The text of a file: UTF-8, one line per row without trailing spaces.

    `note` says what was changed; with None, drawing the text gives exactly the same segments.
    """

    text: bytes
    n_lines: int
    note: str | None


def compact(segment: NDArray[Any]) -> NDArray[Any]:
    """Return a segment in the smallest type for it, or unchanged if it holds no code points.

    Examples
    --------
    >>> compact(np.full((1, 80), 32)).dtype.name, compact(np.full((1, 80), 0x1F600)).dtype.name
    ('uint8', 'uint32')
    """
    if segment.size == 0 or segment.dtype.kind not in "iu":
        return segment
    low, high = segment.min(), segment.max()
    if low < 0 or high > _MAX_CODE_POINT:
        return segment
    return segment.astype(np.uint8 if high < 256 else np.uint32)


def recover_text(segments: Sequence[NDArray[Any]]) -> RecoveredText:
    r"""Convert a file's segments, each (lines, width), to text.

    - An empty segment, which 2018 appended to a file whose number of lines is a multiple of 80, is
      left out.
    - A segment of fewer than 80 rows that is not the last one, which 2018 never wrote, is padded
      with blank lines: its image stays the same.
    - A segment of more than 80 rows (2018 wrote a single last line as one row per character)
      continues in the next image.
    - A row narrower than 80 is padded with spaces.

    `NotTextError` if a value is not a code point, or a row is wider than an image or contains a
    newline.

    Examples
    --------
    >>> odd = [np.full((80, 80), 97), np.empty((0, 0))]
    >>> recover_text(odd).n_lines, recover_text(odd).note
    (80, '1 empty segment left out')
    """
    shape = ImageShape()
    pieces: list[bytes] = []
    n_lines = n_empty = n_padded = n_tall = 0
    for number, segment in enumerate(segments):
        if segment.size == 0:
            n_empty += 1
            continue
        if n_lines % shape.height:  # the previous segment was too short
            blank = -n_lines % shape.height
            pieces.append(b"\n" * blank)
            n_lines += blank
            n_padded += 1
        rows = _rows(segment, number, shape.width)
        n_tall += len(rows) > shape.height
        pieces.append(to_text(rows[np.newaxis], [len(rows)]).encode("utf-8", "surrogatepass"))
        n_lines += len(rows)
    notes = [
        f"{count} {kind}{'segment' if count == 1 else 'segments'} {what}"
        for count, kind, what in (
            (n_empty, "empty ", "left out"),
            (n_padded, "", f"padded with blank lines to {shape.height}"),
            (n_tall, "", f"of over {shape.height} rows divided"),
        )
        if count
    ]
    return RecoveredText(b"".join(pieces), n_lines, "; ".join(notes) or None)


def _rows(segment: NDArray[Any], number: int, width: int) -> NDArray[np.uint32]:
    """Return a segment as code points, (lines, width)."""
    if segment.ndim != 2 or segment.shape[1] > width:
        raise NotTextError(
            f"segment {number} has the shape {segment.shape}, and an image is {width} wide"
        )
    if segment.dtype.kind == "f" and np.array_equal(segment, np.trunc(segment)):
        segment = segment.astype(np.int64)  # as 2018's loader pads
    if segment.dtype.kind not in "iu" or segment.min() < 0 or segment.max() > _MAX_CODE_POINT:
        raise NotTextError(f"segment {number} holds values that are not code points")
    if (segment == _NEWLINE).any():
        raise NotTextError(f"segment {number} holds a newline within a row")
    rows = segment.astype(np.uint32)
    missing = width - segment.shape[1]
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=32) if missing else rows


Describe: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Converts a hit to columns of the records table."""

_HEAD = 4096
_COPY_BYTES = 1 << 20
_MAX_HIT_BYTES = 64 << 20
ORIGIN = "legacy"
"""Origin of imported records in the records table."""


def import_record(
    source: LegacySource, record: SourceRecord, storage: Storage, describe: Describe, scratch: Path
) -> StagedRecord:
    """Stage one record in a dataset.

    `RecordError` if none of its files can be read, or one would run code.
    """
    with RecordStager(scratch, record.record_id, ImageShape()) as stager:
        row = _record_row(source, record, describe)
        for path, segments in _images(source, record, scratch):
            stager.add(*_staged_file(path, segments))
        return stager.finish(storage, row)


def _record_row(source: LegacySource, record: SourceRecord, describe: Describe) -> dict[str, Any]:
    """Return the columns of the records table; unknown ones are left out."""
    row: dict[str, Any] = {"record_id": record.record_id, "origin": ORIGIN}
    hit = _hit(source, record)
    if hit is None:
        return row
    try:
        return row | dict(describe(hit))
    except (ZmlError, TypeError, ValueError, LookupError, RecursionError):
        return row  # not a hit of Zenodo; the images are imported without it


def _hit(source: LegacySource, record: SourceRecord) -> Mapping[str, Any] | None:
    """Read the record's JSON from its metadata pickle; None if there is none."""
    if record.metadata is None:
        return None
    try:
        with _opened(source, record.metadata) as stream:
            content = load(stream, name=record.metadata)
    except ForbiddenPickleError as error:
        raise RecordError("hostile_pickle", str(error)) from error
    except (DamagedPickleError, LegacyFileError):
        return None
    hit = content.get("hit") if isinstance(content, dict) else None
    # A hit that would be longer than any record's JSON is not one.
    return hit if isinstance(hit, dict) and within(hit, _MAX_HIT_BYTES) else None


@contextmanager
def _opened(source: LegacySource, path: str) -> Iterator[IO[bytes]]:
    """Open a file of the source; an error of the disk is a `RecordError`, not a damaged file."""
    try:
        with closing(source.open(path)) as stream:
            yield stream
    except OSError as error:
        raise RecordError(
            "unreadable_source",
            f"{path} could not be read: {error.strerror or error}; "
            "check the source and run the same import again",
        ) from error


def _images(
    source: LegacySource, record: SourceRecord, scratch: Path
) -> Iterable[tuple[str, Segments]]:
    """Read the pickle, or the HDF5 file where the pickle cannot be read."""
    complaints: list[str] = []
    if record.pickle is not None:
        try:
            with _opened(source, record.pickle) as stream:
                return read_images_pickle(stream, name=record.pickle, on_array=compact).items()
        except ForbiddenPickleError as error:
            raise RecordError("hostile_pickle", str(error)) from error
        except (DamagedPickleError, LegacyFileError) as error:
            complaints.append(str(error))
    if record.hdf5 is not None:
        try:
            with _opened(source, record.hdf5) as stream:
                return list(_compact(stream, record.hdf5, scratch))
        except LegacyFileError as error:
            complaints.append(str(error))
    raise RecordError(
        "damaged_legacy",
        "; ".join(complaints) or f"record {record.record_id} has neither pickle nor HDF5 file",
    )


def _compact(stream: IO[bytes], name: str, scratch: Path) -> Iterable[tuple[str, Segments]]:
    with tempfile.TemporaryFile(dir=scratch) as copy:
        if not stream.seekable():
            # HDF5 needs random access, and a file in squashfs can only be read sequentially.
            shutil.copyfileobj(stream, copy, _COPY_BYTES)
            stream = copy
        for path, segments in read_images_hdf5(stream, name=name):
            yield path, [compact(segment) for segment in segments]


def _staged_file(path: str, segments: Segments) -> tuple[StagedFile, bytes | None]:
    """Return a file's row and text; its size, hash and encoding are not known."""
    note: str | None
    status: FileStatus
    try:
        recovered = recover_text(segments)
    except NotTextError as error:
        recovered, status, note = RecoveredText(b"", 0, None), "damaged", str(error)
    else:
        status, note = "ok" if recovered.n_lines else "empty", recovered.note
    name = path.rpartition("/")[2]
    identity = identify(path, recovered.text[:_HEAD])
    staged = StagedFile(
        path=path,
        name=name,
        extension=extension_of(name),
        language=identity.language,
        kind=identity.kind,
        size=None,
        sha256=None,
        encoding=None,
        status=status,
        reason=note,
        n_lines=recovered.n_lines,
        n_cut=None,
    )
    return staged, recovered.text or None
