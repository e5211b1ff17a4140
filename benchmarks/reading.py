"""Chunk sizes weighed by three real uses: scan everything, select a language, draw random batches.

The same images in chunks of 16, 64 and 256, in shards of 4,096, with the dataset's
codec; read by zarr-python and, where it is installed, by zarrs. Bytes read are
counted at the store; a store far away costs by them and by the number of reads.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from archive_to_commit import records_of, without_dask
from comparison import RESULTS, compare
from corpus import archives
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

import zml_dask as zml

SHARD = 4096
CHUNKS = (16, 64, 256)
BATCH = 256


class CountingStore(LocalStore):
    """A folder that counts what is read from it."""

    bytes_read = 0
    reads = 0

    async def get(self, *arguments: object, **keywords: object) -> object:
        buffer = await super().get(*arguments, **keywords)  # type: ignore[arg-type]
        if buffer is not None:
            type(self).bytes_read += len(buffer)
            type(self).reads += 1
        return buffer


def write(images: NDArray[np.uint32], path: Path, chunk: int) -> None:
    """Write the images in chunks of `chunk`, each one Blosc block."""
    block = chunk * 80 * 80 * 4
    array = zarr.create_array(
        path,
        shape=images.shape,
        dtype="uint32",
        chunks=(chunk, 80, 80),
        shards=(SHARD, 80, 80),
        fill_value=32,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", blocksize=block),
    )
    array[:] = images


def scan(array: zarr.Array) -> None:
    for start in range(0, array.shape[0], SHARD):
        array[start : start + SHARD]


def take(array: zarr.Array, rows: Iterable[NDArray[np.int64]]) -> None:
    for some in rows:
        array.oindex[some]


def pipelines() -> list[str]:
    """Return the codec pipelines that are installed."""
    return ["zarr-python", *(["zarrs"] if importlib.util.find_spec("zarrs") else [])]


def use_pipeline(name: str) -> None:
    path = "zarrs.ZarrsCodecPipeline" if name == "zarrs" else None
    default = "zarr.core.codec_pipeline.BatchedCodecPipeline"
    zarr.config.set({"codec_pipeline.path": path or default})


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without_dask(records_of(archives()), folder / "dataset")
        dataset = zml.open_dataset(folder / "dataset")
        n = len(dataset.images) // SHARD * SHARD
        files = dataset.files
        files = files[files.first_image + files.n_images <= n]
        chosen = files[files.language == "JSON"]
        selected = np.concatenate(
            [
                np.arange(first, first + count)
                for first, count in zip(chosen.first_image, chosen.n_images, strict=True)
            ]
        )
        by_shard = [
            part
            for part in np.split(selected, np.searchsorted(selected, range(SHARD, n, SHARD)))
            if part.size
        ]
        generator = np.random.default_rng(7)
        batches = [np.sort(generator.choice(n, BATCH, replace=False)) for _ in range(8)]
        uses: dict[str, tuple[int, Callable[[zarr.Array], None]]] = {
            "scan everything": (n, scan),
            "select a language": (selected.size, partial(take, rows=by_shard)),
            "random batches": (BATCH * len(batches), partial(take, rows=batches)),
        }
        images = np.asarray(dataset.images[:n])
        sizes: dict[str, str] = {}
        for chunk in CHUNKS:
            write(images, folder / f"{chunk}.zarr", chunk)
            stored = sum(
                f.stat().st_size for f in (folder / f"{chunk}.zarr").rglob("*") if f.is_file()
            )
            sizes[f"chunks of {chunk}: bytes an image on disk"] = f"{stored / n:,.0f}"
        del images
        for use, (rows, job) in uses.items():
            variants: dict[str, Callable[[], object]] = {}
            for pipeline in pipelines():
                for chunk in CHUNKS:
                    path = folder / f"{chunk}.zarr"

                    def run(
                        path: Path = path,
                        pipeline: str = pipeline,
                        job: Callable[[zarr.Array], None] = job,
                    ) -> None:
                        use_pipeline(pipeline)
                        job(zarr.open_array(path, mode="r"))

                    variants[f"chunks of {chunk}, {pipeline}"] = run
            compare(f"Reading: {use} ({rows:,} images)", rows, "images", variants, rounds=3)
            use_pipeline("zarr-python")
            for chunk in CHUNKS:
                CountingStore.bytes_read = CountingStore.reads = 0
                job(
                    zarr.open_array(
                        CountingStore(folder / f"{chunk}.zarr", read_only=True), mode="r"
                    )
                )
                sizes[f"chunks of {chunk}: bytes read an image, {use}"] = (
                    f"{CountingStore.bytes_read / rows:,.0f} in {CountingStore.reads:,} reads"
                )
    for name, value in sizes.items():
        print(f"{name:<60}{value}")
    RESULTS.mkdir(exist_ok=True)
    kept = {"title": "Reading: what chunk sizes cost", "values": sizes}
    (RESULTS / "reading-what-chunk-sizes-cost.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
