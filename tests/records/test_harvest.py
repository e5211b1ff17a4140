"""The harvest over HTTP: every record once, near the least number of requests, whatever happens."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zml_dask.net.errors import BadQueryError
from zml_dask.net.http import HttpClient, HttpOptions, JsonAnswer
from zml_dask.records import harvest_round, zenodo
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import BadPatternError, HarvestOptions, HarvestProgress, harvest
from zml_dask.records.harvest_round import SlicesIgnoredError
from zml_dask.records.journal import CatalogueWriteError, HarvestDiskError
from zml_dask.records.slices import BadDateError
from zml_dask.records.state import HarvestStateError, load_state
from zml_dask.sandbox import search
from zml_dask.sandbox.corpus import Corpus, Question, SandboxRecord, make_record
from zml_dask.sandbox.faults import Faults
from zml_dask.sandbox.server import Sandbox
from zml_dask.sandbox.synthetic import synthetic_corpus

Make = Callable[..., Sandbox]
ClientOf = Callable[..., HttpClient]


class Interruption(BaseException):
    """Stands for whatever ends a harvest in the middle."""


def ids_in(path: Path) -> list[int]:
    """All ids in a catalogue's lines, in their order."""
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def ids_of(corpus: Corpus) -> list[int]:
    return sorted(
        record.record_id
        for record in corpus
        if record.is_latest and record.withdrawal is None and record.resource_type == "software"
    )


def interrupt_after(pages: int) -> Callable[[HarvestProgress], None]:
    left = [pages]

    def progress(_: HarvestProgress) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interruption

    return progress


@pytest.fixture(scope="module")
def large() -> Corpus:
    """The corpus of the issue: 25,000 records, two and a half windows."""
    return synthetic_corpus(25_000)


@pytest.mark.slow
@pytest.mark.parametrize(("token", "size"), [(False, 25), (True, 100)])
def test_25_000_records_each_once_in_close_to_the_least_number_of_requests(
    large: Corpus,
    make_sandbox: Make,
    client_of: ClientOf,
    tmp_path: Path,
    token: bool,
    size: int,
) -> None:
    served = make_sandbox(large)
    path = tmp_path / "c.jsonl"
    options = HarvestOptions(api_url=served.api_url)
    for pages in (70, 31):
        with pytest.raises(Interruption):
            harvest(path, options, client_of(served, token=token), progress=interrupt_after(pages))
    result = harvest(path, options, client_of(served, token=token))
    assert result.records == len(large)
    assert result.missing == 0
    found = ids_in(path)
    assert len(found) == len(set(found))
    assert sorted(found) == ids_of(large)
    least = math.ceil(len(large) / size)
    # Three slices that are too large, four last pages that are not full, two
    # pages whose state was not yet written when the harvest ended.
    assert len(served.requests) <= least + 10
    assert {seen.status for seen in served.requests} == {200}
    assert all(seen.is_authenticated == token for seen in served.requests)


def test_a_finished_harvest_asks_only_for_what_is_new(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(120))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    harvest(path, options, client_of(served))
    served.requests.clear()
    nothing = harvest(path, options, client_of(served))
    assert (nothing.written, nothing.records) == (0, 120)
    assert len(served.requests) == 1
    served.corpus.add(make_record(9_000_001, created=datetime.now(UTC)))
    again = harvest(path, options, client_of(served))
    assert (again.written, again.records) == (1, 121)
    assert len(served.requests) == 2
    assert sorted(ids_in(path)) == ids_of(served.corpus)


