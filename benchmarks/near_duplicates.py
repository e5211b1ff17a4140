"""What near-duplicates cost: signatures of a real or made dataset, and clusters of many.

    python benchmarks/near_duplicates.py signatures DATASET
    python benchmarks/near_duplicates.py clusters FOLDER FILES

The first computes the signatures of a dataset in this process; DATASET may be one of
`make_large.py`. The second makes signatures of so many files, 3 of 10 of them near-copies
of another, in a temporary file in FOLDER, and clusters them as a dataset's are. Both print
seconds of CPU and the largest memory; for the second also that without the pages of the
file, which the system may drop.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

import zml_dask as zml
from zml_dask.derived.near_duplicates import BINS, SIGNED, cluster
from zml_dask.query.dataset import open_dataset

_AT_ONCE = 2**18
_COPIES = 0.3
_CHANGED = 20
"""Numbers of a copy's signature that differ, of 128."""


def signatures(dataset: str) -> None:
    ds = open_dataset(dataset)
    start = time.process_time()
    zml.derive(ds, SIGNED.name, SIGNED.function, dict(SIGNED.columns), again=True)
    seconds = time.process_time() - start
    counts = ds.info.counts
    print(
        f"{counts.files:,} files, {counts.images:,} images: {seconds:.0f} CPU s, "
        f"{seconds / counts.images * 1e6:.1f} us an image, {_memory()}"
    )


def clusters(folder: str, n: int) -> None:
    path = Path(folder, "signatures")
    rng = np.random.default_rng(0)
    with path.open("wb") as target:
        for at in range(0, n, _AT_ONCE):
            size = min(_AT_ONCE, n - at)
            drawn = rng.integers(0, 2**16, (size, BINS), np.uint16)
            copies = rng.choice(size, int(size * _COPIES), replace=False)
            drawn[copies] = drawn[rng.integers(0, size, copies.size)]
            rows = np.repeat(copies, _CHANGED)
            drawn[rows, rng.integers(0, BINS, rows.size)] = rng.integers(0, 2**16, rows.size)
            drawn.tofile(target)
    start = time.process_time()
    found = cluster(np.asarray(np.memmap(path, "<u2", "r", shape=(n, BINS))))
    seconds = time.process_time() - start
    path.unlink()
    joined = int((np.bincount(found, minlength=n)[found] > 1).sum())
    print(f"{n:,} signatures: {seconds:.0f} CPU s, {_memory()}; {joined / n:.0%} in clusters")


def _memory() -> str:
    status = Path("/proc/self/status").read_text()
    anonymous = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = int(anonymous) / 2**20
    return f"at most {most / 2**20:.2f} GiB, at the end {own:.2f} GiB without mapped files"


if __name__ == "__main__":
    if sys.argv[1] == "signatures":
        signatures(sys.argv[2])
    else:
        clusters(sys.argv[2], int(sys.argv[3]))
