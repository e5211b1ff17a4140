"""The commit against a straightforward reference, whatever the records and their order."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import objects, sources, stage, stored_table
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from zml_dask.errors import UsageError, ZmlError
from zml_dask.raster.images import n_lines_dtype, rasterize
from zml_dask.store import tables
from zml_dask.store.commit import CommitOptions, commit, finish_commit, plan_commit, run_task
from zml_dask.store.info import DatasetInfo, ensure_ours, read_info
from zml_dask.store.layout import ImageShape, image_arrays, shard_path
from zml_dask.store.shards import ShardBuilder, ShardReader, zarr_objects
from zml_dask.store.staging import FailureRow, pack_records, stage_failure
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw

PATHS = st.text("ab/.é\U0001f600￿", min_size=1, max_size=6)
TEXTS = st.one_of(
    st.none(),
    st.lists(st.text("ab \u00e9\U0001f600\x0c", max_size=7), max_size=12).map("\n".join),
    st.integers(0, 40).map(lambda n: "line\n" * n),
)
RECORDS = st.dictionaries(
    st.integers(1, 10**9), st.dictionaries(PATHS, TEXTS, max_size=6), max_size=6
)
SHAPES = st.builds(ImageShape, st.sampled_from([1, 3, 80, 300]), st.sampled_from([1, 5, 80]))


def reference(records, shape):
    """All rows, the plain way: records by id, files by path, texts rasterised one by one."""
    images = [np.empty((0, shape.height, shape.width), np.uint32)]
    index, files = [], []
    for record_id in sorted(records):
        for path in sorted(records[record_id]):
            text = records[record_id][path]
            drawn, lines = rasterize(text or "", shape.width, shape.height)
            images.append(drawn)
            first = len(index)
            index += [(record_id, len(files), s, int(n)) for s, n in enumerate(lines)]
            files.append((len(files), record_id, path, first, len(drawn)))
    return np.concatenate(images), np.array(index, np.int64).reshape(-1, 4), files


@settings(max_examples=60)
@given(records=RECORDS, shape=SHAPES, seed=st.integers(0, 99), cuts=st.integers(1, 3))
def test_commits_equal_the_reference(tmp_path_factory, records, shape, seed, cuts) -> None:
    folder = tmp_path_factory.mktemp("ds")
    storage = Storage.open(folder / "ds")
    rng = random.Random(seed)
    ids = sorted(records)
    # Commits append: each one's records come after those of the one before.
    edges = [0, *sorted(rng.randint(0, len(ids)) for _ in range(cuts - 1)), len(ids)]
    done = {}
    for start, stop in pairwise(edges):
        batch = ids[start:stop]
        rng.shuffle(batch)
        for record_id in batch:
            files = list(records[record_id].items())
            rng.shuffle(files)
            stage(storage, folder, record_id, files, shape)
        if rng.random() < 0.5:
            pack_records(storage, "p", batch[: rng.randint(0, len(batch))])

        def shuffled(function, tasks):
            tasks = list(tasks)
            rng.shuffle(tasks)
            return map(function, tasks)

        commit(storage, CommitOptions(shape), map=shuffled)
        done |= {record_id: records[record_id] for record_id in batch}
    images, index, files = reference(done, shape)
    group = zarr.open_group(str(folder / "ds/images.zarr"), mode="r")
    assert np.array_equal(group["images"][:], images)
    for column, name in enumerate(("record_id", "file_id", "segment", "n_lines")):
        assert np.array_equal(group[name][:], index[:, column])
    assert group["n_lines"].dtype == n_lines_dtype(shape.height)
    info = read_info(storage)
    assert info is not None
    table = stored_table(storage, "files")
    columns = ("file_id", "record_id", "path", "first_image", "n_images")
    assert list(zip(*(table[name].to_pylist() for name in columns), strict=True)) == files
    assert (info.counts.images, info.counts.records) == (len(images), len(done))
    report = verify(storage, deep=True)
    assert report.ok, report.problems
    assert not report.notes


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few images, so that a test crosses many of their edges."""
    from dataclasses import replace

    from zml_dask.store import layout

    monkeypatch.setattr(layout, "IMAGES", replace(layout.IMAGES, chunk=4, shard=16))
    small = tuple(replace(spec, chunk=8, shard=32) for spec in layout.INDICES)
    monkeypatch.setattr(layout, "INDICES", small)
    monkeypatch.setattr("zml_dask.store.commit.plan.FILES_PER_PART", 13)
    monkeypatch.setattr("zml_dask.store.commit.plan.RECORDS_PER_PART", 2)


