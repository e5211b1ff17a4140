"""What 2018's files cost an image: the package's writers, and what no writer of theirs can spare.

Beside each writer stand the parts of it that are a library's or the system's: creating a
dataset and writing a chunk that is ready, deflating, and writing 51,200 bytes; and h5py as
it is mostly used, which is how 2018's job wrote.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from comparison import compare
from density import normalized_files
from h5py import h5d, h5p, h5s, h5t

from zml_dask.legacy.hdf5 import Hdf5Writer, create_file, encode_chunk
from zml_dask.legacy.legacy_record import Canvas
from zml_dask.legacy.pickles import PickleWriter

FILES = 2000

Texts = list[tuple[str, bytes, int]]


def write(writer: Callable[[Path], Hdf5Writer | PickleWriter], path: Path, texts: Texts) -> None:
    """Draw and write files as the export does."""
    canvas = Canvas()
    with writer(path) as target:
        for number, (suffix, text, _) in enumerate(texts):
            target.add(canvas.file(f"a/{number // 20}/f{number}{suffix}", text))


def write_with_h5py(path: Path, texts: Texts) -> None:
    """Write the same datasets by `create_dataset`."""
    canvas = Canvas()
    with h5py.File(path, "w") as target:
        for number, (_, text, _) in enumerate(texts):
            for index, segment in enumerate(canvas.file("a", text).segments()):
                target.create_dataset(
                    f"a/{number // 20}/f{number}__{index}",
                    data=segment.astype(np.int64),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                )


def hdf5_alone(path: Path, chunk: bytes, images: int) -> None:
    """Create datasets and write the same ready chunk into each: no drawing, no deflating."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_chunk((80, 80))
    properties.set_shuffle()
    properties.set_deflate(1)
    space = h5s.create_simple((80, 80))
    file = create_file(path)
    for number in range(images):
        dataset = h5d.create(file, b"%d" % number, h5t.STD_I64LE, space, properties)
        dataset.write_direct_chunk((0, 0), chunk)
    file.close()


def encode_alone(texts: Texts) -> int:
    """Draw and deflate every segment; return the mean size of a chunk in bytes."""
    canvas = Canvas()
    sizes = [
        len(encode_chunk(segment))
        for _, text, _ in texts
        for segment in canvas.file("a", text).segments()
    ]
    return sum(sizes) // len(sizes)


def bytes_alone(path: Path, images: int) -> None:
    """Write what a pickle takes for as many images, 64 at once."""
    data = bytes(64 * 80 * 80 * 8)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, images, 64):
            os.write(file.fileno(), data)


def main() -> None:
    texts = [found for found in normalized_files() if found[2]][:FILES]
    images = sum(count for _, _, count in texts)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        compare(
            "What 2018's files cost",
            images,
            "images",
            {
                "HDF5, h5py's create_dataset": partial(write_with_h5py, folder / "c.h5", texts),
                "HDF5, the package's writer": partial(write, Hdf5Writer, folder / "a.h5", texts),
                "of it creating datasets, writing ready chunks": partial(
                    hdf5_alone, folder / "b.h5", bytes(encode_alone(texts)), images
                ),
                "of it drawing and deflating": partial(encode_alone, texts),
                "pickle, the package's writer": partial(
                    write, PickleWriter, folder / "a.pkl", texts
                ),
                "of it writing as many bytes": partial(bytes_alone, folder / "b.pkl", images),
            },
        )


if __name__ == "__main__":
    main()
