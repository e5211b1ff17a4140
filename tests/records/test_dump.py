"""Harvests from a dump over HTTP: what a search would give, whatever happens to the dump."""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from serving import Faults, Sandbox
from synthetic import synthetic_corpus

from zml_dask.errors import NetworkError, UsageError
from zml_dask.records import dump_harvest
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.dump import DumpError
from zml_dask.records.harvest import HarvestOptions, HarvestResult, harvest
from zml_dask.records.journal import load_state
from zml_dask.records.native import LACKING
from zml_dask.sandbox.corpus import Corpus, Withdrawal, make_record
from zml_dask.sandbox.exporter import JSON_DUMP, json_dump
from zml_dask.sandbox.serialise import native_json
from zml_dask.sandbox.troubles import troubled_records

from .harvests import ClientOf, Interruption, Make

MADE = datetime(2026, 6, 1, tzinfo=UTC)


def corpus_of(count: int = 60) -> Corpus:
    corpus = synthetic_corpus(count)
    corpus.add(*troubled_records())
    corpus.add(*(make_record(500 + n, resource_type="dataset") for n in range(20)))
    for number in range(5):
        when = datetime(2021, 1, 1 + number, tzinfo=UTC)
        corpus.add(make_record(600 + number, {"a.zip": b"PK"}, concept_id=599, created=when))
    return corpus


def tar_gz(entries: Iterable[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def natives(served: Sandbox) -> dict[str, dict[str, Any]]:
    return {
        f"{one.record_id}.json": native_json(one, served.api_url)
        for one in served.corpus
        if one.withdrawal is None
    }


def dump_of(entries: dict[str, dict[str, Any] | bytes]) -> bytes:
    return tar_gz(
        (name, one if isinstance(one, bytes) else json.dumps(one).encode())
        for name, one in entries.items()
    )


class Both:
    """Harvests a server by its dump and by its search."""

    def __init__(self, served: Sandbox, client_of: ClientOf, folder: Path) -> None:
        self.served = served
        self.client_of = client_of
        self.dumped = folder / "dump.jsonl"
        self.searched = folder / "search.jsonl"
        self.said: list[str] = []

    def by_dump(self, wanted: str = "newest", **options: Any) -> HarvestResult:
        return harvest(
            self.dumped,
            HarvestOptions(api_url=self.served.api_url, **options),
            self.client_of(self.served),
            from_dump=wanted,
            say=self.said.append,
        )

    def by_search(self, **options: Any) -> HarvestResult:
        asked = HarvestOptions(api_url=self.served.api_url, **options)
        return harvest(self.searched, asked, self.client_of(self.served))

    def assert_equal(self) -> None:
        one, other = (
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in (self.dumped, self.searched)
        )
        assert [hit["id"] for hit in one] == [hit["id"] for hit in other]
        for hit in (*one, *other):
            for name in LACKING:
                hit.pop(name, None)
        assert one == other
        opened, expected = Catalogue.open(self.dumped), Catalogue.open(self.searched)
        assert list(map(opened.read, opened.refs)) == list(map(expected.read, expected.refs))


@pytest.fixture
def both(make_sandbox: Make, client_of: ClientOf, tmp_path: Path) -> Both:
    served = make_sandbox(corpus_of())
    served.exporter.make(served.api_url, MADE)
    return Both(served, client_of, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"all_versions": True},
        {"exclude": ""},
        {"exclude": "tool1"},
        {"since": "2018-01-01"},
        {"since": "2018-01-01", "until": "2022-06-30"},
        {"query": "license:mit AND NOT keywords:group3"},
        {"query": 'title:(tool1 OR tides) OR created:["2024-01-01T00:00:00Z" TO *]'},
        {"query": "filetype:zip AND files.count:[1 TO 2]", "all_versions": True},
        {"query": "recid:601 OR conceptrecid:599", "all_versions": True},
    ],
)
def test_a_dump_gives_the_catalogue_of_a_search(both: Both, options: dict[str, Any]) -> None:
    result = both.by_dump(**options)
    assert result.finished
    searches = len(both.served.requests.searches)
    assert searches <= 1
    expected = both.by_search(**options)
    both.assert_equal()
    assert result.records == result.written == expected.records > 0
    assert not list(both.dumped.parent.glob(f"*{JSON_DUMP}*"))
    state = load_state(both.dumped)
    assert state is not None
    assert state.dump is None
    # From here on it is a harvest like any other.
    now = datetime.now(UTC)
    when = now - timedelta(minutes=1)
    both.served.corpus.add(make_record(900_000_001, {"b.zip": b"PK"}, created=when, title="tides"))
    both.by_dump(**options)
    both.by_search(**options)
    both.assert_equal()