@pytest.mark.usefixtures("small_shards")
def test_many_shards_and_commits_equal_one_commit(tmp_path: Path) -> None:
    records = {record_id: sources(7, record_id) for record_id in range(1, 9)}
    expected, index, _ = reference({k: dict(v) for k, v in records.items()}, ImageShape())
    trees = []
    for name, batches in (("one", [range(1, 9)]), ("many", [[1], [2, 3, 4], [5], [6, 7, 8]])):
        storage = Storage.open(tmp_path / name)
        for batch in batches:
            for record_id in batch:
                stage(storage, tmp_path, record_id, records[record_id][::-1])
            commit(storage)
            assert verify(storage, deep=True).ok
        group = zarr.open_group(str(tmp_path / name / "images.zarr"), mode="r")
        assert np.array_equal(group["images"][:], expected)
        assert np.array_equal(group["segment"][:], index[:, 2])
        trees.append(objects(storage, "images.zarr"))
    assert trees[0] == trees[1]  # appending in id order gives the same bytes, too
    assert len(trees[0]) > 12


def test_a_repeated_commit_does_nothing(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(5))
    stage_failure(storage, FailureRow(9, "fetch", "gone", "it is gone", 1, True))
    commit(storage, CommitOptions(harvest={"until": "2026"}))
    before = objects(storage)
    assert plan_commit(storage, CommitOptions(harvest={"until": "2026"})) is None
    commit(storage)
    # Staged once more, by a worker that was thought lost: committed already.
    stage(storage, tmp_path, 1, sources(5))
    commit(storage)
    assert objects(storage) == before


def test_failures_are_kept_until_their_record_is_in(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage_failure(storage, FailureRow(5, "fetch", "server_error", "500", 1, False))
    stage_failure(storage, FailureRow(6, "fetch", "gone", "410", 1, True))
    assert commit(storage).counts.failures == 2
    stage(storage, tmp_path, 5, sources(3))
    stage_failure(storage, FailureRow(6, "fetch", "gone", "410", 2, True))
    commit(storage)
    assert stored_table(storage, "failures").to_pylist() == [
        {
            "record_id": 6,
            "stage": "fetch",
            "kind": "gone",
            "message": "410",
            "attempts": 2,
            "permanent": True,
        }
    ]
    assert len(storage.list("failures.parquet")) == 1
    assert verify(storage).ok


def test_withdrawn_records_stay_out(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(3))
    before = commit(storage)
    withdraw(storage, [1], "its author asked")
    withdraw(storage, [2], "a court asked")
    stage(storage, tmp_path, 2, sources(3))
    info = commit(storage)
    assert stored_table(storage, "withdrawn")["record_id"].to_pylist() == [1, 2]
    assert info.counts == before.counts
    assert verify(storage, deep=True).ok
    with pytest.raises(UsageError, match="a reason"):
        withdraw(storage, [1], " ")


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(3))
    with pytest.raises(UsageError, match="staged for images of 80 lines"):
        commit(storage, CommitOptions(ImageShape(40, 80)))
    commit(storage)
    with pytest.raises(UsageError, match="another folder"):
        commit(storage, CommitOptions(ImageShape(40, 80)))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        ensure_ours(Storage.open(tmp_path))
    (tmp_path / "dataset.json").write_text('{"name": "other"}')
    with pytest.raises(UsageError, match="not of a zml-dask dataset"):
        read_info(Storage.open(tmp_path))
    ensure_ours(Storage.open(tmp_path / "new"))


def test_no_result_may_be_missing(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(3))
    plan = plan_commit(storage)
    assert plan is not None
    results = [run_task(storage, task) for task in plan.tasks]
    with pytest.raises(Exception, match="1 tasks of the commit have no result"):
        finish_commit(storage, plan, results[1:])
    assert read_info(storage) is None


