"""Archives on disk to a committed dataset: against 2018's job, with exports, and on two cores."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import h5py
from comparison import compare
from corpus import MAX_SOURCE_BYTES, archives
from distributed import Client, LocalCluster
from edition2018 import rasterise_2018

import zml_dask as zml
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.workbench import Source
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record
from zml_dask.store.commit import commit
from zml_dask.store.info import read_info
from zml_dask.store.storage import Storage

ON_THIS_DISK = Source("", trusted=True)
"""Where the corpus's records come from: a catalogue of one's own may name files."""


def catalogue_lines(paths: list[Path], copies: int = 1) -> list[dict[str, object]]:
    """Return hits of a catalogue of one's own, whose files are on this disk."""
    return [
        {
            "id": 1 + number,
            "metadata": {"title": path.name, "resource_type": {"type": "software"}},
            "files": [{"key": path.name, "size": path.stat().st_size, "url": path.as_uri()}],
        }
        for number, path in enumerate(paths * copies)
    ]


def records_of(paths: list[Path]) -> list[Record]:
    """Return the corpus as records."""
    return [parse_record(hit, trusted=True) for hit in catalogue_lines(paths)]


def edition_2018(paths: list[Path], folder: Path) -> int:
    """Do a 2018 job's work: unpack to disk, rasterise, pickle, one HDF5 dataset a segment."""
    shutil.rmtree(folder, ignore_errors=True)
    images = 0
    for number, path in enumerate(paths):
        unpacked = folder / str(number)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
        segments = {}
        for file in sorted(unpacked.rglob("*")):
            if file.is_file() and file.stat().st_size < MAX_SOURCE_BYTES:
                data = file.read_bytes()
                if b"\0" not in data:  # as ours, so that both do the same work
                    segments[str(file.relative_to(unpacked))] = rasterise_2018(data)
        with Path(folder, f"images_{number}.pkl").open("wb") as target:
            pickle.dump(segments, target)
        with h5py.File(folder / f"images_{number}.h5", "w") as target:
            for name, arrays in segments.items():
                for index, array in enumerate(arrays):
                    target.create_dataset(f"{name}__{index}", data=array)
        images += sum(map(len, segments.values()))
    return images


def without_dask(records: list[Record], folder: Path, export: tuple[str, ...] = ()) -> Storage:
    """Process each record and commit, in this process, on one core."""
    shutil.rmtree(folder, ignore_errors=True)
    storage = Storage.open(folder)
    for record in records:
        outcome = zml.process(
            record, storage, catalogue=ON_THIS_DISK, options=BuildOptions(export=export)
        )
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure.message)
    commit(storage)
    return storage


def with_dask(client: Client, catalogue: Path, folder: Path) -> None:
    """Build the catalogue on a cluster that already stands."""
    shutil.rmtree(folder, ignore_errors=True)
    zml.build(catalogue, folder, client=client, options=BuildOptions(partition_records=1))


def main() -> None:
    paths = archives()
    records = records_of(paths)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        storage = without_dask(records, folder / "sizes")
        info = read_info(storage)
        if info is None:
            raise RuntimeError("nothing was committed")
        images = info.counts.images
        stored = sum(
            storage.size(path) for path in storage.list("images.zarr") if "zarr.json" not in path
        )
        print(f"{len(paths)} archives, {info.counts.files:,} files, {images:,} images")
        print(f"{stored / images:,.0f} bytes an image on disk")
        few = paths[:3]
        compare(
            "Archive to files, 2018's job against ours (three archives)",
            edition_2018(few, folder / "count"),
            "images",
            {
                "2018's job (pickle and HDF5)": partial(edition_2018, few, folder / "2018"),
                "zml_dask, with pickle and HDF5": partial(
                    without_dask, records_of(few), folder / "few", ("pickle", "hdf5")
                ),
                "zml_dask, committed Zarr": partial(
                    without_dask, records_of(few), folder / "few-zarr"
                ),
            },
            rounds=3,
        )
        compare(
            "Archive to commit, one core",
            images,
            "images",
            {
                "committed Zarr": partial(without_dask, records, folder / "zarr"),
                "with pickle": partial(without_dask, records, folder / "pickle", ("pickle",)),
                "with pickle and HDF5": partial(
                    without_dask, records, folder / "both", ("pickle", "hdf5")
                ),
            },
        )
        copies = 12
        catalogue = folder / "catalogue.jsonl"
        catalogue.write_text("\n".join(map(json.dumps, catalogue_lines(paths, copies))) + "\n")
        clusters = [
            LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None, silence_logs=50)
            for n in (1, 2)
        ]
        clients = [Client(cluster) for cluster in clusters]
        compare(
            "The build on one worker and on two",
            images * copies,
            "images",
            {
                f"{n} worker{'s' if n > 1 else ''}": partial(
                    with_dask, client, catalogue, folder / f"workers-{n}"
                )
                for n, client in enumerate(clients, 1)
            },
            rounds=3,
        )
        for client, cluster in zip(clients, clusters, strict=True):
            client.close()
            cluster.close()


if __name__ == "__main__":
    main()