def test_a_new_version_is_found_and_the_old_one_stays(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox([make_record(11, concept_id=10), make_record(13, concept_id=12)])
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    harvest(path, options, client_of(served))
    served.corpus.add(make_record(15, concept_id=10, created=datetime.now(UTC)))
    assert harvest(path, options, client_of(served)).written == 1
    assert ids_in(path) == [11, 13, 15]


def test_records_that_appear_and_disappear_meanwhile_cost_no_other_record(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    corpus = synthetic_corpus(300)
    stable = set(ids_of(corpus))
    served = make_sandbox(corpus)
    first = list(corpus)

    def progress(at: HarvestProgress) -> None:
        # After each of the first pages a record of an earlier page is superseded
        # by one created now: all later records move up by one.
        number = at.found // 25 - 1
        if 0 <= number < 6:
            old = first[number]
            stable.discard(old.record_id)
            corpus.add(
                make_record(
                    9_000_001 + 2 * number,
                    concept_id=old.concept,
                    created=datetime.now(UTC),
                )
            )

    path = tmp_path / "c.jsonl"
    result = harvest(
        path, HarvestOptions(api_url=served.api_url), client_of(served), progress=progress
    )
    found = ids_in(path)
    assert len(found) == len(set(found))
    assert stable <= set(found)
    assert set(ids_of(corpus)) <= set(found)
    assert result.missing == 0


class Wavering(Corpus):
    """A corpus behind two replicas of its index: one does not have the last record yet."""

    asked = 0

    def search(self, question: Question) -> Sequence[SandboxRecord]:
        self.asked += 1
        found = super().search(question)
        return found[:-1] if self.asked % 2 else found


def test_replicas_that_differ_do_not_keep_the_harvest_from_ending(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(Wavering(synthetic_corpus(151)))
    options = HarvestOptions(api_url=served.api_url)
    result = harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert result.finished
    assert result.records >= 150
    assert len(served.requests) < 25


@st.composite
def happenings(draw: st.DrawFn) -> list[tuple[int, str, int]]:
    """What happens after which page: to the n-th record of the corpus."""
    what = st.sampled_from(["withdraw", "supersede", "publish", "interrupt"])
    return draw(st.lists(st.tuples(st.integers(1, 12), what, st.integers(0, 39)), max_size=8))


@pytest.fixture
def tiny_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that shows twelve results, three a page."""
    for module in (zenodo, harvest_round, search):
        monkeypatch.setattr(module, "WINDOW", 12)
    monkeypatch.setattr(harvest_round, "GUEST_SIZES", (3,))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_window")
def test_no_order_of_events_loses_a_record_or_writes_it_twice(
    client_of: ClientOf, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @given(happenings())
    # A last page that is empty when it is asked for, since its record moved up.
    @example([(1, "withdraw", 17), (12, "withdraw", 18)])
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    def holds(events: list[tuple[int, str, int]]) -> None:
        corpus = synthetic_corpus(40)
        originals, stable = list(corpus), set(ids_of(corpus))
        pages = [0]

        def happen(what: str, number: int) -> None:
            old = originals[number]
            if what == "withdraw":
                corpus.withdraw(old.record_id)
            elif what == "interrupt":
                raise Interruption
            concept = old.concept if what == "supersede" else 0
            new_id = 9_000_001 + 2 * len(corpus)
            if what != "withdraw":
                corpus.add(make_record(new_id, concept_id=concept, created=datetime.now(UTC)))
            if what != "publish":
                stable.discard(old.record_id)

        def progress(_: HarvestProgress) -> None:
            pages[0] += 1
            for page, what, number in events:
                if page == pages[0]:
                    happen(what, number)

        path = tmp_path_factory.mktemp("harvest") / "c.jsonl"
        with Sandbox(corpus) as served:
            client, options = client_of(served), HarvestOptions(api_url=served.api_url)
            while True:
                try:
                    result = harvest(path, options, client, progress=progress)
                    break
                except Interruption:
                    continue
        found = ids_in(path)
        assert len(found) == len(set(found))
        assert stable <= set(found)
        assert result.records == len(found)

    holds()


def test_kill_9_loses_nothing_and_doubles_nothing(make_sandbox: Make, tmp_path: Path) -> None:
    served = make_sandbox(synthetic_corpus(400), faults=Faults(delay=0.05))
    path = tmp_path / "c.jsonl"
    command = [
        sys.executable,
        "-c",
        "from zml_dask.cli.main import main; main()",
        *("--quiet", "harvest", str(path), "--api-url", served.api_url),
    ]
    for pages in (4, 9):
        harvester = subprocess.Popen(command)
        while len(served.requests.searches) < pages:
            assert harvester.poll() is None
            time.sleep(0.01)
        harvester.send_signal(signal.SIGKILL)
        harvester.wait()
        with path.open("ab") as stream:
            stream.write(b'{"id": 12, "torn": ')
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "400 in" in finished.stdout
    assert sorted(ids_in(path)) == ids_of(served.corpus)
    assert len(served.requests) <= 400 / 25 + 2 + 2


def test_a_harvest_begun_as_guest_goes_on_with_a_token(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(500))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    for token, pages in ((False, 6), (True, 1), (False, 3)):
        client = client_of(served, token=token)
        with pytest.raises(Interruption):
            harvest(path, options, client, progress=interrupt_after(pages))
    harvest(path, options, client_of(served, token=True))
    assert sorted(ids_in(path)) == ids_of(served.corpus)


@pytest.mark.parametrize(("token", "granted"), [(True, 25), (False, 10)])
def test_smaller_pages_are_taken_where_no_larger_are_granted(
    make_sandbox: Make,
    client_of: ClientOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: bool,
    granted: int,
) -> None:
    monkeypatch.setattr(search, "TOKEN_PAGE" if token else "GUEST_PAGE", granted)
    served = make_sandbox(synthetic_corpus(90))
    options = HarvestOptions(api_url=served.api_url)
    result = harvest(tmp_path / "c.jsonl", options, client_of(served, token=token))
    assert result.records == 90
    assert [seen.status for seen in served.requests].count(400) == 1
    assert len(served.requests) == 1 + math.ceil(90 / granted) + 1


def test_the_type_of_every_hit_is_checked(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that no longer knows the argument ignores it, and answers with everything.
    monkeypatch.setattr(search, "_KNOWN", ("page", "q", "size", "sort"))
    records = [make_record(2 * n + 1, resource_type="dataset") for n in range(30)]
    served = make_sandbox([*records, make_record(101), make_record(103)])
    harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url), client_of(served))
    assert ids_in(tmp_path / "c.jsonl") == [101, 103]


@pytest.mark.usefixtures("tiny_window")
def test_a_server_that_ignores_slices_is_noticed(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_KNOWN", ("page", "size", "sort", "type"))
    served = make_sandbox(synthetic_corpus(40))
    options = HarvestOptions(api_url=served.api_url)
    with pytest.raises(SlicesIgnoredError, match="heed"):
        harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert len(served.requests) < 200


class Answering:
    """A client whose server says one thing to everything."""

    has_token = False
    options = HttpOptions(backoff=0.0)

    def __init__(self, payload: Any, date: str) -> None:
        self.answer = JsonAnswer(payload, {"Date": date}, 200)

    def get_json(self, url: str, params: Any = None) -> JsonAnswer:
        return self.answer


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
odd_hits = st.dictionaries(
    st.sampled_from(["id", "created", "metadata", "files", "title"]),
    json_values | st.integers(1, 9) | st.just({"resource_type": {"type": "software"}}),
)


@given(
    st.lists(odd_hits | json_values, max_size=6),
    st.integers(0, 60),
    st.text(max_size=20) | st.just("Mon, 23 Nov 2026 21:00:00 GMT"),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_server_lists_the_harvest_ends_with_a_sound_catalogue(
    tmp_path_factory: pytest.TempPathFactory, hits: list[Any], total: int, date: str
) -> None:
    path = tmp_path_factory.mktemp("odd") / "c.jsonl"
    client: Any = Answering({"hits": {"hits": hits, "total": total}}, date)
    result = harvest(path, HarvestOptions(exclude=""), client)
    assert len(Catalogue.open(path).refs) == result.records


@given(json_values)
@settings(max_examples=40)
def test_whatever_a_server_says_is_a_search_result_or_none(
    tmp_path_factory: pytest.TempPathFactory, payload: Any
) -> None:
    client: Any = Answering(payload, "")
    with pytest.raises(zenodo.NotASearchError):
        harvest(tmp_path_factory.mktemp("odd") / "c.jsonl", HarvestOptions(), client)


def test_a_bad_query_is_final_and_says_why(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    options = HarvestOptions(api_url=served.api_url, query="title:(unbalanced")
    with pytest.raises(BadQueryError, match="query"):
        harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert len(served.requests) == 1
    # It is corrected and asked again, for the same file.
    better = HarvestOptions(api_url=served.api_url + "/", query="title:(tool1)")
    assert harvest(tmp_path / "c.jsonl", better, client_of(served)).records == 1


def test_a_500_to_a_query_that_was_good_before_passes(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    options = HarvestOptions(api_url=served.api_url, query="tool*")

    def progress(_: HarvestProgress) -> None:
        if len(served.requests) == 1:
            served.faults = Faults(failing_searches=2, unavailable=1)

    result = harvest(tmp_path / "c.jsonl", options, client_of(served), progress=progress)
    assert result.records == 60


def test_more_records_in_one_instant_than_the_window_shows_are_told_of(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (zenodo, harvest_round, search):
        monkeypatch.setattr(module, "WINDOW", 50)
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    records = [make_record(2 * n + 1, created=moment) for n in range(60)]
    served = make_sandbox([*records, make_record(999)])
    result = harvest(
        tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url), client_of(served)
    )
    assert result.missing >= 10
    assert result.finished


def day(number: int) -> datetime:
    return datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 3, 5, 9]),
        ({"exclude": ""}, [1, 3, 5, 7, 9]),
        ({"exclude": r"^tides|\.tar"}, [1, 7]),
        ({"query": "title:tides"}, [3, 5]),
        ({"query": "title:tides OR title:plain"}, [1, 3, 5]),
        ({"since": "2024-01-02"}, [3, 5, 9]),
        ({"until": "2024-01-02"}, [1, 3]),
        ({"since": "2024-01-02", "until": "2024-01-02"}, [3]),
        ({"since": "2024-01-02T13:00:00+01:00", "until": "2024-01-02T12:00:00Z"}, [3]),
        ({"all_versions": True}, [1, 3, 5, 9, 11]),
        ({"limit": 2}, [1, 3]),
        ({"limit": 3, "query": "tides OR soundings"}, [3, 5, 9]),
    ],
)
def test_what_is_asked_for_is_what_comes(
    make_sandbox: Make,
    client_of: ClientOf,
    tmp_path: Path,
    options: dict[str, Any],
    expected: list[int],
) -> None:
    records = [
        make_record(1, title="Plain", created=day(0)),
        make_record(3, title="Tides one", created=day(1)),
        make_record(5, title="Tides two", created=day(2)),
        make_record(7, title="The gCube service", created=day(3)),
        make_record(9, {"soundings.tar.gz": b""}, title="Soundings", created=day(4)),
        make_record(11, title="Old", created=day(5), is_latest=False),
    ]
    served = make_sandbox(records)
    asked = HarvestOptions(api_url=served.api_url, **options)
    harvest(tmp_path / "c.jsonl", asked, client_of(served))
    assert ids_in(tmp_path / "c.jsonl") == expected


def test_a_limit_may_be_raised_later(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(130))
    path = tmp_path / "c.jsonl"
    for limit in (30, 30, 40, None):
        options = HarvestOptions(api_url=served.api_url, limit=limit)
        result = harvest(path, options, client_of(served))
        assert result.records == (limit or 130)
        assert result.finished == (limit is None)
    assert sorted(ids_in(path)) == ids_of(served.corpus)


def test_excluded_and_foreign_records_do_not_count_towards_the_limit(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    gcube = [make_record(2 * n + 1, title="gcube", created=day(n)) for n in range(40)]
    served = make_sandbox([*gcube, make_record(99, created=day(50))])
    options = HarvestOptions(api_url=served.api_url, limit=1)
    result = harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert (result.records, result.excluded) == (1, 40)


def test_a_catalogue_of_another_harvest_is_left_alone(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url, query="tool*")
    harvest(path, options, client_of(served))
    before = path.read_bytes()
    with pytest.raises(HarvestStateError, match="tool"):
        harvest(path, HarvestOptions(api_url=served.api_url), client_of(served))
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": 1}\n')
    with pytest.raises(CatalogueWriteError, match="new file"):
        harvest(own, options, client_of(served))
    assert path.read_bytes() == before
    assert own.read_text() == '{"id": 1}\n'


def test_a_catalogue_shorter_than_its_state_is_refused(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    harvest(path, options, client_of(served))
    os.truncate(path, 10)
    with pytest.raises(CatalogueWriteError, match="shorter"):
        harvest(path, options, client_of(served))


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(150))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow over so many bytes: the fourth page breaks off in a line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(HarvestDiskError, match="make room"):
            harvest(path, options, client_of(served))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.read_bytes().endswith(b"\n")
    assert harvest(path, options, client_of(served)).records == 150
    assert sorted(ids_in(path)) == ids_of(served.corpus)


def test_two_harvests_of_one_catalogue_do_not_meet(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)

    def second(_: HarvestProgress) -> None:
        with pytest.raises(CatalogueWriteError, match="another harvest"):
            harvest(path, options, client_of(served))

    harvest(path, options, client_of(served), progress=second)
    assert len(ids_in(path)) == 60


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (HarvestOptions(since="yesterday"), BadDateError),
        (HarvestOptions(until="2024-13-01"), BadDateError),
        (HarvestOptions(exclude="("), BadPatternError),
    ],
)
def test_options_that_cannot_be_leave_nothing_behind(
    tmp_path: Path, options: HarvestOptions, error: type[Exception]
) -> None:
    with pytest.raises(error):
        harvest(tmp_path / "c.jsonl", options)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_no_zenodo_is_told(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox([make_record(7, {"api/records": b'{"hits": {"hits": 3}}'})])
    elsewhere = f"{served.api_url.removesuffix('/api')}/records/7/files/api"
    with pytest.raises(zenodo.NotASearchError, match="root"):
        harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=elsewhere), client_of(served))


def test_the_catalogue_says_where_it_came_from(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    record: SandboxRecord = make_record(7, {"a b.zip": b"x"})
    served = make_sandbox([record])
    path = tmp_path / "c.jsonl"
    harvest(path, HarvestOptions(api_url=served.api_url), client_of(served, token=True))
    catalogue = Catalogue.open(path)
    assert not catalogue.trusted
    [file] = catalogue.read(catalogue.refs[0]).files
    assert file.url == f"{served.api_url}/records/7/files/a%20b.zip/content"
    state = load_state(path)
    assert state is not None
    assert state.finished
    # Neither the catalogue nor its sidecar knows of the token.
    assert "secret" not in path.read_text() + state.to_json()
