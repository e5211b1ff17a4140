"""Archives on disk to a committed dataset: against 2018's job, with exports, and on two cores.

Two workers are held against one, and beside them two processes without Dask against one: they
share nothing but the machine, so that what they do not reach no scheduler can.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import distributed
import h5py
from comparison import compare
from corpus import MAX_SOURCE_BYTES, archives
from edition2018 import rasterise_2018

import zml_dask as zml
from zml_dask.engine.clusters import open_cluster
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record
from zml_dask.store.commit import CommitOptions, commit
from zml_dask.store.info import read_info
from zml_dask.store.layout import DEFAULT_LEVEL
from zml_dask.store.storage import Storage

ON_THIS_DISK = Catalogue("", trusted=True)
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


def without_dask(
    records: list[Record], folder: Path, export: tuple[str, ...] = (), level: int = 1
) -> Storage:
    """Process each record and commit, in this process, on one core.

    At the level of compression that the aims were set with.
    """
    shutil.rmtree(folder, ignore_errors=True)
    storage = Storage.open(folder)
    for record in records:
        outcome = zml.process(
            record, storage, catalogue=ON_THIS_DISK, options=BuildOptions(export=export)
        )
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure.message)
    commit(storage, CommitOptions(level=level))
    return storage


def write_catalogue(path: Path, paths: list[Path], copies: int = 1) -> Path:
    """Write the corpus as a catalogue."""
    path.write_text("\n".join(map(json.dumps, catalogue_lines(paths, copies))) + "\n")
    return path


def with_dask(catalogue: Path, folder: Path) -> None:
    """Build a catalogue on the cluster that is open."""
    shutil.rmtree(folder, ignore_errors=True)
    zml.build(catalogue, folder, client=distributed.get_client())


@contextmanager
def warm_cluster(workers: int, catalogue: Path, folder: Path) -> Iterator[None]:
    """Open a cluster as the command does, and have its workers load what they need."""
    with open_cluster("local", workers):
        with_dask(catalogue, folder)
        yield


def many_times(paths: list[Path], copies: int, folder: Path) -> None:
    """Build the corpus without Dask as often as the catalogue has it."""
    for _ in range(copies):
        without_dask(records_of(paths), folder)


def in_processes(
    pool: ProcessPoolExecutor, processes: int, paths: list[Path], copies: int, folder: Path
) -> None:
    """Build as much without Dask, in processes that know nothing of each other."""
    share = copies // processes
    running = [
        pool.submit(many_times, paths, share, folder / str(number)) for number in range(processes)
    ]
    for process in running:
        process.result()


@contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Remove a variant's files off the clock, before the system begins to write them to the disk.

    Else the next variant is timed together with the disk's work for this one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    yield
    shutil.rmtree(folder)


def against_2018(paths: list[Path], folder: Path) -> None:
    """Hold 2018's job against ours, on few archives: it takes its time."""
    few = paths[:3]
    records = records_of(few)
    target = folder / "few"
    variants: dict[str, Callable[[], object]] = {
        "2018's job (pickle and HDF5)": partial(edition_2018, few, target),
        "zml_dask, with pickle and HDF5": partial(
            without_dask, records, target, ("pickle", "hdf5")
        ),
        "zml_dask, committed Zarr": partial(without_dask, records, target),
    }
    compare(
        "Archive to files, 2018's job against ours (three archives)",
        edition_2018(few, folder / "count"),
        "images",
        variants,
        rounds=3,
        around={name: partial(cleared, target) for name in variants},
    )


def with_exports(paths: list[Path], images: int, folder: Path) -> None:
    """Hold builds on one core with and without 2018's files against each other."""
    records = records_of(paths)
    variants: dict[str, tuple[tuple[str, ...], int]] = {
        "committed Zarr": ((), 1),
        f"at the default level, {DEFAULT_LEVEL}": ((), DEFAULT_LEVEL),
        "with pickle": (("pickle",), 1),
        "with pickle and HDF5": (("pickle", "hdf5"), 1),
    }
    compare(
        "Archive to commit, one core",
        images,
        "images",
        {
            name: partial(without_dask, records, folder / "one", *given)
            for name, given in variants.items()
        },
        around={name: partial(cleared, folder / "one") for name in variants},
    )


def on_two_cores(paths: list[Path], images: int, folder: Path) -> None:
    """Hold two workers against one, and two processes without Dask against one."""
    copies = 12
    catalogue = write_catalogue(folder / "catalogue.jsonl", paths, copies)
    once = write_catalogue(folder / "once.jsonl", paths)
    workers = {"1 worker": 1, "2 workers": 2}
    processes = {"1 process without Dask": 1, "2 processes without Dask": 2}
    with ProcessPoolExecutor(2) as pool:
        compare(
            "The build on one worker and on two",
            images * copies,
            "images",
            {
                **{name: partial(with_dask, catalogue, folder / "dask") for name in workers},
                **{
                    name: partial(in_processes, pool, n, paths, copies, folder / "alone")
                    for name, n in processes.items()
                },
            },
            around={
                name: partial(warm_cluster, n, once, folder / "warm") for name, n in workers.items()
            },
        )


def main() -> None:
    paths = archives()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        storage = without_dask(records_of(paths), folder / "sizes")
        info = read_info(storage)
        if info is None:
            raise RuntimeError("nothing was committed")
        images = info.counts.images
        stored = sum(
            storage.size(path) for path in storage.list("images.zarr") if "zarr.json" not in path
        )
        print(f"{len(paths)} archives, {info.counts.files:,} files, {images:,} images")
        print(f"{stored / images:,.0f} bytes an image on disk")
        against_2018(paths, folder)
        with_exports(paths, images, folder)
        on_two_cores(paths, images, folder)


if __name__ == "__main__":
    main()