def test_what_is_newer_than_the_dump_comes_from_the_search(both: Both) -> None:
    later = MADE + timedelta(days=3)
    corpus = both.served.corpus
    corpus.add(
        make_record(700, {"a.zip": b"PK"}, created=later),
        make_record(605, {"a.zip": b"PK"}, concept_id=599, created=later),
    )
    corpus.withdraw(601)
    first = next(iter(synthetic_corpus(60)))
    corpus.withdraw(first.record_id, Withdrawal(reason="spam"))
    both.served.exporter.make(both.served.api_url, later)
    both.served.exporter._versions[-1].contents[JSON_DUMP]._make = (
        both.served.exporter._versions[0].contents[JSON_DUMP].source
    )
    both.by_dump()
    assert len(both.served.requests.searches) == 1
    both.by_search()
    both.assert_equal()


def test_a_downloaded_file_and_a_version_are_taken_by_name(both: Both, tmp_path: Path) -> None:
    newest = both.served.exporter.versions(both.served.api_url)[0]
    both.by_search()
    both.by_dump(newest.version_id)
    both.assert_equal()
    both.dumped.unlink()
    both.dumped.with_name("dump.jsonl.state.json").unlink()
    file = tmp_path / "mine.tar.gz"
    content = newest.contents[JSON_DUMP].source
    assert isinstance(content, bytes)
    file.write_bytes(content)
    both.served.requests.clear()
    both.by_dump(str(file))
    assert not both.served.requests.to(JSON_DUMP)
    both.assert_equal()
    assert file.read_bytes() == content
    with pytest.raises(DumpError, match=newest.version_id):
        harvest(
            tmp_path / "other.jsonl",
            HarvestOptions(api_url=both.served.api_url),
            both.client_of(both.served),
            from_dump="0000-1111",
        )
    with pytest.raises(UsageError, match="no file"):
        harvest(tmp_path / "o.jsonl", client=both.client_of(both.served), from_dump="a/b.tar.gz")


def test_limits_take_the_oldest_and_a_larger_one_goes_on(both: Both) -> None:
    assert not both.by_dump(limit=10).finished
    both.by_search(limit=10)
    both.assert_equal()
    both.by_dump(limit=30)
    both.by_search(limit=30)
    both.assert_equal()
    assert both.by_dump().finished
    both.by_search()
    both.assert_equal()


@pytest.mark.parametrize("fault", ["cut_every", "stall_every", "corrupt_every", "lie_every"])
def test_a_transfer_that_breaks_off_or_is_damaged_is_made_good(both: Both, fault: str) -> None:
    both.served.faults = Faults(**{fault: 2})
    # The list of deleted records is the second body in most of them.
    both.by_dump()
    both.served.faults = Faults()
    both.by_search()
    both.assert_equal()


def test_a_resumed_download_asks_for_the_rest_alone(both: Both) -> None:
    size = both.served.exporter.versions(both.served.api_url)[0].contents[JSON_DUMP].size
    both.served.faults = Faults(cut_every=1)
    with pytest.raises(NetworkError):
        both.by_dump()
    both.served.faults = Faults()
    asked = [seen.range for seen in both.served.requests.to(JSON_DUMP)]
    there = both.dumped.with_name(f"dump.jsonl.{JSON_DUMP}.part").stat().st_size
    assert size / 2 < there < size
    both.served.requests.clear()
    both.by_dump()
    [again] = both.served.requests.to(JSON_DUMP)
    assert again.range == f"bytes={there}-"
    assert asked[0] is None
    both.by_search()
    both.assert_equal()


