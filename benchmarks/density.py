"""Bytes per image on disk: by codec, by chunk, by kind of file; the text's own floor; the price.

Of two corpora: the Python wheels that the other benchmarks share, and the packages of
fifteen languages that `real_packages.py` gathers, which are nearer to what Zenodo holds.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np
import real_packages
import zstandard
from archive_to_commit import without_dask
from comparison import compare, keep_values
from corpus import CACHE, MAX_SOURCE_BYTES, archives
from numcodecs import blosc

from zml_dask.raster.images import Images, rasterize_into
from zml_dask.raster.text import normalize_text
from zml_dask.records.parse import parse_record
from zml_dask.store.info import read_info
from zml_dask.store.layout import DEFAULT_LEVEL

PIXELS = 80 * 80 * 4
LEVELS = (1, 2, 3, 4, 6, 9)
"""Of those between, 5, 7 and 8 gain less than one in a hundred."""


def normalized_files() -> list[tuple[str, bytes, int]]:
    """Return extension, normalised text and number of images of every text file, in path order."""
    found = []
    for path in archives():
        with ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                if member.is_dir() or member.file_size > MAX_SOURCE_BYTES:
                    continue
                data = archive.read(member)
                if b"\0" not in data:
                    text = normalize_text(data)
                    suffix = PurePosixPath(member.filename).suffix
                    found.append((suffix, text.text, text.n_images()))
    return found


def drawn(files: list[tuple[str, bytes, int]]) -> Images:
    """Return the images of files."""
    n = sum(count for _, _, count in files)
    images = np.empty((n, 80, 80), np.uint32)
    rasterize_into([text for _, text, _ in files], images, np.empty(n, np.uint8))
    return images


def compressed(images: Images, level: int, chunk: int = 64, shuffle: int = blosc.SHUFFLE) -> int:
    """Compress images in chunks of one Blosc block; return the bytes of all."""
    parts = (images[start : start + chunk] for start in range(0, len(images), chunk))
    return sum(len(blosc.compress(part, b"zstd", level, shuffle, chunk * PIXELS)) for part in parts)


def of_packages() -> tuple[int, float]:
    """Return images, and the mean size of one in bytes, of a dataset of many languages."""
    folder = CACHE / "packages"
    catalogue = folder / "catalogue.jsonl"
    if not catalogue.exists():
        real_packages.main(folder)
    hits = map(json.loads, catalogue.read_text().splitlines())
    with tempfile.TemporaryDirectory() as name:
        records = [parse_record(hit, trusted=True) for hit in hits]
        storage = without_dask(records, Path(name), level=DEFAULT_LEVEL)
        info = read_info(storage)
        if info is None:
            raise RuntimeError("nothing was committed")
        stored = sum(storage.size(path) for path in storage.list("images.zarr/images/c"))
        return info.counts.images, stored / info.counts.images


def main() -> None:
    packages_images, packages_bytes = of_packages()
    files = normalized_files()
    text = b"".join(text for _, text, _ in files)
    images = drawn(files)
    kinds = {
        "Python files only": drawn([file for file in files if file[0] == ".py"]),
        "all other files": drawn([file for file in files if file[0] != ".py"]),
    }
    sizes = {
        f"packages of fifteen languages ({packages_images:,} images)": packages_bytes,
        f"Python wheels ({len(images):,} images): their text": len(text) / len(images),
        "their text under zstd-19, all of it in one stream (a floor)": (
            len(zstandard.compress(text, 19)) / len(images)
        ),
        **{f"level {n}, chunks of 64": compressed(images, n) / len(images) for n in LEVELS},
        "level 1, chunks of 256": compressed(images, 1, 256) / len(images),
        "level 1, bits shuffled": compressed(images, 1, shuffle=blosc.BITSHUFFLE) / len(images),
        "level 1, nothing shuffled": compressed(images, 1, shuffle=blosc.NOSHUFFLE) / len(images),
        **{
            f"the default level, {kind}": compressed(some, DEFAULT_LEVEL) / len(some)
            for kind, some in kinds.items()
        },
    }
    keep_values(
        "Bytes per image",
        "bytes-an-image",
        {name: f"{size:,.0f} B" for name, size in sizes.items()},
    )
    some = images[: 64 * 128]
    compare(
        "What a level of Blosc costs: encoding chunks of 64",
        len(some),
        "images",
        {f"level {n}": partial(compressed, some, n) for n in LEVELS},
        rounds=3,
    )


if __name__ == "__main__":
    main()
