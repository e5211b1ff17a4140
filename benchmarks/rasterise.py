"""Bytes to images on one core: the package's way against plainer ones and 2018's."""

from __future__ import annotations

import numpy as np
from comparison import compare
from corpus import sources
from edition2018 import rasterise_2018

from zml_dask.raster.images import rasterize_into, rasterize_utf8
from zml_dask.raster.text import normalize_text

CHUNK = 64


def padded_lines(data: bytes) -> None:
    """Join lines padded by Python's own str methods, encode once a file."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    lines = text.removesuffix("\n").split("\n")
    rows = "".join([line[:80].ljust(80) for line in lines])
    n = -(-len(lines) // 80)
    np.frombuffer(rows.ljust(n * 6400).encode("utf-32-le", "replace"), np.uint32)


def file_at_a_time(files: list[bytes]) -> None:
    """Settle and draw each file into arrays of its own."""
    for data in files:
        normalized = normalize_text(data)
        rasterize_utf8(normalized.text, normalized.n_lines)


def chunk_at_a_time(files: list[bytes]) -> None:
    """Settle all, then draw into one chunk's buffer over and over, as the commit does."""
    images = np.empty((CHUNK, 80, 80), np.uint32)
    n_lines = np.empty(CHUNK, np.uint8)
    batch: list[bytes] = []
    room = CHUNK
    for data in files:
        normalized = normalize_text(data)
        n = normalized.n_images()
        if n > room and batch:
            rasterize_into(batch, images, n_lines)
            batch, room = [], CHUNK
        batch.append(normalized.text)
        room -= n
    rasterize_into(batch, images, n_lines)


def main() -> None:
    files = sources()
    megabytes = sum(map(len, files)) / 1e6
    n_images = sum(normalize_text(data).n_images() for data in files)
    print(f"{len(files):,} files, {megabytes:,.1f} MB, {n_images:,} images")
    tenth = files[::10]
    share = sum(map(len, tenth)) / 1e6
    compare(
        "Rasterising against 2018 (a tenth of the corpus)",
        share,
        "MB",
        {
            "2018's algorithm": lambda: [rasterise_2018(data) for data in tenth],
            "padded lines, one encode a file": lambda: [padded_lines(data) for data in tenth],
            "zml_dask, a file at a time": lambda: file_at_a_time(tenth),
            "zml_dask, into a chunk": lambda: chunk_at_a_time(tenth),
        },
        rounds=3,
    )
    compare(
        "Rasterising, the whole corpus",
        megabytes,
        "MB",
        {
            "padded lines, one encode a file": lambda: [padded_lines(data) for data in files],
            "normalise alone": lambda: [normalize_text(data) for data in files],
            "zml_dask, a file at a time": lambda: file_at_a_time(files),
            "zml_dask, into a chunk": lambda: chunk_at_a_time(files),
        },
    )


if __name__ == "__main__":
    main()
