"""What becomes of a partition whose task did not end well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import distributed
import pytest
from distributed.core import Status
from serving import Sandbox

from zml_dask.engine.progress import ProgressCounts, SilentProgress
from zml_dask.errors import ClusterError
from zml_dask.pipeline.build import build
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.stage import StageRecords, make_partition
from zml_dask.records.catalogue import Catalogue, RecordRef, RefTable
from zml_dask.sandbox.corpus import make_record
from zml_dask.store.info import read_info
from zml_dask.store.staging import FailureRow, stage_failure
from zml_dask.store.storage import Storage

from .datasets import archive, harvested


def test_failures_that_dead_workers_noted_count_and_older_ones_are_tried_again(
    tmp_path: Path,
) -> None:
    storage = Storage.open(tmp_path / "ds")
    new = FailureRow(11, "fetch", "server", "in trouble", 2, False)
    old = FailureRow(12, "fetch", "server", "in trouble", 1, False)
    other = FailureRow(99, "fetch", "server", "in trouble", 1, False)
    for row in (new, old, other):
        stage_failure(storage, row)
    refs = RefTable.of(RecordRef(number, 0, 0, 0) for number in (11, 12, 13))
    job = StageRecords(storage, BuildOptions())
    done, left = job.recover(make_partition(refs, {11: 1, 12: 1}))
    assert done is not None
    assert [outcome.failure for outcome in done.outcomes] == [new]
    assert left is not None
    assert job.items(left) == [12, 13]
    assert left.attempts == {12: 1}


def test_a_worker_that_leaves_stages_nothing_more(
    client: distributed.Client, make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    served = make_sandbox([make_record(7, {"a.zip": archive({"a.py": b"x = 1\n"})})])
    catalogue = Catalogue.open(harvested(served, tmp_path))
    storage = Storage.open(tmp_path / "ds")
    options = BuildOptions(scratch=str(tmp_path))
    job = StageRecords(storage, options, catalogue=catalogue)
    partition = make_partition(catalogue.refs, {})

    def leave() -> str:
        worker = distributed.get_worker()
        before, worker._status = worker._status, Status.closing
        try:
            with job.open() as context:
                job.run(partition, context)
        except distributed.Reschedule:
            return "to be built by another"
        finally:
            worker._status = before
        return "built"

    assert client.submit(leave, pure=False).result() == "to be built by another"
    assert storage.list() == []


def test_a_commit_of_less_than_workers_reported_is_refused(
    client: distributed.Client, make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    served = make_sandbox(
        [make_record(number, {"a.zip": archive({"a.py": b"x = 1\n"})}) for number in (7, 8)]
    )
    catalogue = Catalogue.open(harvested(served, tmp_path))
    storage = Storage.open(tmp_path / "ds")

    class Losing(SilentProgress):
        """One staged record is lost between staging and commit: its worker's disk was its own."""

        def update(self, stage: str, counts: ProgressCounts) -> None:
            if stage == "records" and counts.done == 2:
                storage.remove([path for path in storage.list("staging/packs") if "/7-" in path])

    options = BuildOptions(partition_records=1)
    with pytest.raises(ClusterError, match=r"1 of 2 records .* are not in .* such as 7: "):
        build(catalogue, storage, client=client, options=options, progress=Losing())
    assert read_info(storage) is None
    assert build(catalogue, storage, client=client, options=options).n_records == 2


def test_a_flipped_bit_in_staging_is_fetched_again(
    client: distributed.Client, make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    records = [
        make_record(number, {"a.zip": archive({"a.py": b"x = %d\n" % number})}) for number in (7, 8)
    ]
    catalogue = harvested(make_sandbox(records), tmp_path)
    build(catalogue, tmp_path / "whole", client=client)
    storage = Storage.open(tmp_path / "ds")

    class Flipping(SilentProgress):
        def __init__(self) -> None:
            self.lines: list[str] = []
            self.flipped = False

        def say(self, line: str) -> None:
            self.lines.append(line)

        def update(self, stage: str, counts: ProgressCounts) -> None:
            if stage == "records" and counts.done == 2 and not self.flipped:
                self.flipped = True  # once: the same count may come again
                (path,) = (path for path in storage.list("staging/packs") if "/7-" in path)
                data = bytearray(storage.read(path))
                data[40] ^= 1
                storage.write(path, bytes(data))

    progress = Flipping()
    options = BuildOptions(partition_records=1)
    result = build(catalogue, storage, client=client, options=options, progress=progress)
    assert result.n_records == 2
    assert any("staging/packs/7-" in line and "built again" in line for line in progress.lines), (
        progress.lines
    )
    for name in ("images", "record_id"):
        path = f"images.zarr/{name}/c/0" + "/0/0" * (name == "images")
        assert storage.read(path) == (tmp_path / "whole" / path).read_bytes()
