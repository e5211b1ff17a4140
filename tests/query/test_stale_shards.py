"""What a cache, a web server or a stranger may give in place of a shard: an error, never blanks."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from range_server import RangeServer
from store_builders import sources, stage

import zml_dask as zml
from zml_dask.errors import DatasetDamagedError, StorageError
from zml_dask.query import file_images
from zml_dask.query.file_images import FileImages
from zml_dask.store.commit import commit
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import FILES_SCHEMA
from zml_dask.store.storage import Storage

SHARD = "images.zarr/images/c/0/0/0"


@pytest.fixture(params=[3, 60], ids=["within a chunk", "more chunks"])
def grown(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes, int]:
    """A dataset of two commits, its only shard as it was after the first, and images then."""
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(30))
    commit(storage)
    old, n = storage.read(SHARD), len(zml.open_dataset(tmp_path / "ds"))
    stage(storage, tmp_path, 2, sources(request.param, 2))
    commit(storage)
    return tmp_path / "ds", old, n


def readers(ds: zml.Dataset) -> list[Callable[[], object]]:
    """Every way to the last images."""
    last = int(ds.files[ds.files.n_images > 0].file_id.iloc[-1])
    ways: list[Callable[[], object]] = [
        lambda: ds.images[-1].compute(),
        lambda: ds.images.compute(),
        lambda: list(ds.batches(16, seed=0)),
        lambda: ds.text(last),
        lambda: ds.image(last),
        lambda: list(ds),
        lambda: ds.to_xarray().images[-1].values,
    ]
    if find_spec("torch"):
        ways.append(lambda: list(ds.to_torch(16)))
    return ways


@pytest.mark.parametrize("remote", [False, True])
def test_an_older_state_of_a_shard_is_an_error(
    grown: tuple[Path, bytes, int], remote: bool
) -> None:
    folder, old, n = grown
    before = zml.open_dataset(folder).images.compute()
    Path(folder, SHARD).write_bytes(old)
    with RangeServer(folder.parent) as server:
        ds = zml.open_dataset(f"{server.url}/ds" if remote else folder)
        for reader in readers(ds):
            with pytest.raises(DatasetDamagedError, match=f"{SHARD}: .* older state .* verify"):
                reader()
    assert len(before) > n


@pytest.mark.parametrize("size", [0, 10, 2_000, -1, -1_500])
@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_is_cut_short_is_an_error(
    grown: tuple[Path, bytes, int], size: int, remote: bool
) -> None:
    folder, _, _ = grown
    shard = Path(folder, SHARD)
    shard.write_bytes(shard.read_bytes()[:size])
    with RangeServer(folder.parent) as server:
        for reader in readers(zml.open_dataset(f"{server.url}/ds" if remote else folder)):
            with pytest.raises(DatasetDamagedError, match=SHARD):
                reader()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 2**62), (2**62, 100), (2**63, 2**63), (2**64 - 2, 9), (0, 2**33), (0, 3), (2**47, 50)],
)
def test_an_index_that_lies_is_damage(
    grown: tuple[Path, bytes, int], offset: int, length: int
) -> None:
    folder, _, _ = grown
    shard = Path(folder, SHARD)
    data = bytearray(shard.read_bytes())
    index = data[-1028:-4]
    index[:16] = struct.pack("<QQ", offset, length)
    data[-1028:] = index + struct.pack("<I", google_crc32c.value(bytes(index)))
    shard.write_bytes(data)
    ds = zml.open_dataset(folder)
    for reader in (lambda: ds.images[:2].compute(), lambda: list(ds.batches(8))):
        with pytest.raises(DatasetDamagedError, match=SHARD):
            reader()


@pytest.mark.parametrize("value", [ord("Q"), 0x110000, 2**32 - 1])
def test_a_text_that_is_not_what_was_committed_is_damage(
    grown: tuple[Path, bytes, int], value: int
) -> None:
    ds = zml.open_dataset(grown[0])
    read = type(ds.snapshot.images).read

    def changed(self: Any, *args: Any, **options: Any) -> Any:
        images = read(self, *args, **options)
        images[:, 0, 0] = value
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ds.snapshot.images), "read", changed)
        with pytest.raises(DatasetDamagedError, match="do not hold the text that was committed"):
            ds.text(int(ds.files[ds.files.n_images > 1].file_id.iloc[0]))
    file: FileImages = next(each for each in ds if each.file.n_images)
    assert file.text == ds.text(file.file.file_id)
    file.images[0, 0, 0] = value
    with pytest.raises(DatasetDamagedError, match="do not hold the text"):
        _ = file.text


@pytest.mark.parametrize(
    "changed", [{"first_image": 2**40}, {"first_image": -1}, {"n_images": 2**31 - 1}]
)
def test_tables_that_name_images_that_there_are_not(
    grown: tuple[Path, bytes, int], changed: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = zml.open_dataset(grown[0])
    row = file_images.find_file(ds, 5) | changed
    monkeypatch.setattr(file_images, "find_file", lambda *_: row)
    for reader in (ds.text, ds.image):
        with pytest.raises(DatasetDamagedError, match="which is impossible; run zml-dask verify"):
            reader(5)


def test_counts_that_no_memory_holds_are_damage(grown: tuple[Path, bytes, int]) -> None:
    info = DatasetInfo.from_bytes(Path(grown[0], "dataset.json").read_bytes())
    lying = replace(info, counts=replace(info.counts, images=2**62))
    with pytest.raises(DatasetDamagedError, match="counts 4611686018427387904 images"):
        DatasetInfo.from_bytes(lying.to_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("grown", [3], indirect=True)  # the least to read
def test_a_process_that_has_read_ends_as_it_should(grown: tuple[Path, bytes, int]) -> None:
    """Arrow's threads must not need Python after its end; that ended one run in fifteen."""
    script = (
        "import sys, zml_dask as zml; ds = zml.open_dataset(sys.argv[1]);"
        "print(len(ds.text(5)), len(ds.record(1).files))"
    )
    command = [sys.executable, "-c", script, str(grown[0])]
    ran = [subprocess.run(command, capture_output=True, check=False) for _ in range(20)]
    assert [each.returncode for each in ran] == [0] * 20, [each.stderr for each in ran]


