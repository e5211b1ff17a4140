"""Images as lossless grey PNGs, a folder or a tar for each language or extension.

The first edition's second release had this form. Pillow encodes: the best kept of
the libraries that do.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from zml_dask.errors import UsageError
from zml_dask.publish.png_targets import FolderTarget, TarTarget
from zml_dask.query.reading import ImageReader
from zml_dask.store.arrays import open_arrays
from zml_dask.store.info import DatasetInfo, committed_info
from zml_dask.store.layout import IMAGES, IMAGES_ZARR
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_record_ids, read_table

Grouping = Literal["language", "extension"]
Depth = Literal[8, 16]
Progress: TypeAlias = Callable[[int, int], None]

NO_LANGUAGE = "unknown"
"""The group of files whose language is not known."""

_BLOCK = 16 * IMAGES.chunk
"""Images read at once: 26 MB at 80 by 80."""

_TYPES: Mapping[int, type[np.uint8 | np.uint16]] = {8: np.uint8, 16: np.uint16}
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class PngOptions:
    """How images become PNGs.

    Attributes
    ----------
    by : {"language", "extension"}
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


def export_png(
    dataset: str | Path | Storage,
    folder: Path,
    options: PngOptions | None = None,
    *,
    progress: Progress | None = None,
) -> PngResult:
    """Write every image of a dataset as ``<record>_<file>_<segment>.png``.

    The dataset is read once, from front to back, a few chunks at a time. The
    numbers in a name lead back through the tables to the record, the file and
    the lines.

    Parameters
    ----------
    dataset : str, path or Storage
    folder : pathlib.Path
        Gets a folder, or with `tar` a file ``<group>.tar``, for each group.
    options : PngOptions, optional
    progress : callable, optional
        Told images read and images in all.

    Returns
    -------
    PngResult

    Raises
    ------
    NoDatasetError
        If nothing is committed in `dataset`.
    """
    options = options or PngOptions()
    storage = Storage.open(dataset)
    info = committed_info(storage)
    groups = _Groups.load(storage, info, options.by)
    result = PngResult()
    largest = np.iinfo(_TYPES[options.depth]).max
    with TarTarget(folder) if options.tar else FolderTarget(folder) as target:
        for block in _blocks(storage, info):
            for image, record_id, file_id, segment, n_lines in block:
                name = groups.name_of(file_id, record_id)
                if name is None or n_lines < options.min_lines:
                    continue
                target.write(
                    name, f"{record_id}_{file_id}_{segment}.png", encode_png(image, options.depth)
                )
                result.images[name] += 1
                result.clipped += bool(image.max() > largest)
            if progress is not None:
                progress(block.stop, info.counts.images)
    return result


@dataclass(frozen=True, slots=True)
class _Groups:
    """Which group each file belongs to.

    Attributes
    ----------
    names : list of str
        Fit for a file system.
    codes : numpy.ndarray of int32, shape (files,)
        Number of the file's group; `file_id` counts from zero.
    withdrawn : frozenset of int
        Records that are not to be shown.
    """

    names: list[str]
    codes: NDArray[np.int32]
    withdrawn: frozenset[int]

    @classmethod
    def load(cls, storage: Storage, info: DatasetInfo, by: Grouping) -> _Groups:
        table = read_table(storage, info, "files", ["file_id", by])
        column = table[by].fill_null(NO_LANGUAGE).combine_chunks().dictionary_encode()
        codes = np.zeros(len(table), np.int32)
        codes[table["file_id"].to_numpy()] = column.indices.to_numpy(zero_copy_only=False)
        withdrawn = frozenset(read_record_ids(storage, info, "withdrawn"))
        names = [group_name(name) for name in column.dictionary.to_pylist()]
        return cls(names, codes, withdrawn)

    def name_of(self, file_id: int, record_id: int) -> str | None:
        """Name of a file's group; None where it is not to be shown."""
        if record_id in self.withdrawn:
            return None
        return self.names[int(self.codes[file_id])]


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


class _Block:
    """Some images with what the names need."""

    def __init__(self, storage: Storage, info: DatasetInfo, start: int, stop: int) -> None:
        self.stop = stop
        self._images = ImageReader(storage, info.shape).read(np.arange(start, stop))
        group = open_arrays(storage)
        self._columns: list[list[int]] = []
        for name in ("record_id", "file_id", "segment", "n_lines"):
            array = group[name]
            if not isinstance(array, zarr.Array):
                raise UsageError(f"{IMAGES_ZARR}/{name} is no array; run zml-dask verify")
            self._columns.append(np.asarray(array[start:stop]).tolist())

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint32], int, int, int, int]]:
        yield from zip(self._images, *self._columns, strict=True)


def _blocks(storage: Storage, info: DatasetInfo) -> Iterator[_Block]:
    for start in range(0, info.counts.images, _BLOCK):
        yield _Block(storage, info, start, min(start + _BLOCK, info.counts.images))
