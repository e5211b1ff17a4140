"""The update: what is new since, and what was withdrawn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import distributed
import pytest
from serving import Faults, Sandbox

from zml_dask.engine.executors import DaskExecutor
from zml_dask.engine.progress import SilentProgress
from zml_dask.errors import UsageError
from zml_dask.fetch.fetched import FetchedRecord
from zml_dask.net.client import HttpClient
from zml_dask.pipeline import process
from zml_dask.pipeline.build import build
from zml_dask.pipeline.build_options import BuildOptions, options_from
from zml_dask.pipeline.inputs import check_target
from zml_dask.pipeline.update import options_of_dataset, update
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.record import Record
from zml_dask.sandbox.corpus import Withdrawal, make_record
from zml_dask.store.info import read_info, replace_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.storage import Storage

from .datasets import archive, array_bytes, harvested, small_records, tables


def test_an_update_appends_what_is_new_and_drops_what_is_gone(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    served = make_sandbox(small_records(5))
    options = BuildOptions(image=ImageShape(40, 60), keep_binary=True)
    catalogue = harvested(served, tmp_path)
    build(catalogue, tmp_path / "ds", client=client, options=options)
    storage = Storage.open(tmp_path / "ds")
    before = tables(tmp_path / "ds")["records"]
    served.requests.clear()

    now = datetime.now(UTC)
    served.corpus.add(
        make_record(5000, {"a.zip": archive({"a.py": b"1\n"})}, created=now - timedelta(hours=1)),
        make_record(
            5001,
            {"a.zip": archive({"a.py": b"2\n"})},
            created=now - timedelta(hours=1),
            concept_id=999,
        ),
    )
    served.corpus.withdraw(1002)
    recorded = options_from(options_of_dataset(check_target(storage)))
    assert (recorded.image, recorded.keep_binary) == (options.image, True)
    with HttpClient() as http:
        result = update(storage, lambda: nullcontext(DaskExecutor(client)), http, options=recorded)
    assert result.new == 2
    assert list(result.withdrawn) == [1002]
    assert not result.dropped
    fetched = {seen.path.split("/")[3] for seen in served.requests.downloads}
    assert fetched == {"5000", "5001"}
    records = tables(tmp_path / "ds")["records"]
    assert records[:5] == before
    assert [row["record_id"] for row in records[5:]] == [5000, 5001]

    arrays = array_bytes(tmp_path / "ds")
    with HttpClient() as http:
        result = update(
            storage,
            lambda: nullcontext(DaskExecutor(client)),
            http,
            options=recorded,
            drop_withdrawn=True,
        )
        assert (result.new, list(result.withdrawn), result.dropped) == (0, [1002], True)
        assert [row["record_id"] for row in tables(tmp_path / "ds")["withdrawn"]] == [1002]
        again = update(storage, lambda: nullcontext(DaskExecutor(client)), http, options=recorded)
    assert again.withdrawn == {}
    assert array_bytes(tmp_path / "ds") == arrays, "the store was rewritten"


def test_a_dataset_without_a_harvest_cannot_be_updated(
    client: distributed.Client, tmp_path: Path
) -> None:
    code = tmp_path / "code.zip"
    code.write_bytes(archive({"a.py": b"1\n"}))
    (tmp_path / "mine.jsonl").write_text(
        f'{{"id": 7, "files": [{{"key": "code.zip", "url": "{code.as_uri()}"}}]}}'
    )
    said: list[str] = []
    build(tmp_path / "mine.jsonl", tmp_path / "ds", client=client, progress=lines_of(said))
    assert "harvest" not in " ".join(said), "who wrote a catalogue by hand knows"
    with HttpClient() as http, pytest.raises(UsageError, match="not built from"):
        update(str(tmp_path / "ds"), lambda: nullcontext(DaskExecutor(client)), http)


def test_what_failed_is_asked_for_again_by_its_number(
    make_sandbox: Callable[..., Sandbox],
    client: distributed.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = make_sandbox(small_records(3))
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    storage = Storage.open(tmp_path / "ds")
    info = read_info(storage)
    assert info is not None
    assert info.harvest is not None
    # As if that had been long ago: what comes next is older than an update looks back.
    long_ago = {**info.harvest, "complete_until": "2020-01-05T00:00:00.000Z"}
    replace_info(storage, info, replace(info, harvest=long_ago))
    when = datetime(2020, 1, 10, tzinfo=UTC)
    for number in (5000, 5001, 5002):
        code = archive({"a.py": b"%d\n" % number})
        served.corpus.add(make_record(number, {"a.zip": code}, created=when))
    served.faults = Faults(wrong_checksums=frozenset({5002}))
    row_of = process.record_row

    def fails_once(record: Record, fetched: FetchedRecord) -> dict[str, Any]:
        row = row_of(record, fetched)
        return row | {"keywords": object()} if record.record_id == 5001 else row

    def updated(**options: bool) -> tuple[int, list[int], list[int]]:
        with HttpClient() as http:
            done = update(
                storage,
                lambda: nullcontext(DaskExecutor(client)),
                http,
                options=BuildOptions(**options),
            )
        there = tables(tmp_path / "ds")
        return done.new, *(
            [row["record_id"] for row in there[name] if row["record_id"] >= 5000]
            for name in ("records", "failures")
        )

    with monkeypatch.context() as patch:
        patch.setattr(process, "record_row", fails_once)
        assert updated() == (3, [5000], [5001, 5002])
    served.faults = Faults()
    served.requests.clear()
    assert updated() == (1, [5000, 5001], [5002])
    assert updated(retry_failed=True) == (1, [5000, 5001, 5002], [])
    assert updated(retry_failed=True) == (0, [5000, 5001, 5002], [])
    fetched = [seen.path.split("/")[3] for seen in served.requests.downloads]
    assert fetched == ["5001", "5002"]


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def lines_of(progress: list[str]) -> Any:
    class Said(SilentProgress):
        def say(self, line: str) -> None:
            progress.append(line)

    return Said()


def test_an_embargo_that_ended_is_noticed_and_one_that_has_not_costs_no_build(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    kept = make_record(
        3000, {"a.zip": archive({"a.py": b"1\n"})}, access="embargoed", created=LONG_AGO
    )
    served = make_sandbox([*small_records(2), kept])
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    [failed] = [row for row in tables(tmp_path / "ds")["failures"] if row["record_id"] == 3000]
    assert (failed["kind"], failed["permanent"]) == ("embargoed", False)
    said: list[str] = []
    with HttpClient() as http:
        storage = Storage.open(tmp_path / "ds")
        before = update(
            storage, lambda: nullcontext(DaskExecutor(client)), http, progress=lines_of(said)
        )
        assert (before.new, before.build) == (0, None)
        assert "still under an embargo: 1 record" in said
        served.corpus.add(replace(kept, access="open"))
        assert update(storage, lambda: nullcontext(DaskExecutor(client)), http).new == 1
    assert 3000 in {row["record_id"] for row in tables(tmp_path / "ds")["records"]}


def test_nobody_asks_for_a_record_before_the_date_of_its_embargo(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    ends = {3000: today + timedelta(days=9), 3001: today, 3002: today - timedelta(days=9)}
    kept = [
        make_record(number, {"a.zip": archive({"a.py": b"1\n"})}, access="embargoed",
                    created=LONG_AGO, embargo_date=end.isoformat())
        for number, end in ends.items()
    ]  # fmt: skip
    served = make_sandbox([*small_records(2), *kept])
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    served.corpus.add(*(replace(one, access="open", embargo_date=None) for one in kept))
    served.requests.clear()
    said: list[str] = []
    with HttpClient() as http:
        done = update(
            str(tmp_path / "ds"),
            lambda: nullcontext(DaskExecutor(client)),
            http,
            progress=lines_of(said),
        )
    assert done.new == 2
    assert f"the first until {ends[3000]}" in " ".join(said)
    fetched = {seen.path.split("/")[3] for seen in served.requests.downloads}
    assert fetched == {"3001", "3002"}
    assert not any("3000" in str(seen) for seen in served.requests.searches)


def test_an_embargo_that_was_extended_is_asked_about_once(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    kept = make_record(
        3000,
        {"a.zip": archive({"a.py": b"1\n"})},
        access="embargoed",
        created=LONG_AGO,
        embargo_date=today.isoformat(),
    )
    served = make_sandbox([*small_records(2), kept])
    said: list[str] = []
    build(harvested(served, tmp_path), tmp_path / "ds", client=client, progress=lines_of(said))
    assert "note: " not in " ".join(said)
    until = (today + timedelta(days=90)).isoformat()
    served.corpus.add(replace(kept, embargo_date=until))

    def updated() -> None:
        served.requests.clear()
        said.clear()
        executor = DaskExecutor(client)
        with HttpClient() as http:
            update(
                str(tmp_path / "ds"), lambda: nullcontext(executor), http, progress=lines_of(said)
            )

    updated()
    assert f"embargo extended: 1 record, the first until {until}" in " ".join(said)
    [failed] = [row for row in tables(tmp_path / "ds")["failures"] if row["record_id"] == 3000]
    assert until in str(failed["message"])
    updated()
    assert f"under an embargo: 1 record, the first until {until}" in " ".join(said)
    assert not any("3000" in str(seen) for seen in served.requests.searches)
    assert not served.requests.to("records/3000")


def test_a_new_version_says_of_what_it_is_one(
    make_sandbox: Callable[..., Sandbox],
    client: distributed.Client,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    records = small_records(3)
    served = make_sandbox(records)
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    old = records[1]
    code = {"a.zip": archive({"a.py": b"2\n"})}
    now = datetime.now(UTC) - timedelta(minutes=30)
    served.corpus.add(make_record(5000, code, created=now, concept_id=old.concept))
    served.corpus.add(make_record(5001, code, created=now))
    status, out, err = run("update", tmp_path / "ds", "--workers", "1")
    assert status == 0, err
    versions = [line for line in out.splitlines() if line.startswith("new version")]
    assert versions == [
        f"new version: record 5000: of record {old.record_id}; the dataset keeps both"
    ]
    event = json.loads((tmp_path / "ds" / "build.log.jsonl").read_text().splitlines()[-1])
    assert event["new_versions"] == {"5000": old.record_id}


def test_withdrawals_come_from_the_list_with_their_reasons_and_replaced_files_are_told(
    make_sandbox: Callable[..., Sandbox], client: distributed.Client, tmp_path: Path
) -> None:
    records = small_records(4)
    served = make_sandbox(records)
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    served.corpus.withdraw(records[0].record_id, Withdrawal("retracted", "Wrong tides"))
    served.corpus.withdraw(records[1].record_id, Withdrawal("spam", ""))
    [key] = records[2].files
    other = make_record(records[2].record_id, {key: archive({"b.py": b"2\n"})}).files
    now = datetime.now(UTC)
    served.corpus.add(replace(records[2], files=other, updated=now))
    served.corpus.add(replace(records[3], title="Another title", updated=now))
    served.requests.clear()
    storage = Storage.open(tmp_path / "ds")
    with HttpClient() as http:
        result = update(
            storage, lambda: nullcontext(DaskExecutor(client)), http, drop_withdrawn=True
        )
    first, second = (one.record_id for one in records[:2])
    assert result.withdrawn[first].startswith("retracted, Wrong tides, 2025")
    assert list(result.withdrawn) == [first, second]
    assert result.republished == {records[2].record_id: f"another checksum of {key}"}
    # New ones, edited ones, and the list: nobody was asked for by number.
    assert len(served.requests.searches) == 2
    assert len(served.requests.to("exporter")) == 1
    gone = {row["record_id"]: row["reason"] for row in tables(tmp_path / "ds")["withdrawn"]}
    assert gone == dict(result.withdrawn)
    event = json.loads((tmp_path / "ds" / "build.log.jsonl").read_text().splitlines()[-1])
    assert event["event"] == "update"
    assert event["republished"] == {str(k): v for k, v in result.republished.items()}
    assert (event["dropped"], len(event["withdrawn"])) == (True, 2)


def test_a_server_without_a_list_is_asked_by_number(
    make_sandbox: Callable[..., Sandbox],
    client: distributed.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zml_dask.sandbox.routes._EXPORTER", re.compile("/none"))
    records = small_records(3)
    served = make_sandbox(records)
    build(harvested(served, tmp_path), tmp_path / "ds", client=client)
    served.corpus.withdraw(records[1].record_id)
    with HttpClient() as http:
        result = update(str(tmp_path / "ds"), lambda: nullcontext(DaskExecutor(client)), http)
    assert list(result.withdrawn) == [records[1].record_id]


def test_after_a_bounded_harvest_it_says_why_nothing_is_asked_for(
    make_sandbox: Callable[..., Sandbox],
    client: distributed.Client,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    served = make_sandbox(small_records(3))
    options = HarvestOptions(api_url=served.api_url, until="2025-12-31")
    with HttpClient() as http:
        harvest(tmp_path / "c.jsonl", options, http)
        build(tmp_path / "c.jsonl", tmp_path / "ds", client=client)
        said: list[str] = []
        update(
            str(tmp_path / "ds"),
            lambda: nullcontext(DaskExecutor(client)),
            http,
            progress=lines_of(said),
        )
    assert any("--until 2025-12-31" in line for line in said)
    status, out, _ = run("update", tmp_path / "ds")
    assert status == 0
    assert "nothing new" in out
    assert "--until 2025-12-31" in out
