"""Images as lossless grey PNGs, a folder or a tar for each language or extension.

The second release of the legacy dataset had this form. Pillow encodes: the best kept of
the libraries that do.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Executor, Report, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import Portion, PortionJob, cut
from zml_dask.query.selection import image_lines
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

Grouping = Literal["language", "extension"]
Depth = Literal[8, 16]

NO_LANGUAGE = "unknown"
"""The group of files whose language is not known."""

_PIECES = "pieces-of-tars"
_PIECE_BYTES = 64 * 2**20
"""Of PNGs, held in memory until they are written."""

_TYPES: Mapping[int, type[np.uint8 | np.uint16]] = {8: np.uint8, 16: np.uint16}
_LONGEST_NAME = 100
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(?=[ .]|\Z)", re.IGNORECASE)
"""What Windows takes for a device, with any ending: ``aux.tar`` too."""


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
    records : int
        That are done.
    pieces : list of (str, str, int, int)
        For tars: a group, and where some of its images lie: object, first byte, byte after.
    """

    images: Counter[str] = field(default_factory=Counter)
    clipped: int = 0
    records: int = 0
    pieces: list[tuple[str, str, int, int]] = field(default_factory=list, compare=False)

    def add(self, other: PngResult) -> None:
        """Add what another task wrote."""
        self.images += other.images
        self.clipped += other.clipped
        self.records += other.records
        self.pieces += other.pieces


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


@dataclass(frozen=True)
class ExportPng(PortionJob[PngResult, PngResult]):
    """Writes every image of a view as a PNG.

    Images for tars lie in pieces until the end, each with some images of several groups.
    """

    options: PngOptions = field(kw_only=True)

    def run(self, task: Portion, context: None) -> PngResult:
        """Write the images of a portion."""
        result = PngResult(records=len(task.record_ids))
        held: dict[str, list[bytes]] = defaultdict(list)
        size = number = 0
        for group, name, image in self._images(task):
            data = encode_png(image, self.options.depth)
            result.images[group] += 1
            result.clipped += bool(image.max() > largest_pixel(self.options.depth))
            if not self.options.tar:
                self.target.write(f"{group}/{name}", data, durable=False)
                continue
            held[group].append(_tar_entry(f"{group}/{name}", data))
            size += len(held[group][-1])
            if size > _PIECE_BYTES:
                result.pieces += self._put(f"{task.number:06d}-{number:03d}", held)
                held.clear()
                size, number = 0, number + 1
        if held:
            result.pieces += self._put(f"{task.number:06d}-{number:03d}", held)
        return result

    def _images(self, task: Portion) -> Iterator[tuple[str, str, NDArray[np.uint32]]]:
        for _, files in task.read(self.snapshot):
            for found in files:
                file = found.file
                group = file.language if self.options.by == "language" else file.extension
                group = group_name(NO_LANGUAGE if group is None else group)
                lines = image_lines(file.n_lines, found.segment, self.snapshot.info.shape.height)
                for image, segment, n_lines in zip(found.images, found.segment, lines, strict=True):
                    if n_lines >= self.options.min_lines:
                        yield group, f"{file.record_id}_{file.file_id}_{segment}.png", image

    def _put(
        self, name: str, held: Mapping[str, list[bytes]]
    ) -> Iterator[tuple[str, str, int, int]]:
        """Write a piece; yield where each group is in it."""
        path, at = f"{_PIECES}/{name}", 0
        self.target.write(
            path, b"".join(data for group in held.values() for data in group), durable=False
        )
        for group, entries in held.items():
            size = sum(map(len, entries))
            yield group, path, at, at + size
            at += size

    def finish(self, results: Iterator[PngResult]) -> PngResult:
        """Add up what was written, and put tars together in the dataset's order."""
        total = PngResult()
        for result in results:
            total.add(result)
        pieces, taken = sorted(total.pieces), set[str]()
        with TemporaryDirectory(prefix="png-") as scratch:
            for group, parts in groupby(pieces, itemgetter(0)):
                local = Path(scratch, "group.tar")
                with local.open("wb") as tar:
                    for _, path, start, stop in parts:
                        tar.write(self.target.read_range(path, start, stop))
                    tar.write(bytes(2 * tarfile.BLOCKSIZE))
                name = group
                while name.casefold() in taken:  # `Makefile`, and not every file system knows case
                    name += "%~"
                taken.add(name.casefold())
                self.target.publish(local, f"{name}.tar")
        return total

    def report(self, result: PngResult) -> Report:
        """Count records."""
        return Report(done=result.records, n_images=result.images.total())


def _tar_entry(name: str, data: bytes) -> bytes:
    """One file of a tar; owner and time are not recorded."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def export_png(
    dataset: str | Path | Storage | Dataset,
    target: str | Path | Storage,
    options: PngOptions | None = None,
    *,
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> PngResult:
    """Write every image of a dataset, or of a view, as ``<record>_<file>_<segment>.png``.

    The numbers in a name lead back through the tables to the record, the file and
    the lines.

    Parameters
    ----------
    target : str, path or Storage
        Gets a folder, or with `tar` a file ``<group>.tar``, for each group.

    Raises
    ------
    UsageError
        If nothing is committed in `dataset`.
    """
    view = dataset if isinstance(dataset, Dataset) else Dataset(Snapshot.open(dataset))
    storage = Storage.open(target)
    job = ExportPng(view.snapshot, storage, tuple(cut(view)), options=options or PngOptions())
    try:
        return run_job(job, executor or SerialExecutor(), progress=progress)
    finally:
        storage.remove(storage.list(_PIECES))
        storage.prune(_PIECES)


def group_name(group: str) -> str:
    """Return a group's name as every file system takes it; a hostile extension leads nowhere.

    No extension at all, as of a name that ends in a dot, is ``%``.

    Examples
    --------
    >>> group_name("py"), group_name("C++"), group_name(".."), group_name("a/b")
    ('py', 'C++', '%2E%2E', 'a%2Fb')
    >>> group_name("AUX"), group_name("a ")  # Windows would open a device, and drop the space
    ('%41UX', 'a%20')
    """
    quoted = quote(group[:_LONGEST_NAME], safe=" +#()'!,=@~")
    if quoted.startswith("."):
        quoted = quoted.replace(".", "%2E")
    quoted = quoted[: 2 * _LONGEST_NAME]
    if quoted.endswith((".", " ")):
        quoted = f"{quoted[:-1]}%{ord(quoted[-1]):02X}"
    if _DEVICES.match(quoted):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return quoted or "%"
