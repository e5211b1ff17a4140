"""Partitions, the memory calculation, progress and advice."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from random import Random

import distributed
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Sandbox

import zml_dask
from zml_dask.engine.clusters.cluster_options import ClusterOptions
from zml_dask.engine.log import build_log
from zml_dask.engine.progress import PlainProgress, ProgressCounts, open_progress
from zml_dask.failures import FAILURES, advice_for
from zml_dask.fetch.foreign import FOREIGN_MEMORY
from zml_dask.pipeline.build import build
from zml_dask.pipeline.build_options import BuildOptions, memory_need, memory_warning
from zml_dask.pipeline.outcome import failure_row
from zml_dask.pipeline.stage import plan_partitions
from zml_dask.pipeline.status import failure_groups
from zml_dask.records.catalogue import RecordRef, RefTable
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.store.layout import LOG, ImageShape
from zml_dask.store.staging import FailureRow
from zml_dask.store.storage import Storage

from .datasets import archive, harvested


@given(
    sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=200),
    most=st.integers(1, 20),
    most_bytes=st.integers(1, 3000),
    workers=st.integers(1, 8),
)
def test_partitions_hold_every_record_once_within_bounds_largest_first(
    sizes: list[int], most: int, most_bytes: int, workers: int
) -> None:
    refs = RefTable.of(RecordRef(i, i, 1, size) for i, size in enumerate(sizes))
    options = BuildOptions(partition_records=most, partition_bytes=most_bytes)
    plan = plan_partitions(refs, options, workers=workers, attempts={3: 2})
    held = [ref.record_id for partition in plan for ref in partition.refs]
    assert sorted(held) == list(range(len(sizes)))
    assert len({partition.name for partition in plan}) == len(plan)
    largest = [max(ref.archive_bytes for ref in partition.refs) for partition in plan]
    assert largest == sorted(largest, reverse=True)
    for partition in plan:
        sizes_here = [ref.archive_bytes for ref in partition.refs]
        assert len(sizes_here) <= most
        assert len(sizes_here) == 1 or sum(sizes_here) <= most_bytes
        assert partition.attempts == ({3: 2} if 3 in partition.refs.record_ids else {})


def test_the_same_records_make_the_same_partitions() -> None:
    refs = RefTable.of(RecordRef(i, i, 1, i % 7) for i in range(100))
    plans = [plan_partitions(refs, BuildOptions(), workers=2, attempts={}) for _ in range(2)]
    assert [one.name for one in plans[0]] == [one.name for one in plans[1]]


def test_the_largest_archives_are_fetched_first(client: distributed.Client, tmp_path: Path) -> None:
    order = [5, 1, 9, 3, 7]
    records = [
        # Random, so that an archive's size follows from its content's.
        make_record(number, {"a.zip": archive({"a.bin": Random(1).randbytes(5000 * number)})})
        for number in order
    ]
    with Sandbox(Corpus(records)) as sandbox:
        catalogue = harvested(sandbox, tmp_path)
        options = BuildOptions(partition_records=1, prefetch=0)
        build(catalogue, tmp_path / "ds", client=client, options=options)
        fetched = [int(seen.path.split("/")[3]) for seen in sandbox.requests.downloads]
    assert fetched == [9, 7, 5, 3, 1]


def test_memory_is_worked_out_before_anything_runs() -> None:
    small, large = BuildOptions(), BuildOptions(image=ImageShape(400, 400))
    assert max(memory_need(small)) < 2**30
    assert memory_warning(small, 4096, [0, 2**30]) is None
    assert memory_need(small)[0] > FOREIGN_MEMORY  # of the process beside the worker
    assert memory_need(large)[1] - memory_need(small)[1] > 4 * 4096 * 6400 * 4
    warning = memory_warning(large, 4096, [8 * 2**30, 2**30])
    assert warning is not None
    assert "\n" not in warning
    assert re.search(r"may need [\d.]+ GiB .* the smallest has 1.00 GiB", warning)


def test_plain_progress_writes_a_line_now_and_then() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, interval=3600)
    for done in range(100):
        progress.update("records", ProgressCounts(done, 100, waiting=done))
    for _ in range(3):
        progress.update("records", ProgressCounts(100, 100, 2, 30, 4000))
    assert stream.getvalue().splitlines() == [
        "records: 0/100",
        "records: 100/100, 2 failed, 30 files, 4,000 images",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_lines_that_are_no_markup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with open_progress(stream) as progress:
        progress.update("records", ProgressCounts(0, 2))
        progress.say("record 1 failed: [bold]not markup[/bold]")
        progress.update("records", ProgressCounts(1, 2, waiting=12.4))
    assert "[bold]not markup[/bold]" in stream.getvalue()
    assert "waiting 12 s for the server's limit" in stream.getvalue()
    with open_progress(stream, quiet=True) as progress:
        before = stream.getvalue()
        progress.say("nothing")
        assert stream.getvalue() == before


def test_every_kind_of_failure_is_in_the_table() -> None:
    raised = re.compile(r'\b(?:RecordError|NetworkError|RecordParseError)\(\s*"(\w+)"')
    sources = Path(zml_dask.__file__).parent.rglob("*.py")
    kinds = {kind for source in sources for kind in raised.findall(source.read_text())}
    assert len(kinds) > 25
    assert kinds <= set(FAILURES)
    assert all(failure.advice for failure in FAILURES.values())
    assert advice_for("unheard of", permanent=True) != advice_for("unheard of", permanent=False)


def test_a_failure_is_one_bounded_line() -> None:
    row = failure_row(1, ValueError("a\n\nb" + "x" * 10_000), 3)
    assert row.message.startswith("ValueError: a bxxx")
    assert len(row.message) == 500
    assert (row.kind, row.attempts, row.permanent) == ("internal", 3, False)
    full = failure_row(1, OSError(28, "No space left on device"), 1)
    assert full.kind == "disk_full"
    assert failure_row(1, MemoryError(), 1).kind == "memory"


def test_a_dataset_may_lie_in_an_object_store(client: distributed.Client, tmp_path: Path) -> None:
    import fsspec

    with Sandbox(Corpus([make_record(7, {"a.zip": archive({"a.py": b"1\n2\n"})})])) as sandbox:
        catalogue = harvested(sandbox, tmp_path)
        try:
            result = build(catalogue, "memory://planning/ds", client=client)
            assert (result.n_images, result.n_records) == (1, 1)
            assert not build(catalogue, "memory://planning/ds", client=client).committed
            log = fsspec.filesystem("memory").cat("/planning/ds/build.log.jsonl").splitlines()
            assert [json.loads(line)["event"] for line in log] == [
                "start",
                "record",
                "end",
                "start",
                "end",
            ]
            dataset = zml_dask.open_dataset("memory://planning/ds")
            assert dataset.text(0) == "1\n2\n"
        finally:
            fsspec.filesystem("memory").store.clear()


def test_the_log_goes_on_after_a_line_that_a_crash_tore(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    storage.write(LOG, b'{"time": "2026-01-01", "ev')
    with build_log(storage) as log:
        log.write("start", catalogue="c\x1b[31m\n")
    lines = storage.read(LOG).splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1])["catalogue"] == "c\x1b[31m\n"
    assert b"\x1b" not in lines[1]


def test_the_log_is_not_world_writable(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with build_log(Storage.open(tmp_path)) as log:
            log.write("start")
    finally:
        os.umask(old)
    assert (tmp_path / LOG).stat().st_mode & 0o002 == 0


def test_failures_of_a_kind_are_shown_by_different_examples() -> None:
    rows = [
        FailureRow(number, "fetch", kind, message, 1, kind == "gone")
        for number, (kind, message) in enumerate(
            [("gone", "a"), ("gone", "a"), ("gone", "b"), ("gone", "c"), ("gone", "d"), ("x", "a")]
        )
    ]
    groups = failure_groups(rows)
    assert [(group.kind, group.records, group.permanent) for group in groups] == [
        ("gone", 5, 5),
        ("x", 1, 0),
    ]
    assert [row.message for row in groups[0].examples] == ["a", "b", "c"]
    assert all(group.advice for group in groups)


def test_the_dashboard_is_reached_from_this_machine_alone() -> None:
    for dashboard in (None, "off"):
        address = ClusterOptions(dashboard=dashboard).scheduler_options["dashboard_address"]
        assert address.rpartition(":")[0] == "127.0.0.1"