@pytest.fixture
def replace_dataset(tmp_path: Path) -> Callable[[Path], None]:
    """Build other records of the same sizes at a path, as a build into an emptied folder does."""

    def replace_at(folder: Path) -> None:
        shutil.rmtree(folder)
        storage = Storage.open(folder)
        for record_id in (1, 2):
            texts = [(path, text.swapcase()) for path, text in sources(30, record_id)]
            stage(storage, tmp_path, record_id, texts)
            commit(storage)

    return replace_at


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_dataset_that_was_replaced_is_an_error(
    tmp_path: Path, replace_dataset: Callable[[Path], None], remote: bool, warm: bool
) -> None:
    replaced = r"was replaced or removed since it was opened; open it again"
    storage = Storage.open(tmp_path / "ds")
    for record_id in (1, 2):
        stage(storage, tmp_path, record_id, sources(30, record_id))
        commit(storage)
    with RangeServer(tmp_path) as server:
        url = f"{server.url}/ds" if remote else tmp_path / "ds"
        ds = zml.open_dataset(url)
        file = int(ds.files[ds.files.n_images > 0].file_id.iloc[-1])
        tables: list[Callable[[], object]] = [
            lambda: ds.read("path").values.tolist(),
            lambda: ds.sql("select max(path) from files").fetchall(),
            lambda: ds.select("path.contains('a')").counted,
        ]
        before = [way() for way in tables]
        if warm:
            ds.images.compute()
        replace_dataset(tmp_path / "ds")
        for way in readers(ds):
            with pytest.raises(StorageError, match=replaced):
                way()
        for way, expected in zip(tables, before, strict=True):
            try:  # what is in memory is as it was
                assert way() == expected
            except StorageError as error:
                assert re.search(replaced, str(error))  # noqa: PT017
        assert zml.open_dataset(url).text(file)
        shutil.rmtree(tmp_path / "ds")
        with pytest.raises(StorageError, match=replaced):
            ds.images.compute()


def test_a_later_commit_is_the_same_dataset_and_costs_one_request_per_shard(
    tmp_path: Path,
) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(30))
    commit(storage)
    with RangeServer(tmp_path) as server:
        ds = zml.open_dataset(f"{server.url}/ds")
        expected = zml.open_dataset(tmp_path / "ds").images.compute()
        stage(storage, tmp_path, 2, sources(30, 2))
        commit(storage)
        for asked in (1, 0, 0):
            server.sent.clear()
            assert (ds.images.compute() == expected).all()
            assert [path for path, _ in server.sent].count("/ds/dataset.json") == asked


def test_a_flipped_bit_in_a_table_never_gives_other_rows(grown: tuple[Path, bytes, int]) -> None:
    folder, _, _ = grown

    def rows() -> object:
        return zml.open_dataset(folder).read(*FILES_SCHEMA.names).values.tolist()

    expected, damaged = rows(), 0
    part = next(folder.glob("files.parquet/*"))
    good = part.read_bytes()
    footer = int.from_bytes(good[-8:-4], "little") + 8
    for position in range(4, len(good) - footer, 150):
        flipped = bytearray(good)
        flipped[position] ^= 1 << position % 8
        part.write_bytes(flipped)
        try:
            assert rows() == expected
        except StorageError as error:
            assert "run zml-dask verify" in str(error)  # noqa: PT017
            damaged += 1
    assert damaged > 20
