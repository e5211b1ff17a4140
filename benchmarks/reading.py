"""Chunk and shard sizes weighed by three real uses, on this disk and over HTTP.

Scan everything, select a language, draw random batches: from datasets that differ in
nothing but their layout, read by the package on this disk and from a server twenty
milliseconds away, and for chunk sizes by zarr-python and, where it is installed, zarrs.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import zarr
from archive_to_commit import records_of, without_dask
from comparison import compare, keep_values
from corpus import archives
from numpy.typing import NDArray

import zml_dask as zml
from zml_dask.store import layout

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
from range_server import RangeServer

BATCH = 256
AT_ONCE = 4096
"""Images that a scan asks for at a time."""
DELAY = 0.02
"""Seconds before the server's answers: another city's."""


@dataclass(frozen=True)
class Layout:
    """How many images go into a chunk and a shard."""

    chunk: int = layout.IMAGES.chunk
    shard: int = layout.IMAGES.shard

    def __str__(self) -> str:
        return f"chunks of {self.chunk}, shards of {self.shard:,}"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have the package write and read in this layout."""
        images = replace(layout.IMAGES, chunk=self.chunk, shard=self.shard)
        with mock.patch.object(layout, "IMAGES", images):
            yield


CHUNKS = (Layout(chunk=16), Layout(), Layout(chunk=256))
LAYOUTS = (*CHUNKS, Layout(shard=1024), Layout(shard=16_384))

Rows = list[NDArray[np.int64]]


def uses(dataset: zml.Dataset) -> dict[str, Rows]:
    """Return the rows that each use reads, as it asks for them."""
    n = len(dataset)
    chosen = dataset.select("language == 'JSON'").rows.positions()
    generator = np.random.default_rng(7)
    return {
        "scan everything": [
            np.arange(start, min(n, start + AT_ONCE)) for start in range(0, n, AT_ONCE)
        ],
        "select a language": [chosen],
        "random batches": [np.sort(generator.choice(n, BATCH, replace=False)) for _ in range(8)],
    }


def by_package(url: str, layout: Layout, rows: Rows) -> None:
    with layout.in_force():
        reader = zml.open_dataset(url).snapshot.images
        for some in rows:
            reader.read(some)


def by_zarr(path: Path, pipeline: str, rows: Rows) -> None:
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array = zarr.open_array(path / "images.zarr" / "images", mode="r")
        for some in rows:
            for part in np.split(some, np.flatnonzero(np.diff(some // AT_ONCE)) + 1):
                if part[-1] - part[0] + 1 == part.size:
                    array[part[0] : part[-1] + 1]
                else:
                    array.oindex[part]


def pipelines() -> dict[str, str]:
    """Return the codec pipelines of zarr-python that are installed."""
    found = {"zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
    if importlib.util.find_spec("zarrs"):
        found["zarrs"] = "zarrs.ZarrsCodecPipeline"
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name, RangeServer(Path(name)) as server:
        folders: dict[Layout, Path] = {}
        for number, each in enumerate(LAYOUTS):
            folders[each] = Path(name, str(number))
            with each.in_force():
                without_dask(records_of(archives()), folders[each])
        values: dict[str, object] = {}
        for each, folder in folders.items():
            shards = list((folder / "images.zarr/images/c").rglob("*/0/0"))
            stored = sum(path.stat().st_size for path in shards)
            n = len(zml.open_dataset(folder))
            values[f"{each}: bytes an image, files a million images"] = (
                f"{stored / n:,.0f}, {1e6 / each.shard:,.0f}"
            )
        for use, rows in uses(zml.open_dataset(folders[Layout()])).items():
            total = sum(map(len, rows))
            here: dict[str, Callable[[], object]] = {}
            away: dict[str, Callable[[], object]] = {}
            for each, folder in folders.items():
                here[str(each)] = partial(by_package, str(folder), each, rows)
                url = f"{server.url}/{folder.name}"
                away[str(each)] = partial(by_package, url, each, rows)
                server.sent.clear()
                away[str(each)]()
                sent = [size for path, size in server.sent if "/images/c/" in path]
                values[f"{each}: bytes read an image, {use}"] = (
                    f"{sum(sent) / total:,.0f} in {len(sent):,} requests"
                )
            for pipeline, path in pipelines().items():
                for each in CHUNKS:
                    here[f"chunks of {each.chunk}, {pipeline}"] = partial(
                        by_zarr, folders[each], path, rows
                    )
            compare(f"Reading: {use} ({total:,} images)", total, "images", here, rounds=3)
            server.delay = DELAY
            title = f"Reading over HTTP, {DELAY * 1000:.0f} ms away: {use}"
            compare(title, total, "images", away, rounds=3)
            server.delay = 0.0
        keep_values("Reading: what chunk and shard sizes cost", "reading-what-sizes-cost", values)


if __name__ == "__main__":
    main()