def test_a_dump_that_is_not_what_its_listing_says_is_refused(both: Both) -> None:
    version = both.served.exporter.versions(both.served.api_url)[0]
    dump = version.contents[JSON_DUMP]
    dump._made = (dump.source, dump.size, "0" * 32)
    with pytest.raises(DumpError, match="not what its listing says"):
        both.by_dump()
    assert Catalogue.open(both.dumped).refs.record_ids.tolist() == []


def test_a_dump_that_is_replaced_meanwhile_is_given_up_for_the_new_one(both: Both) -> None:
    exporter = both.served.exporter
    both.served.faults = Faults(cut_every=1)
    with pytest.raises(NetworkError):
        both.by_dump()
    both.served.faults = Faults()
    both.served.corpus.add(make_record(800, {"a.zip": b"PK"}, created=MADE))
    for month in (7, 8, 9):
        exporter.make(both.served.api_url, datetime(2026, month, 1, tzinfo=UTC))
    both.by_dump()
    assert any("replaced" in line for line in both.said)
    both.by_search()
    both.assert_equal()


def test_entries_without_files_or_half_written_are_completed_one_by_one(both: Both) -> None:
    served = both.served
    entries: dict[str, Any] = natives(served)
    latest = [name for name, one in entries.items() if one["versions"]["is_latest"]]
    without = [name for name in latest if entries[name]["files"].get("entries")][:4]
    for name in without:
        entries[name]["files"] = {"enabled": True}
    half = [name for name in entries if name not in without][10:13]
    for name in half:
        text = json.dumps(entries[name]).encode()
        entries[name] = text[: len(text) // 2]
    entries["notes.txt"] = b"not a record"
    entries["77.json"] = b""
    served.exporter.make(served.api_url, MADE, {JSON_DUMP: dump_of(entries)})
    both.by_dump()
    asked = [seen.path for seen in served.requests if re.fullmatch(r"/api/records/\d+", seen.path)]
    expected = {name.removesuffix(".json") for name in (*without, *half, "77.json")}
    assert {path.rpartition("/")[2] for path in asked} == expected
    assert len(asked) == len(expected)
    both.by_search()
    both.assert_equal()


def test_a_dump_full_of_damage_is_refused_instead_of_asked_for_record_by_record(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_harvest, "_MOST_DAMAGED", 5)
    served = both.served
    broken = dict.fromkeys(natives(served), b'{"id": "7", "metad')
    served.exporter.make(served.api_url, MADE, {JSON_DUMP: dump_of(broken)})
    with pytest.raises(DumpError, match="cannot be read"):
        both.by_dump()
    assert len(served.requests) < 12


@pytest.mark.parametrize("kind", ["cut", "not a tar", "not gzip", "flipped"])
def test_a_damaged_file_is_refused_and_the_right_one_goes_on(
    both: Both, tmp_path: Path, kind: str
) -> None:
    content = json_dump(list(both.served.corpus), both.served.api_url)
    middle = len(content) // 2
    damaged = {
        "cut": content[:middle],
        "not a tar": gzip.compress(b"hello" * 1000),
        "not gzip": b"hello" * 1000,
        "flipped": content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :],
    }
    file = tmp_path / "mine.tar.gz"
    file.write_bytes(damaged[kind])
    with pytest.raises(DumpError, match="download it again") as caught:
        both.by_dump(str(file))
    assert "\n" not in str(caught.value)
    file.write_bytes(content)
    both.by_dump(str(file))
    both.by_search()
    both.assert_equal()


