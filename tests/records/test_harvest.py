"""The harvest over HTTP: every record once, near the least number of requests, whatever happens."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import Faults, Sandbox
from synthetic import synthetic_corpus

from zml_dask.records.harvest import HarvestOptions, HarvestProgress, harvest
from zml_dask.sandbox.corpus import Corpus, make_record

from .harvests import ClientOf, Interruption, Make, ids_in, ids_of, interrupt_after


@pytest.fixture(scope="module")
def large() -> Corpus:
    """25,000 records: two and a half windows."""
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


@st.composite
def happenings(draw: st.DrawFn) -> list[tuple[int, str, int]]:
    """What happens after which page: to the n-th record of the corpus."""
    what = st.sampled_from(["withdraw", "supersede", "publish", "interrupt"])
    return draw(st.lists(st.tuples(st.integers(1, 12), what, st.integers(0, 39)), max_size=8))


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
