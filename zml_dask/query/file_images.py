"""Files: found by number or path, and one after another with their images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import DatasetDamagedError, UsageError
from zml_dask.query.selection import Selection, image_lines, open_selected
from zml_dask.query.sql import equality
from zml_dask.raster.images import Images, to_text
from zml_dask.store.image_reader import ImageReader, Int64
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

RAISE: Final = object()
"""Stands for no default."""

_FILES_AT_ONCE = 16_384
_IMAGES_AT_ONCE = 1_024
"""26 MB at 80 by 80."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of the files table; `layout.FILES_SCHEMA` describes the columns."""

    file_id: int
    record_id: int
    path: str
    name: str
    extension: str
    language: str | None
    language_group: str | None
    kind: str | None
    size: int | None
    sha256: str | None
    sha1_git: str | None
    text_sha256: str | None
    encoding: str | None
    status: str
    reason: str | None
    n_lines: int
    n_cut: int | None
    first_image: int
    n_images: int


class FileImages(tuple[FileRow, Images]):
    """A file and its selected images: the pair ``file, images``.

    Attributes
    ----------
    segment : numpy.ndarray of int64, shape (n,)
        Number of each image within the file.
    """

    segment: Int64

    def __new__(cls, file: FileRow, images: Images, segment: Int64) -> Self:
        """Make one."""
        made = super().__new__(cls, (file, images))
        made.segment = segment
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self, self.segment)

    @property
    def file(self) -> FileRow:
        """The row of the files table."""
        return self[0]

    @property
    def images(self) -> Images:
        """The selected images, uint32, shape (n, height, width)."""
        return self[1]

    @property
    def text(self) -> str:
        """The images as text; the text of a whole file is checked against ``text_sha256``.

        Raises
        ------
        DatasetDamagedError
            If the images differ from the committed text.
        """
        return read_text(asdict(self.file), self.images, self.segment)


def image_rows(info: DatasetInfo, file: Mapping[str, Any]) -> Int64:
    """Return the rows of a file's images, int64, shape (n,).

    `DatasetDamagedError` if there cannot be such images.
    """
    first, n = file["first_image"], file["n_images"]
    fits = n == info.shape.n_images(file["n_lines"]) and first >= 0
    if not fits or first + n > info.counts.images:
        raise DatasetDamagedError(
            f"by the files table, the {file['n_lines']:,} lines of {file['path']!r} are {n:,} "
            f"images from {first:,} on, of {info.counts.images:,}, which is impossible; "
            "run zml-dask verify on the dataset"
        )
    rows: Int64 = first + np.arange(n, dtype=np.int64)
    return rows


def read_text(file: Mapping[str, Any], images: Images, segment: Int64) -> str:
    """Convert images (uint32, shape (n, height, width)) of a file to text.

    `segment` has their numbers, int64, shape (n,). `DatasetDamagedError` if they are all of the
    file's images and do not contain the text that was committed.
    """
    n_lines = np.full(segment.shape, file["n_lines"], np.int64)
    expected = file["text_sha256"] if segment.size == file["n_images"] else None
    try:
        text = to_text(images, image_lines(n_lines, segment, images.shape[1]))
        found = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    except (UnicodeDecodeError, UsageError):  # an invalid pixel or number of lines
        found, expected = "", "text"
    if expected is not None and found != expected:
        raise DatasetDamagedError(
            f"the images of {file['path']!r} (file {file['file_id']}) do not hold the text that "
            "was committed: they are damaged, or an older state of a shard, from a cache say; "
            "run zml-dask verify on the dataset"
        )
    return text


def iterate_files(
    snapshot: Snapshot, selection: Selection, *, copied: bool = True
) -> Iterator[FileImages]:
    """Yield the files of a selection with their images; no chunk is read twice.

    Memory holds 2,048 images, or those of the largest file and 1,024, and 16,384 rows of
    the table: the next images are read while the previous ones are in use. Unless they are
    `copied`, a file's images are valid until the next file.
    """

    def files() -> Iterator[tuple[FileRow, int, int]]:
        for start in range(0, len(selection.files), _FILES_AT_ONCE):
            file_id = selection.files.positions(start, start + _FILES_AT_ONCE)
            table = snapshot.take("files", file_id, FILES_SCHEMA.names)
            begins, ends = selection.places_of(table)
            yield from zip(_rows(table), begins.tolist(), ends.tolist(), strict=True)

    for row, begin, images in with_images(snapshot.images, selection.rows, files()):
        segment = selection.rows.positions(begin, begin + len(images)) - row.first_image
        yield FileImages(row, images.copy() if copied else images, segment)


def _rows(table: pa.Table) -> Iterator[FileRow]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from (FileRow(**row) for row in batch.to_pylist())


class Places(Protocol):
    """Numbers of images in ascending order, such as `Rows`."""

    def __len__(self) -> int: ...

    def piece(self, start: int, limit: int, chunk: int, /) -> Int64:
        """Up to `limit` numbers from the `start`-th on, that end where a chunk ends."""
        ...


