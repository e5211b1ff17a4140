"""Repacking: the same rows at another level, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_builders import objects, sources, stage

from zml_dask.engine.executors import SerialExecutor, ThreadsExecutor
from zml_dask.errors import DatasetDamagedError, UsageError, ZmlError
from zml_dask.store import layout
from zml_dask.store import storage as operations
from zml_dask.store.commit import CommitOptions, commit, plan_commit
from zml_dask.store.image_reader import ImageReader
from zml_dask.store.info import committed_info
from zml_dask.store.repack import Repack, Repacked, repack_on
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.verify.repair import repair

LEVEL = 5


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(layout, "IMAGES", replace(layout.IMAGES, chunk=2, shard=8))
    small = tuple(replace(spec, chunk=4, shard=16) for spec in layout.INDICES)
    monkeypatch.setattr(layout, "INDICES", small)
    yield
    operations.before_operation = None


def build(storage: Storage, scratch: Path, record_ids: range, level: int | None = None) -> None:
    """Stage and commit some records."""
    for record_id in record_ids:
        stage(storage, scratch, record_id, sources(4, record_id))
    commit(storage, CommitOptions(level=level))


def repack(storage: Storage, level: int = LEVEL) -> Repacked:
    return repack_on(storage, lambda: nullcontext(SerialExecutor()), level)


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path / "ds")
    build(storage, tmp_path, range(1, 4), 1)
    build(storage, tmp_path, range(4, 6))
    return storage


@pytest.fixture
def built(tmp_path: Path) -> dict[str, bytes]:
    """What a build at the level gives."""
    storage = Storage.open(tmp_path / "built")
    build(storage, tmp_path, range(1, 4), LEVEL)
    build(storage, tmp_path, range(4, 6))
    return objects(storage, "images.zarr")


def pixels(storage: Storage) -> np.ndarray:
    info = committed_info(storage)
    return ImageReader(storage, info).read(np.arange(info.counts.images))


def check_sound(storage: Storage, *, finished: bool) -> None:
    report = verify(storage, deep=True)
    assert report.ok, report.problems
    assert bool(report.notes) is not finished


def test_gives_the_bytes_of_a_build_at_that_level(
    tmp_path: Path, dataset: Storage, built: dict[str, bytes]
) -> None:
    before = committed_info(dataset)
    result = repack_on(dataset, lambda: nullcontext(ThreadsExecutor(3)), LEVEL)
    assert objects(dataset, "images.zarr") == built
    assert result.after == sum(map(len, built.values())) < result.before
    info = committed_info(dataset)
    assert info == result.info
    assert (info.generation, info.counts) == (before.generation + 1, before.counts)
    assert {spec.level for spec in info.arrays} == {LEVEL}
    assert not dataset.list("staging")
    check_sound(dataset, finished=True)
    # What comes after is as in a dataset of that level.
    other = Storage.open(tmp_path / "built")
    for storage in (dataset, other):
        build(storage, tmp_path, range(6, 8))
    assert objects(dataset, "images.zarr") == objects(other, "images.zarr")
    again = repack(dataset)
    assert (result.level, again.level, again.before) == (1, LEVEL, again.after)
    assert committed_info(dataset) == again.info


def test_repair_makes_repacked_objects_again(dataset: Storage) -> None:
    repack(dataset)
    tree = objects(dataset)
    dataset.remove("images.zarr/file_id/c/0")
    dataset.write("images.zarr/images/zarr.json", b"{}")
    assert not repair(dataset, verify(dataset)).problems
    assert objects(dataset) == tree


def test_may_fail_at_any_operation(dataset: Storage, built: dict[str, bytes]) -> None:
    class Crash(BaseException):
        pass

    expected, failed_at = pixels(dataset), 0
    fresh = objects(dataset)

    def failing_at(number: int) -> Callable[[str, str], None]:
        left = iter(range(number))

        def operation(what: str, path: str) -> None:
            written = "images.zarr" in path or "staging" in path or path.startswith(("m", "d"))
            if written and next(left, None) is None:
                raise Crash

        return operation

    crashed = True
    while crashed:
        operations.before_operation = failing_at(failed_at)
        try:
            repack(dataset)
            crashed = False
        except Crash:
            failed_at += 3
        operations.before_operation = None
        assert np.array_equal(pixels(dataset), expected)
        report = verify(dataset)
        assert report.ok, report.problems
        repack(dataset)  # goes on from there
        assert objects(dataset, "images.zarr") == built
        assert not dataset.list("staging")
        for path in objects(dataset).keys() - fresh.keys():
            dataset.remove(path)
        for path, data in fresh.items():
            dataset.write(path, data, durable=False)
    assert failed_at > 30


def test_what_has_begun_must_be_finished(tmp_path: Path, dataset: Storage) -> None:
    base = committed_info(dataset)
    job = Repack.of(dataset, base, LEVEL)
    first, *_ = job.plan(1)
    job.run(first, None)
    assert "has begun and not ended: run it again" in verify(dataset).notes[-1]
    stage(dataset, tmp_path, 9, sources(3, 9))
    with pytest.raises(UsageError, match=r"finish it with 'zml-dask repack .* --level 5'"):
        commit(dataset)
    with pytest.raises(UsageError, match="finish it first, with --level 5"):
        repack(dataset, 7)
    repack(dataset)
    # A task that was thought lost comes to its end now.
    late = replace(first, sha256=verify_digest(dataset, first.path))
    with pytest.raises(ZmlError, match="commit is over"):
        job.run(late, None)
    plan_commit(dataset)  # begun, and not ended
    with pytest.raises(UsageError, match=r"a commit to .* has begun"):
        repack(dataset, 7)
    commit(dataset)
    check_sound(dataset, finished=True)


def verify_digest(storage: Storage, path: str) -> str:
    from zml_dask.store.tables import digest_of

    return digest_of(storage.read(path))


def test_a_reader_follows(dataset: Storage) -> None:
    """One that knows the old shards' indexes reads the new shards."""
    info = committed_info(dataset)
    reader = ImageReader(dataset, info)
    rows = np.arange(info.counts.images)
    expected = reader.read(rows)
    repack(dataset)
    assert np.array_equal(reader.read(rows), expected)
    assert np.array_equal(reader.read(rows[3:9]), expected[3:9])


def test_a_damaged_shard_is_left_as_it_is(dataset: Storage) -> None:
    path = "images.zarr/images/c/0/0/0"
    data = bytearray(dataset.read(path))
    data[40] ^= 1
    dataset.write(path, bytes(data))
    with pytest.raises(DatasetDamagedError, match=f"{path} is not what was committed; run"):
        repack(dataset)
    assert dataset.read(path) == bytes(data)


@pytest.mark.parametrize("level", [0, 10])
def test_there_is_no_such_level(dataset: Storage, level: int) -> None:
    with pytest.raises(UsageError, match=f"1 .* to 9 .*, not {level}"):
        repack(dataset, level)
