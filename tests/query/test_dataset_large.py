"""A million images: what is read, counted at the store; never how long it takes."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from large_dataset import FILES_A_SHARD, IMAGES_A_FILE, write_large_dataset
from range_server import RangeServer

import zml_dask as zml
from zml_dask.query.dataset import Dataset
from zml_dask.query.portions import PackedRows, Portion
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import image_arrays, shard_path
from zml_dask.store.local_storage import LocalStorage
from zml_dask.store.shards import ShardReader
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Range, Storage
from zml_dask.store.tables import records_table, write_part


@dataclass
class Reads:
    """Every range that was read: path, start, stop."""

    ranges: list[tuple[str, int, int]] = field(default_factory=list)

    def bytes_of(self, part: str) -> int:
        return sum(stop - start for path, start, stop in self.ranges if part in path)

    def of_chunks(self) -> list[tuple[str, int, int]]:
        return [r for r in self.ranges if "images/c" in r[0] and r[1] >= 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "ds"
    write_large_dataset(folder)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    seen = Reads()
    read_ranges = LocalStorage._read_ranges

    def counted(storage: LocalStorage, ranges: Sequence[Range]) -> Sequence[bytes | BaseException]:
        found = read_ranges(storage, ranges)
        for (path, start, stop), data in zip(ranges, found, strict=True):
            if start < 0:
                seen.ranges.append((path, -len(data), 0))
            elif stop is not None:
                seen.ranges.append((path, start, start + len(data)))
        return found

    monkeypatch.setattr(LocalStorage, "_read_ranges", counted)
    # Tables as they are read from elsewhere: through our own ranges.
    monkeypatch.setattr(Snapshot, "_arrow_file", Snapshot.open_part)
    return seen


def bytes_needed(ds: Dataset) -> int:
    """Size of the chunks that hold a view's rows, by the shards' own index."""
    spec = image_arrays(ds.info.shape)[0]
    data = Path(ds.url, shard_path("images", 0, 3)).read_bytes()
    reader = ShardReader(spec, (80, 80), data)
    sizes = [stop - start for start, stop in map(reader.span, range(64))]
    chunks = np.unique(ds.rows.positions() // spec.chunk)
    return sum(sizes[chunk % 64] for chunk in chunks)


def test_opening_reads_none_of_the_tables(folder: Path, reads: Reads) -> None:
    ds = zml.open_dataset(folder)
    assert len(ds) > 1_000_000
    assert ds.images.shape == (len(ds), 80, 80)
    assert reads.ranges == []
    assert repr(ds)
    assert {path.split("/")[0] for path, *_ in reads.ranges} == {"summary.parquet"}


def test_a_selection_reads_a_few_columns(folder: Path, reads: Reads) -> None:
    view = zml.open_dataset(folder).select("language == 'Fortran'")
    assert 0.005 * 1_003_520 < len(view.images) < 0.02 * 1_003_520
    tables = sum(p.stat().st_size for p in folder.glob("*.parquet/*"))
    assert reads.bytes_of("images.zarr") == 0
    assert reads.bytes_of("parquet") < 0.1 * tables


def test_one_per_cent_of_the_rows_reads_their_chunks_once(folder: Path, reads: Reads) -> None:
    ds = zml.open_dataset(folder)
    view = ds.select("language == 'Fortran' and license == 'mit'")
    needed = bytes_needed(view)
    reads.ranges.clear()
    images = view.images.compute(scheduler="synchronous")
    assert images.shape[0] == len(view)
    assert needed <= reads.bytes_of("images.zarr") < 1.1 * needed
    chunks = reads.of_chunks()
    assert len(set(chunks)) == len(chunks)


def test_a_slice_of_a_view_reads_only_its_own_chunks(folder: Path, reads: Reads) -> None:
    view = zml.open_dataset(folder).select("language == 'Fortran'")
    first = view.select(np.arange(len(view)) < 100)
    needed = bytes_needed(first)
    reads.ranges.clear()
    view.images[:100].compute(scheduler="synchronous")
    shards = len(np.unique(first.rows.positions() // 4096))
    assert reads.bytes_of("images.zarr") == needed + shards * 1028


def test_scattered_rows_are_read_chunk_by_chunk_once(folder: Path, reads: Reads) -> None:
    sample = zml.open_dataset(folder).sample(500, seed=3)
    needed = bytes_needed(sample)
    reads.ranges.clear()
    sample.images.compute(scheduler="synchronous")
    shards = len(np.unique(sample.rows.positions() // 4096))
    assert reads.bytes_of("images.zarr") == needed + shards * 1028
    chunks = reads.of_chunks()
    assert len(set(chunks)) == len(chunks)


def test_labels_of_a_batch_take_no_memory_for_all_files(folder: Path) -> None:
    view = zml.open_dataset(folder)
    rows = np.array([900_001, 5, 64])
    files, segment = view.selection.file_of(rows)
    assert files.tolist() == (rows // IMAGES_A_FILE).tolist()
    assert segment.tolist() == (rows % IMAGES_A_FILE).tolist()
    tracemalloc.start()
    try:
        view.selection.file_of(rows)
        assert tracemalloc.get_traced_memory()[1] < len(view.files)
    finally:
        tracemalloc.stop()


def test_a_coordinate_of_some_images_is_read_of_their_files(
    folder: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.query.labelled._FILES_AT_ONCE", 2**14)
    ds = zml.open_dataset(folder)
    labelled = ds.to_xarray(["license"])
    labelled.segment[:1].compute()  # from now on the file of each image is known
    reads.ranges.clear()
    some = labelled[["path", "license"]].isel(image=slice(2**18 - 2, 2**18 + 2))
    found = some.compute(scheduler="synchronous")
    expected = ds.read("path", "license", start=2**16 - 1, stop=2**16 + 1)
    for name in expected:
        assert found[name].values.tolist() == expected[name].repeat(2).tolist()
    tables = sum(p.stat().st_size for p in folder.glob("files.parquet/*"))
    assert reads.bytes_of("files.parquet") < 0.25 * tables


def test_neighbouring_chunks_come_in_one_request(folder: Path, reads: Reads) -> None:
    zml.open_dataset(folder).images[64:640].compute(scheduler="synchronous")
    assert len(reads.of_chunks()) == 1


def test_text_is_read_when_it_is_looked_at(folder: Path, reads: Reads) -> None:
    ds = zml.open_dataset(folder)
    long = ds.files[ds.files.n_images > 0]
    assert long.dtypes["sha256"] == "str"
    assert long.n_lines.sum() == 80 * len(ds)
    before = reads.bytes_of("parquet")
    assert long.language.value_counts().index[0] == "Python"
    languages = reads.bytes_of("parquet") - before
    assert long.iloc[5].sha256 == ds.files.sha256.tolist()[5]
    hashes = reads.bytes_of("parquet") - before - languages
    assert before < hashes / 2
    assert languages < hashes / 2
    again = reads.bytes_of("parquet")
    assert len(set(ds.files.sha256)) == len(ds.files)
    assert reads.bytes_of("parquet") == again


def test_the_first_of_all_files_reads_one_row_group(folder: Path, reads: Reads) -> None:
    file, images = next(iter(zml.open_dataset(folder)))
    assert (file.file_id, len(images)) == (0, file.n_images)
    (part,) = folder.glob("files.parquet/*")
    size, footer = part.stat().st_size, 65_536
    second = pq.read_metadata(part).row_group(1)
    begins = min(
        second.column(n).dictionary_page_offset or second.column(n).data_page_offset
        for n in range(second.num_columns)
    )
    stops = [
        stop for path, start, stop in reads.ranges if "parquet" in path and start < size - footer
    ]
    assert stops
    assert max(stops) <= begins


def test_one_record_reads_one_row_group_of_the_files(folder: Path, reads: Reads) -> None:
    ds = zml.open_dataset(folder)
    record = ds.record(7)
    assert repr(record)
    assert {path.split("/")[0] for path, *_ in reads.ranges} == {"records.parquet"}
    assert len(record.files) == FILES_A_SHARD
    numbers = reads.bytes_of("files.parquet")
    assert len(set(record.files.path)) == FILES_A_SHARD
    assert reads.bytes_of("files.parquet") > numbers
    tables = sum(p.stat().st_size for p in folder.glob("*.parquet/*"))
    assert reads.bytes_of("parquet") < 0.4 * tables  # of four row groups


def test_over_http_all_columns_of_the_files_are_asked_for_together(folder: Path) -> None:
    with RangeServer(folder) as server:
        ds = zml.open_dataset(server.url)
        server.sent.clear()
        files = ds.files
        n_asked = len([path for path, _ in server.sent if "files.parquet" in path])
    assert n_asked < len(files.columns)
    assert files.file_id.equals(zml.open_dataset(folder).files.file_id)


def test_a_portion_reads_one_row_group_of_the_records(tmp_path: Path, reads: Reads) -> None:
    storage = Storage.open(tmp_path)
    titles = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(20_000)]
    rows = [
        {"record_id": i, "title": title, "n_files": 0, "n_images": 0}
        for i, title in enumerate(titles)
    ]
    part = write_part(storage, "records", 0, [records_table(rows)])
    snapshot = Snapshot(storage, DatasetInfo(tables={"records": (part,)}))
    its_own = tuple(range(9_000, 9_064))
    found = Portion(0, its_own, PackedRows(), None, 0).records(snapshot)
    assert tuple(found) == its_own
    assert reads.bytes_of("records.parquet") < 0.4 * part.size  # of five row groups


def test_footers_hold_no_metadata_of_records(folder: Path) -> None:
    for path in folder.glob("records.parquet/*"):
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
        assert [c.path_in_schema for c in columns if not c.is_stats_set] == ["metadata"]


def test_sql_over_records_reads_nothing_of_files(folder: Path) -> None:
    query = "SELECT count(*) FROM records"
    with RangeServer(folder) as server:
        ds = zml.open_dataset(server.url)
        assert ds.sql(query).fetchall() == [(ds.info.counts.records,)]
        assert server.bytes_sent("records.parquet")
        assert not server.bytes_sent("files")
        assert ds.select("n_lines >= 0").sql(query).fetchall() == [(ds.info.counts.records,)]


def test_an_epoch_reads_every_chunk_once(folder: Path, reads: Reads) -> None:
    view = zml.open_dataset(folder).select("language == 'Fortran' and record_id < 20")
    batches = view.batches(batch_size=64, seed=0, buffer=256, labels="license")
    needed = bytes_needed(view)
    reads.ranges.clear()
    n = sum(len(images) for images, _ in batches)
    assert n == len(view)
    chunks = reads.of_chunks()
    assert len(set(chunks)) == len(chunks)
    assert sum(stop - start for _, start, stop in chunks) == needed


def test_the_graph_stays_small(folder: Path) -> None:
    import pickle

    view = zml.open_dataset(folder).select("language == 'C'")
    assert len(pickle.dumps(dict(view.images.dask))) < 1_000_000


def test_over_http_many_threads_read_a_part_at_once_and_little_of_it(folder: Path) -> None:
    local = zml.open_dataset(folder)
    with RangeServer(folder.parent) as server:
        server.delay = 0.01
        remote = zml.open_dataset(f"{server.url}/ds")
        for _ in range(3):
            assert remote.counts(["kind", "status"]).equals(local.counts(["kind", "status"]))
        server.sent.clear()
        chosen = remote.select("language == 'Fortran'")
        assert len(chosen) == len(local.select("language == 'Fortran'"))
        assert len(server.sent) <= 60
        assert server.bytes_sent("/files.parquet") == 0
        server.sent.clear()
        paths = chosen.read("path", start=500, stop=510).path.tolist()
        assert paths == local.select("language == 'Fortran'").files.path[500:510].tolist()
        assert len(server.sent) <= 20
        server.sent.clear()
        assert remote.counts("license").equals(local.counts("license"))
        assert server.bytes_sent("files") == 0