def with_images(
    reader: ImageReader, rows: Places, items: Iterable[tuple[_Item, int, int]]
) -> Iterator[tuple[_Item, int, Images]]:
    """Yield each item with its images: those of `rows` from one place to another.

    Items follow one another without a gap. Images are read front to back, some whole
    chunks at a time, first few, to begin soon, and ahead of use. An item's images
    are valid until the next item: two buffers take turns, as mapping new memory for every
    read costs as much as decoding into it.
    """
    most = max(_IMAGES_AT_ONCE, reader.spec.chunk)
    buffers = [np.empty((most, *reader.row), np.uint32) for _ in range(2)]

    def wanted() -> Iterator[tuple[Int64, Images]]:
        at, limit = 0, reader.spec.chunk
        for turn in count():
            if at == len(rows):
                return
            piece = rows.piece(at, limit, reader.spec.chunk)
            yield piece, buffers[turn % 2][: piece.size]
            at, limit = at + piece.size, min(2 * limit, _IMAGES_AT_ONCE)

    pieces = one_ahead(lambda one: reader.read(one[0], target=one[1]), wanted())
    held, at = buffers[0][:0], 0
    for item, begin, end in items:
        parts = [held[begin - at : end - at]]
        while at + len(held) < end:
            parts[-1] = parts[-1].copy()  # the next piece but one overwrites it
            at += len(held)
            held = next(pieces)
            parts.append(held[: end - at])
        yield item, begin, parts[0] if len(parts) == 1 else np.concatenate(parts)


def one_ahead(make: Callable[[_Item], _Made], items: Iterator[_Item]) -> Iterator[_Made]:
    """Yield what is made of each item, by a thread while the previous one is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="zml-read") as pool:
        waiting = [pool.submit(make, item) for item in islice(items, 1)]
        for item in items:
            made = waiting.pop().result()
            waiting.append(pool.submit(make, item))
            yield made
        for last in waiting:
            yield last.result()


def text_of(view: Dataset, file: int | str, default: Any = RAISE) -> str:
    """Read a file of a view back as text; see `Dataset.text`."""
    row = find_file(view, file)
    if row["status"] not in ("ok", "empty"):
        if default is not RAISE:
            return default  # type: ignore[no-any-return]
        raise UsageError(
            f"file {row['file_id']} ({row['path']!r}) has no text: it is {row['status']}"
        )
    rows = image_rows(view.info, row)
    return read_text(row, view.snapshot.images.read(rows), rows - row["first_image"])


def image_of(view: Dataset, file: int | str, segment: int) -> NDArray[np.uint32]:
    """Read one image of a file of a view; see `Dataset.image`."""
    row = find_file(view, file)
    if not 0 <= segment < row["n_images"]:
        raise UsageError(
            f"file {row['file_id']} has no image {segment}; it has {row['n_images']}, "
            "counted from 0"
        )
    rows = image_rows(view.info, row)[segment : segment + 1]
    image: NDArray[np.uint32] = view.snapshot.images.read(rows)[0]
    return image


def find_file(dataset: Dataset, file: int | str) -> dict[str, Any]:
    """Return a file's row, as far as reading it needs: by its number, or its path in a view."""
    if isinstance(file, str):
        file = _find_path(dataset, file)
    names = [
        "file_id", "path", "record_id", "status", "first_image", "n_images", "n_lines",
        "text_sha256"
    ]  # fmt: skip
    if 0 <= file < dataset.snapshot.rows("files"):
        table = dataset.snapshot.take("files", np.array([file], np.int64), names)
        row: dict[str, Any] = table.to_pylist()[0]
        if row["record_id"] not in dataset.snapshot.withdrawn:
            return row
    raise UsageError(f"{dataset.url} holds no file {file}")


def _find_path(dataset: Dataset, path: str) -> int:
    """Return the only file of a view whose path is `path`, or ends with it."""
    condition = equality("path", path).text.replace("files.path = ", "", 1)
    with open_selected(dataset, {"file_id", "record_id", "path"}) as database:
        found = database.table(
            f"SELECT file_id, record_id, path FROM selected WHERE path = {condition} "
            f"OR ends_with(path, '/' || {condition}) "
            f"ORDER BY path <> {condition}, file_id LIMIT 4"
        ).to_pylist()
    whole = [row for row in found if row["path"] == path]
    if not found:
        raise UsageError(
            f"no file here has the path {path!r}, or one that ends with it; read('path') lists them"
        )
    if len(whole) == 1 or len(found) == 1:
        return int(found[0]["file_id"])
    others = ", ".join(f"{r['file_id']} ({r['record_id']}: {r['path']!r})" for r in found[:3])
    raise UsageError(
        f"several files have the path {path!r}, or one that ends with it: {others}"
        f"{' and more' if len(found) > 3 else ''}; give the number of one, or more of its path"
    )
