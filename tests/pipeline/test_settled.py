"""What becomes of a partition whose task did not end well."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import distributed
import pytest
from distributed.core import Status

from zml_dask.pipeline import bag
from zml_dask.pipeline.bag import LiveCounts
from zml_dask.pipeline.errors import BuildError
from zml_dask.pipeline.isolation import verdict
from zml_dask.pipeline.ledger import staged_outcomes
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.partition import Job, build_partition
from zml_dask.pipeline.partitioning import make_partition
from zml_dask.pipeline.workbench import Source
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.refs import RecordRef, RefTable
from zml_dask.sandbox.corpus import make_record
from zml_dask.sandbox.server import Sandbox
from zml_dask.store.staging import FailureRow, stage_failure
from zml_dask.store.storage import Storage

from .datasets import archive, harvested


def test_failures_that_dead_workers_noted_are_told_and_older_ones_tried_again(
    client: distributed.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.open(tmp_path / "ds")
    new = FailureRow(11, "fetch", "server", "in trouble", 2, False)
    old = FailureRow(12, "fetch", "server", "in trouble", 1, False)
    other = FailureRow(99, "fetch", "server", "in trouble", 1, False)
    for row in (new, old, other):
        stage_failure(storage, row)
    refs = RefTable.of(RecordRef(number, 0, 0, 0) for number in (11, 12, 13))
    partition = make_partition(refs, {11: 1, 12: 1})
    monkeypatch.setattr(bag, "judge", lambda _, left: verdict(left, {}))
    (result,), again = bag._isolate(client, partition, partial(staged_outcomes, storage))
    assert isinstance(result, bag.PartitionResult)
    assert [outcome.failure for outcome in result.outcomes] == [new]
    assert [[ref.record_id for ref in part.refs] for part in again] == [[12], [13]]


def test_a_record_that_is_told_of_twice_counts_once() -> None:
    counts = LiveCounts()
    for record in (11, 12, 11):
        counts.take((0.0, {"partition": "a", "record": record}))
    assert counts.total() == 2
    counts.finish("a")
    assert counts.total() == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "a worker failed with PermissionError"),
        (FileNotFoundError(2, "No such file"), "a worker failed with FileNotFoundError"),
        (ConnectionResetError(104, "reset"), "the Dask cluster was lost"),
    ],
)
def test_what_a_worker_raises_is_not_taken_for_a_lost_cluster(
    client: distributed.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    said: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bag, "build_partitions", fail)
    partition = make_partition(RefTable.of([RecordRef(7, 0, 0, 0)]), {})
    job = Job(Storage.open(tmp_path / "ds"), Source(""), BuildOptions())
    with pytest.raises(BuildError, match=said):
        list(bag.run_partitions(client, [partition], job, lambda _: []))


def test_a_worker_that_leaves_stages_nothing_more(
    client: distributed.Client, make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    served = make_sandbox([make_record(7, {"a.zip": archive({"a.py": b"x = 1\n"})})])
    catalogue = Catalogue.open(harvested(served, tmp_path))
    storage = Storage.open(tmp_path / "ds")
    job = Job(storage, Source.of(catalogue), BuildOptions(scratch=str(tmp_path)))
    partition = make_partition(catalogue.refs, {})

    def leave() -> str:
        worker = distributed.get_worker()
        before, worker._status = worker._status, Status.closing
        try:
            build_partition(partition, job)
        except distributed.Reschedule:
            return "to be built by another"
        finally:
            worker._status = before
        return "built"

    assert client.submit(leave, pure=False).result() == "to be built by another"
    assert storage.list() == []