@pytest.mark.parametrize("batch", [1, 7])
def test_interrupted_anywhere_it_goes_on_without_asking_for_what_it_has(
    both: Both, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(dump_harvest, "_BATCH", batch)
    served = both.served
    entries: dict[str, Any] = natives(served)
    # Some wanted, and one that is excluded only once it is known.
    names = ["2000001.json", "2000021.json", "2000041.json", "16000011.json"]
    for name in names:
        entries[name]["files"] = {"enabled": True}
    served.exporter.make(served.api_url, MADE, {JSON_DUMP: dump_of(entries)})
    from zml_dask.records.journal import Journal

    save, countdown = Journal.save, [0]

    def failing(journal: Journal, state: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Interruption
        return save(journal, state)

    monkeypatch.setattr(Journal, "save", failing)
    interruptions = 0
    for step in range(1, 400):
        countdown[0] = 1 + step % 9
        try:
            both.by_dump()
        except Interruption:
            interruptions += 1
        else:
            break
    assert interruptions > 5
    monkeypatch.undo()
    asked = [seen.path for seen in served.requests if re.fullmatch(r"/api/records/\d+", seen.path)]
    # At most the one request whose answer was not yet noted when it was interrupted.
    assert len(asked) <= len(names) + interruptions
    assert len(served.requests.to(f"{JSON_DUMP}/")) == 1
    both.by_search()
    both.assert_equal()


def test_a_server_without_dumps_says_so_in_one_line(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.sandbox.routes._EXPORTER", re.compile("/none"))
    served = make_sandbox(corpus_of())
    with pytest.raises(DumpError, match="without --from-dump") as caught:
        Both(served, client_of, tmp_path).by_dump()
    assert "\n" not in str(caught.value)


def test_a_query_that_a_dump_cannot_be_asked_names_the_fields_before_anything_is_loaded(
    both: Both,
) -> None:
    with pytest.raises(UsageError, match=r"grants.*keywords"):
        both.by_dump(query="grants.code:101")
    assert not both.served.requests.to("exporter")


def test_the_deleted_list_is_read_once_and_a_damaged_one_costs_nothing(both: Both) -> None:
    served = both.served
    served.exporter.make(
        served.api_url, MADE, {"records-deleted.csv.gz": gzip.compress(b"hello\n")}
    )
    both.by_dump()
    assert len(served.requests.to("records-deleted")) == 1
    assert any("records-deleted" in line for line in both.said)
    both.by_search()
    both.assert_equal()


def test_the_command_says_what_it_does(
    both: Both, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = run(
        "harvest", tmp_path / "c.jsonl", "--api-url", both.served.api_url, "--from-dump"
    )
    assert status == 0, err
    assert "records in the dump" in err
    assert "new records" in out
    status, _, err = run(
        "harvest", tmp_path / "d.jsonl", "--from-dump", "x.tar.gz", "--api-url", both.served.api_url
    )
    assert (status, "no file x.tar.gz" in err) == (2, True)


def test_a_killed_process_goes_on_and_downloads_the_dump_once(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(3_500))
    served.exporter.make(served.api_url, MADE)
    both = Both(served, client_of, tmp_path)
    words = [sys.executable, "-m", "zml_dask", "harvest", str(both.dumped), "--from-dump"]
    words += ["--api-url", served.api_url]
    for written in (1, 2_500_000, 5_000_000):
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if both.dumped.exists() and both.dumped.stat().st_size >= written:
                    process.kill()
                time.sleep(0.005)
        assert process.returncode == -signal.SIGKILL
    subprocess.run(words, check=True, capture_output=True)
    assert len(served.requests.to(f"{JSON_DUMP}/")) == 1
    both.by_search()
    both.assert_equal()


MEASURED = """
import resource, sys
from zml_dask.cli.main import main
try: main(sys.argv[1:])
finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_dump(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(corpus_of(20))
    wanted = dump_of(natives(served))
    others = [make_record(10**7 + n, resource_type="dataset") for n in range(1000)]
    block = gzip.decompress(json_dump(others, served.api_url))
    # Without the blocks that end a tar: other entries follow, and the records that are wanted.
    block = gzip.compress(block[: len(block.rstrip(b"\0")) // 512 * 512 + 512], 1)
    megabytes = []
    for repeated in (1, 60):
        dump = tmp_path / f"{repeated}.tar.gz"
        with dump.open("wb") as file:
            for _ in range(repeated):
                file.write(block)
            file.write(wanted)
        served.exporter.make(served.api_url, MADE, {JSON_DUMP: dump})
        words = ["harvest", str(tmp_path / f"{repeated}.jsonl"), "--from-dump"]
        ran = subprocess.run(
            [sys.executable, "-c", MEASURED, *words, "--api-url", served.api_url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        megabytes.append(int(ran.stderr.splitlines()[-1]))
        both = Both(served, client_of, tmp_path)
        both.dumped = tmp_path / f"{repeated}.jsonl"
        both.by_search()
        both.assert_equal()
    # All entries together are more than five times that.
    assert megabytes[1] - megabytes[0] < 12
