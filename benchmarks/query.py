"""A million images: opening, selecting, and reading what was selected, by three readers.

The dataset is one shard of drawn code, linked 245 times, with tables as long as
they would be. Read by the package, by zarr-python, and, where it is installed, by
zarr-python with zarrs' codec pipeline.
"""

# ruff: noqa: SLF001 - requests are counted where they are made

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zarr
from comparison import compare, keep_values
from numpy.typing import NDArray

import zml_dask as zml
from zml_dask.store.local_storage import LocalStorage
from zml_dask.store.storage import Range

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
from large_dataset import write_large_dataset

SHARD = 4096
FORTRAN = "language == 'Fortran'"
FORTRAN_OF_MIT = f"{FORTRAN} and license == 'mit'"

Reader = Callable[[NDArray[np.int64]], object]


def milliseconds(job: Callable[[], object], rounds: int = 5) -> float:
    """Best time of several, the first one not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1000


def counted(job: Callable[[], object]) -> tuple[int, int]:
    """Requests and bytes that a job reads of the images."""
    sizes: list[int] = []
    read_ranges = LocalStorage._read_ranges

    def count(storage: LocalStorage, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        found = read_ranges(storage, ranges)
        for (path, _, _), data in zip(ranges, found, strict=True):
            if path.startswith("images.zarr/images") and isinstance(data, bytes):
                sizes.append(len(data))
        return found

    LocalStorage._read_ranges = count  # type: ignore[method-assign]
    try:
        job()
    finally:
        LocalStorage._read_ranges = read_ranges  # type: ignore[method-assign]
    return len(sizes), sum(sizes)


def zarr_reader(folder: Path, pipeline: str | None) -> Reader:
    """Read rows with zarr-python, shard by shard."""
    with zarr.config.set({"codec_pipeline.path": pipeline} if pipeline else {}):
        array = zarr.open_array(folder / "images.zarr" / "images", mode="r")

    def read(rows: NDArray[np.int64]) -> list[object]:
        edges = np.flatnonzero(np.diff(rows // SHARD)) + 1
        parts = np.split(rows, edges)
        return [
            array[part[0] : part[-1] + 1]
            if part[-1] - part[0] + 1 == part.size
            else array.oindex[part]
            for part in parts
        ]

    return read


def facts(folder: Path) -> dict[str, object]:
    """Times and bytes of what a user does first."""

    def select(where: str) -> zml.Dataset:
        view = zml.open_dataset(folder).select(where)
        _ = view.images
        return view

    view = select(FORTRAN_OF_MIT)
    requests, size = counted(lambda: view.images.compute(scheduler="synchronous"))
    shard = (folder / "images.zarr/images/c/0/0/0").stat().st_size
    chunks = np.unique(view.rows.positions() // 64).size
    needed = chunks * (shard - 1028) / 64
    return {
        "images": f"{len(zml.open_dataset(folder)):,}",
        "opening": f"{milliseconds(lambda: zml.open_dataset(folder)):.1f} ms",
        f"selecting {FORTRAN!r} and its array": f"{milliseconds(lambda: select(FORTRAN)):.0f} ms",
        f"selecting {FORTRAN_OF_MIT!r}": f"{milliseconds(lambda: select(FORTRAN_OF_MIT)):.0f} ms",
        "images of the latter": f"{len(view):,}",
        "bytes read for them, of those of their chunks": f"{size / needed:.3f}",
        "ranges read for them, of their chunks": f"{requests:,} of {chunks:,}",
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "ds")
        write_large_dataset(folder)
        keep_values("Asking a million images", "asking-a-million-images", facts(folder))
        readers: dict[str, Reader] = {"the package": zml.open_dataset(folder).snapshot.images.read}
        readers["zarr-python"] = zarr_reader(folder, None)
        if importlib.util.find_spec("zarrs"):
            readers["zarr-python with zarrs"] = zarr_reader(folder, "zarrs.ZarrsCodecPipeline")
        view = zml.open_dataset(folder).select(FORTRAN_OF_MIT)
        for title, rows in (
            ("Reading two whole shards", np.arange(2 * SHARD)),
            ("Reading one image in a hundred of thirty shards", view.rows.positions(0, 1200)),
        ):
            jobs = {name: lambda read=read, rows=rows: read(rows) for name, read in readers.items()}  # type: ignore[misc]
            compare(title, rows.size, "images", jobs)


if __name__ == "__main__":
    main()
