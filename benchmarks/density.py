"""Bytes an image on disk: by codec, by chunk, by kind of file; and the text's own floor.

Of two corpora: the Python wheels that the other benchmarks share, and the packages of
fifteen languages that `real_packages.py` gathers, which are nearer to what Zenodo holds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np
import real_packages
import zstandard
from archive_to_commit import without_dask
from comparison import keep_values
from corpus import CACHE, MAX_SOURCE_BYTES, archives
from numcodecs import blosc

from zml_dask.raster.images import draw_settled
from zml_dask.raster.text import settle_text
from zml_dask.records.parse import parse_record
from zml_dask.store.info import read_info

PIXELS = 80 * 80 * 4


def settled_files() -> list[tuple[str, bytes, int]]:
    """Return extension, settled text and number of images of every text file, in path order."""
    found = []
    for path in archives():
        with ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                if member.is_dir() or member.file_size > MAX_SOURCE_BYTES:
                    continue
                data = archive.read(member)
                if b"\0" not in data:
                    text = settle_text(data)
                    suffix = PurePosixPath(member.filename).suffix
                    found.append((suffix, text.text, text.n_images()))
    return found


def per_image(files: list[tuple[str, bytes, int]], level: int, chunk: int) -> float:
    """Return the mean size of an image, in bytes, in chunks of one Blosc block."""
    n = sum(count for _, _, count in files)
    images = np.empty((n, 80, 80), np.uint32)
    draw_settled([text for _, text, _ in files], images, np.empty(n, np.uint8))
    parts = (images[start : start + chunk] for start in range(0, n, chunk))
    packed = (
        len(blosc.compress(part, b"zstd", level, blosc.SHUFFLE, chunk * PIXELS)) for part in parts
    )
    return sum(packed) / n


def of_packages() -> tuple[int, float]:
    """Return images, and the mean size of one in bytes, of a dataset of many languages."""
    folder = CACHE / "packages"
    catalogue = folder / "catalogue.jsonl"
    if not catalogue.exists():
        real_packages.main(folder)
    hits = map(json.loads, catalogue.read_text().splitlines())
    with tempfile.TemporaryDirectory() as name:
        storage = without_dask([parse_record(hit, trusted=True) for hit in hits], Path(name))
        info = read_info(storage)
        if info is None:
            raise RuntimeError("nothing was committed")
        stored = sum(storage.size(path) for path in storage.list("images.zarr/images/c"))
        return info.counts.images, stored / info.counts.images


def main() -> None:
    packages_images, packages_bytes = of_packages()
    files = settled_files()
    images = sum(count for _, _, count in files)
    text = b"".join(text for _, text, _ in files)
    python = [file for file in files if file[0] == ".py"]
    others = [file for file in files if file[0] != ".py"]
    values = {
        f"packages of fifteen languages ({packages_images:,} images)": f"{packages_bytes:,.0f} B",
        "Python wheels: text an image": f"{len(text) / images:,.0f} B",
        "text under zstd-19, all of it in one stream (a floor)": (
            f"{len(zstandard.compress(text, 19)) / images:,.0f} B"
        ),
        "the dataset's codec: level 1, chunks of 64": f"{per_image(files, 1, 64):,.0f} B",
        "level 3, chunks of 64": f"{per_image(files, 3, 64):,.0f} B",
        "level 9, chunks of 64": f"{per_image(files, 9, 64):,.0f} B",
        "level 1, chunks of 256": f"{per_image(files, 1, 256):,.0f} B",
        "the dataset's codec, Python files only": f"{per_image(python, 1, 64):,.0f} B",
        "the dataset's codec, all other files": f"{per_image(others, 1, 64):,.0f} B",
    }
    keep_values("Bytes an image", "bytes-an-image", values)


if __name__ == "__main__":
    main()
