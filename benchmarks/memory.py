"""Peak memory of each stage, in a process of its own, for one record that holds the whole corpus.

What a stage may need does not depend on the record's size: the rows for one and
four copies of the corpus in a single archive are the same but for the row lists.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from archive_to_commit import ON_THIS_DISK
from comparison import RESULTS, peak_memory
from corpus import archives

import zml_dask as zml
from zml_dask.records.parse import parse_record
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage

MIB = 2**20


def one_archive(path: Path, copies: int) -> None:
    """Put every file of the corpus into one zip, `copies` times under other folders."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for copy in range(copies):
            for archive in archives():
                with zipfile.ZipFile(archive) as source:
                    for member in source.infolist():
                        name = f"copy{copy}/{archive.stem}/{member.filename}"
                        target.writestr(name, source.read(member))


def load(_: Path) -> int:
    """Import what a worker imports, and compile the loops: the floor."""
    zml.rasterize("x")
    from zml_dask.store.commit import tasks  # noqa: F401
    from zml_dask.store.staging.stager import RecordStager  # noqa: F401

    return 0


def stage(folder: Path) -> int:
    """Process the record into staging."""
    path = folder / "all.zip"
    hit = {"id": 1, "files": [{"key": path.name, "url": path.as_uri()}], "metadata": {}}
    outcome = zml.process(
        parse_record(hit, trusted=True), folder / "dataset", catalogue=ON_THIS_DISK
    )
    if outcome.failure is not None:
        raise RuntimeError(outcome.failure.message)
    return outcome.n_images


def write(folder: Path) -> int:
    """Commit it, every shard in this one process."""
    return commit(Storage.open(folder / "dataset")).counts.images


def peak(job: Callable[[Path], int], folder: Path) -> tuple[int, int]:
    """Run `job` in a fresh process; return its peak resident memory in bytes, and its count."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (job, folder))


def _measured(job: Callable[[Path], int], folder: Path) -> tuple[int, int]:
    count = job(folder)
    return peak_memory(), count


def main() -> None:
    rows = []
    for copies in (1, 4):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            one_archive(folder / "all.zip", copies)
            size = (folder / "all.zip").stat().st_size
            for job in (load, stage, write):
                used, images = peak(job, folder)
                rows.append((job.__name__, images, size, used))
                print(f"{job.__name__:<6} {images:>8,} images of one record: {used / MIB:,.0f} MiB")
    RESULTS.mkdir(exist_ok=True)
    kept = {
        "title": "Peak memory by stage",
        "rows": [
            {"stage": stage, "images": images, "archive_bytes": size, "bytes": used}
            for stage, images, size, used in rows
        ],
    }
    (RESULTS / "peak-memory-by-stage.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
