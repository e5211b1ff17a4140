"""What the pipeline's tests build from, and how they compare what was built."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from serving import Sandbox
from store_builders import stored_table

from zml_dask.net.client import HttpClient
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.sandbox.archives import Source, zip_bytes
from zml_dask.sandbox.corpus import SandboxRecord, make_record
from zml_dask.store.info import read_info
from zml_dask.store.storage import Storage
from zml_dask.store.summary import add_up

WHEN = datetime(2024, 1, 1, tzinfo=UTC)


def archive(files: dict[str, bytes], top: str = "owner-repo-1a2b3c4") -> bytes:
    """A zip in GitHub's form."""
    return zip_bytes(top, [Source(path, data) for path, data in files.items()], when=WHEN)


def small_records(count: int, seed: int = 0) -> list[SandboxRecord]:
    """Records of a few text files each, of very different sizes."""
    random = np.random.default_rng(seed)
    records = []
    for number in range(count):
        files = {
            f"src/file{i}.py": "".join(
                f"value_{line} = {random.integers(1_000_000)}\n"
                for line in range(random.integers(1, 400))
            ).encode()
            for i in range(int(random.integers(1, 2 + 10 * (number % 5 == 0))))
        }
        files["README.md"] = f"# Record {number}\n".encode()
        files["data.bin"] = b"\0\1\2" * 10
        records.append(make_record(1000 + number, {"owner/repo-v1.zip": archive(files)}))
    return records


def harvested(sandbox: Sandbox, folder: Path, **options: object) -> Path:
    """The sandbox's catalogue."""
    catalogue = folder / "catalogue.jsonl"
    with HttpClient() as client:
        harvest(catalogue, HarvestOptions(api_url=sandbox.api_url, **options), client)  # type: ignore[arg-type]
    return catalogue


def array_bytes(dataset: Path) -> dict[str, str]:
    """Every object of ``images.zarr`` by its hash."""
    root = dataset / "images.zarr"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def tables(dataset: Path) -> dict[str, list[dict[str, object]]]:
    """Every table's rows; what each commit orders or counts by itself, together."""
    storage = Storage.open(dataset)
    info = read_info(storage)
    assert info is not None
    found = {name: stored_table(storage, name) for name in info.tables}
    found["files_by_language"] = found["files_by_language"].sort_by("file_id")
    found["summary"] = add_up([found["summary"]])
    return {name: table.to_pylist() for name, table in found.items()}
