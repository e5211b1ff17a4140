"""Other people's readers give the pixels and numbers that were committed.

The table in ``docs/format.md`` names those that are run here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorstore
import xarray
import zarr
from store_builders import sources, stage

from zml_dask.engine.executors import SerialExecutor
from zml_dask.store.commit import CommitOptions, commit
from zml_dask.store.image_reader import ImageReader
from zml_dask.store.info import committed_info
from zml_dask.store.repack import repack_on
from zml_dask.store.storage import Storage

ARRAYS = ("images", "record_id", "file_id", "segment", "n_lines")
ZARRITA = Path(__file__).with_name("zarrita")

Read = Callable[[Path, str, slice], np.ndarray]


def by_zarr_python(store: Path, name: str, rows: slice) -> np.ndarray:
    return zarr.open_group(store, mode="r")[name][rows]


def by_zarrs(store: Path, name: str, rows: slice) -> np.ndarray:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_group(store, mode="r")[name][rows]


def by_tensorstore(store: Path, name: str, rows: slice) -> np.ndarray:
    place = {"driver": "file", "path": str(store / name)}
    array = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
    return array[rows].read().result()


def by_xarray(store: Path, name: str, rows: slice) -> np.ndarray:
    return xarray.open_zarr(store)[name][rows].values


def by_zarrita(store: Path, name: str, rows: slice) -> np.ndarray:
    if shutil.which("node") is None or not (ZARRITA / "node_modules").exists():
        pytest.skip(f"needs Node.js, and 'npm ci' in {ZARRITA}")
    ran = subprocess.run(
        ["node", ZARRITA / "read.js", store, name, str(rows.start), str(rows.stop)],
        check=True,
        capture_output=True,
    )
    found = json.loads(ran.stdout)
    return np.array(found["values"]).reshape(rows.stop - rows.start, *found["shape"][1:])


READERS: dict[str, Read] = {
    "zarr-python": by_zarr_python,
    "zarrs": by_zarrs,
    "tensorstore": by_tensorstore,
    "xarray": by_xarray,
    "zarrita": by_zarrita,
}


@pytest.fixture(scope="module", params=["as built", "repacked"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Two commits, the second of which has filled up the shard of the first."""
    folder = tmp_path_factory.mktemp("readers")
    storage = Storage.open(folder / "ds")
    for record_id in (1, 2):
        stage(storage, folder, record_id, sources(40, record_id))
        commit(storage, CommitOptions(level=1))
    if request.param == "repacked":
        repack_on(storage, lambda: nullcontext(SerialExecutor()), 7)
    return storage


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_what_was_committed(dataset: Storage, reader: str) -> None:
    info = committed_info(dataset)
    rows = slice(info.counts.images - 70, info.counts.images)  # of two chunks
    files = pq.read_table(Path(dataset.url) / "files.parquet").to_pandas()
    owners = np.repeat(np.arange(len(files)), files.n_images)[rows]
    for name in ARRAYS:
        found = READERS[reader](Path(dataset.url) / "images.zarr", name, rows)
        if name == "images":
            expected = ImageReader(dataset, info).read(np.arange(rows.start, rows.stop))
        elif name in ("record_id", "file_id"):
            expected = files[name].to_numpy()[owners]
        else:
            segment = np.arange(rows.start, rows.stop) - files.first_image.to_numpy()[owners]
            left = files.n_lines.to_numpy()[owners] - 80 * segment
            expected = segment if name == "segment" else np.minimum(left, 80)
        assert np.array_equal(found, expected), name


def test_xarray_has_the_numbers_of_images_as_coordinates(dataset: Storage) -> None:
    opened = xarray.open_zarr(Path(dataset.url) / "images.zarr")
    assert dict(opened.sizes) == {
        "image": committed_info(dataset).counts.images,
        "row": 80,
        "column": 80,
    }
    assert set(opened.coords) == set(opened.images.coords) == set(ARRAYS[1:])