def test_a_worker_thought_lost_writes_nothing_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its plan, and goes on when the shard has more rows by another commit."""
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 1, sources(5))
    late = plan_commit(storage)
    assert late is not None
    commit(storage)
    stage(storage, tmp_path, 2, sources(5))
    stage(storage, tmp_path, 1, sources(5))
    second = plan_commit(storage)
    assert second is not None
    results = [run_task(storage, task) for task in second.tasks]
    before = objects(storage)
    monkeypatch.setattr("zml_dask.store.commit.tasks.load_plan", lambda *_: late)
    for task in late.tasks:
        with pytest.raises(ZmlError, match="commit is over"):
            run_task(storage, task)
    assert objects(storage) == before
    finish_commit(storage, second, results)
    assert verify(storage, deep=True).ok
    with pytest.raises(ZmlError, match="commit is over"):
        run_task(storage, second.tasks[0])


@pytest.mark.parametrize("shape", [ImageShape(), ImageShape(300, 7)])
def test_shards_have_the_bytes_that_zarr_python_writes(tmp_path: Path, shape: ImageShape) -> None:
    rng = np.random.default_rng(1)
    for spec in image_arrays(shape):
        row = (shape.height, shape.width) if spec.name == "images" else ()
        rows = min(spec.shard // 8, 200_000) + 5
        values = rng.integers(32, 60, (rows, *row)).astype(spec.dtype)
        values[spec.chunk : 2 * spec.chunk] = spec.fill_value  # written like any other
        builder = ShardBuilder(spec, row)
        builder.extend(values)
        data = builder.finish()
        store = zarr.storage.MemoryStore()
        zarr.create_array(
            store,
            shape=values.shape,
            dtype=spec.dtype,
            chunks=(spec.chunk, *row),
            shards=(spec.shard, *row),
            fill_value=spec.fill_value,
            serializer=BytesCodec(),
            compressors=[
                BloscCodec(
                    typesize=values.itemsize,
                    cname="zstd",
                    clevel=spec.level,
                    shuffle="shuffle",
                    blocksize=values[: spec.chunk].nbytes,
                ),
                Crc32cCodec(),
            ],
            dimension_names=["image", "row", "column"][: values.ndim],
        )
        with zarr.config.set({"array.write_empty_chunks": True}):
            zarr.open_array(store)[:] = values
        written = store._store_dict["c/0" + "/0" * (values.ndim - 1)].to_bytes()
        assert data == written, spec.name
        assert np.array_equal(ShardReader(spec, row, data).rows(3, rows), values[3:])


def test_metadata_is_what_zarr_python_makes_of_it(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    for path, data in zarr_objects(DatasetInfo().arrays, ImageShape(), 5):
        storage.write(path, data)
    group = zarr.open_consolidated(str(tmp_path / "images.zarr"), mode="r")
    assert group["images"].shape == (5, 80, 80)
    assert (group["images"][:] == 32).all()
    import json

    for name in ("images", "file_id", "n_lines", "segment", "record_id"):
        array = zarr.open_array(str(tmp_path / "images.zarr" / name), mode="r")
        ours = json.loads(storage.read(f"images.zarr/{name}/zarr.json"))
        assert (
            array.metadata.to_dict()
            == zarr.core.metadata.v3.ArrayV3Metadata.from_dict(ours).to_dict()
        )
        theirs = json.loads(
            array.metadata.to_buffer_dict(zarr.core.buffer.default_buffer_prototype())[
                "zarr.json"
            ].to_bytes()
        )
        assert ours == theirs


def test_info_refuses_any_other_byte() -> None:
    data = DatasetInfo(harvest={"query": ""}).to_bytes()
    assert DatasetInfo.from_bytes(data).to_bytes() == data
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises((UsageError, Exception)) as caught:
            DatasetInfo.from_bytes(bytes(flipped))
        assert "dataset.json" in str(caught.value), position


def test_a_web_page_is_no_damage() -> None:
    with pytest.raises(UsageError, match="sent a web page in place of"):
        DatasetInfo.from_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")


def test_paths_of_shards() -> None:
    assert shard_path("images", 2, 3) == "images.zarr/images/c/2/0/0"


def test_row_groups_are_cut_in_time_proportional_to_their_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    def counting(rows: pa.Table | pa.RecordBatch) -> int:
        nonlocal asked
        asked += 1
        return rows.num_rows

    monkeypatch.setattr(tables, "len", counting, raising=False)
    batches = [pa.RecordBatch.from_pydict({"n": [n, n]}) for n in range(1_000)]
    groups = list(tables.row_groups(batches, 300))
    assert [group.num_rows for group in groups] == [300] * 6 + [200]
    assert pa.concat_tables(groups)["n"].to_pylist() == [n // 2 for n in range(2_000)]
    assert asked <= 3 * len(batches)
