"""Images as lossless grey PNGs, a folder or a tar for each language or extension.

The second release of the legacy dataset had this form. Pillow encodes: the best kept of
the libraries that do.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Self, TypeAlias
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zml_dask.query.dataset import Dataset
from zml_dask.query.selection import image_lines
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

Grouping = Literal["language", "extension"]
Depth = Literal[8, 16]
Progress: TypeAlias = Callable[[int, int], None]

NO_LANGUAGE = "unknown"
"""The group of files whose language is not known."""

_STEP = 1024
"""Images from one progress report to the next."""

_TYPES: Mapping[int, type[np.uint8 | np.uint16]] = {8: np.uint8, 16: np.uint16}
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class PngOptions:
    """How images become PNGs.

    Attributes
    ----------
    tar : bool
        One tar a group in the place of a folder.
    depth : {8, 16}
        Bits a pixel. A code point that does not fit becomes the largest value
        that does, 255 or 65,535: with 8 bits 6.6 % of images of real code hold
        one, with 16 bits those with emoji and the rarest scripts alone.
    min_lines : int
        Images of fewer lines are left out.
    """

    by: Grouping = "extension"
    tar: bool = False
    depth: Depth = 8
    min_lines: int = 1


@dataclass(slots=True)
class PngResult:
    """What was written.

    Attributes
    ----------
    images : collections.Counter
        Images by group.
    clipped : int
        Images with a code point that does not fit into the depth.
    """

    images: Counter[str] = field(default_factory=Counter)
    clipped: int = 0


def encode_png(image: NDArray[np.uint32], depth: Depth = 8) -> bytes:
    """Encode one image, lossless but for code points that do not fit.

    Parameters
    ----------
    image : numpy.ndarray of uint32, shape (height, width)
    depth : {8, 16}
        Bits a pixel.

    Examples
    --------
    >>> png = encode_png(np.full((80, 80), 0x20AC, np.uint32), depth=16)
    >>> int(np.asarray(Image.open(io.BytesIO(png))).max())
    8364
    """
    kind = _TYPES[depth]
    pixels = np.minimum(image, np.iinfo(kind).max).astype(kind)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def largest_pixel(depth: Depth) -> int:
    """Return the largest value of a pixel, which larger code points become.

    Examples
    --------
    >>> largest_pixel(8)
    255
    """
    return int(np.iinfo(_TYPES[depth]).max)


def export_png(
    dataset: str | Path | Storage | Dataset,
    folder: Path,
    options: PngOptions | None = None,
    *,
    progress: Progress | None = None,
) -> PngResult:
    """Write every image of a dataset, or of a view, as ``<record>_<file>_<segment>.png``.

    The dataset is read once, from front to back, a few chunks at a time. The
    numbers in a name lead back through the tables to the record, the file and
    the lines.

    Parameters
    ----------
    folder : pathlib.Path
        Gets a folder, or with `tar` a file ``<group>.tar``, for each group.
    progress : callable, optional
        Called with the images read and images in all.

    Raises
    ------
    UsageError
        If nothing is committed in `dataset`.
    """
    options = options or PngOptions()
    opened = dataset if isinstance(dataset, Dataset) else Dataset(Snapshot.open(dataset))
    total, done = len(opened), 0
    result = PngResult()
    largest = largest_pixel(options.depth)
    with TarTarget(folder) if options.tar else FolderTarget(folder) as target:
        for found in opened:
            file = found.file
            group = file.language if options.by == "language" else file.extension
            name = group_name(NO_LANGUAGE if group is None else group)
            lines = image_lines(file.n_lines, found.segment, opened.info.shape.height)
            for image, segment, n_lines in zip(found.images, found.segment, lines, strict=True):
                if n_lines < options.min_lines:
                    continue
                target.write(
                    name,
                    f"{file.record_id}_{file.file_id}_{segment}.png",
                    encode_png(image, options.depth),
                )
                result.images[name] += 1
                result.clipped += bool(image.max() > largest)
            before, done = done, done + len(found.images)
            if progress is not None and (done // _STEP > before // _STEP or done == total):
                progress(done, total)
    return result


def group_name(group: str) -> str:
    """Return a group's name as a file system takes it; a hostile extension leads nowhere.

    No extension at all, as of a name that ends in a dot, is ``%``.

    Examples
    --------
    >>> group_name("py"), group_name("C++"), group_name(".."), group_name("a/b")
    ('py', 'C++', '%2E%2E', 'a%2Fb')
    """
    quoted = quote(group[:_LONGEST_NAME], safe=" +#()'!,=@~")
    if quoted.startswith("."):
        quoted = quoted.replace(".", "%2E")
    return quoted[: 2 * _LONGEST_NAME] or "%"


_OPEN_FILES = 64
"""Tars open at a time: a dataset has thousands of extensions, a process fewer handles."""

_PARTIAL = ".partial"


class FolderTarget:
    """Writes each image to ``<folder>/<group>/<name>``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def write(self, group: str, name: str, data: bytes) -> None:
        """Write one image."""
        if group not in self._made:
            (self._folder / group).mkdir(parents=True, exist_ok=True)
            self._made.add(group)
        (self._folder / group / name).write_bytes(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: every file is closed."""


class TarTarget:
    """Appends each image to ``<folder>/<group>.tar``; a context manager.

    All groups grow at once, so that the dataset is read once. A tar is a row of
    headers and bodies, and can be closed and taken up again at any of them; it
    gets its name when the last image is in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._groups: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, group: str, name: str, data: bytes) -> None:
        """Append one image, as ``<group>/<name>``; owner and time are not recorded."""
        member = tarfile.TarInfo(f"{group}/{name}")
        member.size = len(data)
        stream = self._stream(group)
        stream.write(member.tobuf(tarfile.PAX_FORMAT))
        stream.write(data)
        stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def _stream(self, group: str) -> IO[bytes]:
        if group in self._open:
            self._open.move_to_end(group)
            return self._open[group]
        if len(self._open) == _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        # What a run before this one left unfinished is not continued.
        stream = self._path(group, _PARTIAL).open("ab" if group in self._groups else "wb")
        self._groups.add(group)
        self._open[group] = stream
        return stream

    def _path(self, group: str, suffix: str = "") -> Path:
        return self._folder / f"{group}.tar{suffix}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End all tars; on an error, remove them."""
        try:
            for group in sorted(self._groups):
                if kind is None:
                    self._stream(group).write(bytes(2 * tarfile.BLOCKSIZE))
        finally:
            for stream in self._open.values():
                stream.close()
            self._open.clear()
        for group in self._groups:
            partial = self._path(group, _PARTIAL)
            if kind is None:
                partial.replace(self._path(group))
            else:
                partial.unlink(missing_ok=True)
