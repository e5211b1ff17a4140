"""Harvests from servers that grant less, ignore slices, waver, fail or are no Zenodo."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Faults
from synthetic import synthetic_corpus

from zml_dask.errors import NetworkError, ZmlError
from zml_dask.net.client import HttpOptions, JsonAnswer
from zml_dask.records import harvest as harvest_module
from zml_dask.records import search as search_module
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestOptions, HarvestProgress, harvest
from zml_dask.sandbox import routes
from zml_dask.sandbox.corpus import Corpus, SandboxRecord, SearchQuery, make_record

from .harvests import ClientOf, Make, ids_in


class Wavering(Corpus):
    """A corpus behind two replicas of its index: one does not have the last record yet."""

    asked = 0

    def search(self, question: SearchQuery) -> Sequence[SandboxRecord]:
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


@pytest.mark.parametrize(("token", "granted"), [(True, 25), (False, 10)])
def test_smaller_pages_are_taken_where_no_larger_are_granted(
    make_sandbox: Make,
    client_of: ClientOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: bool,
    granted: int,
) -> None:
    monkeypatch.setattr(routes, "TOKEN_PAGE" if token else "GUEST_PAGE", granted)
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
    monkeypatch.setattr(routes, "_KNOWN", ("page", "q", "size", "sort"))
    records = [make_record(2 * n + 1, resource_type="dataset") for n in range(30)]
    served = make_sandbox([*records, make_record(101), make_record(103)])
    harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url), client_of(served))
    assert ids_in(tmp_path / "c.jsonl") == [101, 103]


@pytest.mark.usefixtures("tiny_window")
def test_a_server_that_ignores_slices_is_noticed(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_KNOWN", ("page", "size", "sort", "type"))
    served = make_sandbox(synthetic_corpus(40))
    options = HarvestOptions(api_url=served.api_url)
    with pytest.raises(ZmlError, match="ignores"):
        harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert len(served.requests) < 200


class Answering:
    """A client whose server says one thing to everything."""

    has_token = False
    options = HttpOptions(backoff=0.0)

    def __init__(self, payload: Any, date: str) -> None:
        self.answer = JsonAnswer(payload, {"Date": date})

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


@pytest.mark.parametrize("date", ["Mon, 23 Nov 2026 21:00:00", "Mon Nov 23 21:00:00 2026"])
def test_a_server_s_date_without_a_zone_is_in_utc(
    date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        client: Any = Answering({"hits": {"hits": [], "total": 0}}, date)
        page = search_module.search_page(client, HarvestOptions(), (None, None), page=1, size=10)
    time.tzset()
    assert page.now == datetime(2026, 11, 23, 21, tzinfo=UTC)


@given(json_values)
@settings(max_examples=40)
def test_whatever_a_server_says_is_a_search_result_or_none(
    tmp_path_factory: pytest.TempPathFactory, payload: Any
) -> None:
    client: Any = Answering(payload, "")
    with pytest.raises(ZmlError, match=r"no search result|impossible"):
        harvest(tmp_path_factory.mktemp("odd") / "c.jsonl", HarvestOptions(), client)


@pytest.mark.parametrize("total", [1, 1.0, "1", {"value": 1, "relation": "eq"}])
def test_a_total_in_every_form_that_was_met(tmp_path: Path, total: Any) -> None:
    hit = {"id": 7, "metadata": {"resource_type": {"type": "software"}}}
    client: Any = Answering({"hits": {"hits": [hit], "total": total}}, "")
    assert harvest(tmp_path / "c.jsonl", HarvestOptions(), client).written == 1


def test_an_answer_that_is_none_is_quoted(tmp_path: Path) -> None:
    client: Any = Answering({"status": 500, "message": "index is closed"}, "")
    with pytest.raises(ZmlError, match="no search result, but says 'index is closed'; try later"):
        harvest(tmp_path / "c.jsonl", HarvestOptions(), client)


def test_a_bad_query_is_final_and_says_why(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    options = HarvestOptions(api_url=served.api_url, query="title:(unbalanced")
    with pytest.raises(NetworkError, match="query", check=lambda error: error.kind == "bad_query"):
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
    for module in (search_module, harvest_module, routes):
        monkeypatch.setattr(module, "WINDOW", 50)
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    records = [make_record(2 * n + 1, created=moment) for n in range(60)]
    served = make_sandbox([*records, make_record(999)])
    result = harvest(
        tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url), client_of(served)
    )
    assert result.missing >= 10
    assert result.finished


def test_a_server_that_is_no_zenodo_is_told(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox([make_record(7, {"api/records": b'{"hits": {"hits": 3}}'})])
    elsewhere = f"{served.api_url.removesuffix('/api')}/records/7/files/api"
    with pytest.raises(ZmlError, match="root"):
        harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=elsewhere), client_of(served))


class Repeating(Answering):
    """A client whose server has one record and says that it has many, all over time."""

    def __init__(self, total: int) -> None:
        hit = {"id": 7, "created": "2020-01-01T00:00:00Z", "metadata": SOFTWARE}
        super().__init__({"hits": {"hits": [hit], "total": total}}, "")
        self.asked = 0

    def get_json(self, url: str, params: Any = None) -> JsonAnswer:
        self.asked += 1
        return self.answer


SOFTWARE = {"resource_type": {"type": "software"}}


@pytest.mark.parametrize("total", [9_000, 5_000_000, 10**30])
def test_a_server_whose_total_lies_ends_the_harvest_with_a_message(
    tmp_path: Path, total: int
) -> None:
    client: Any = Repeating(total)
    with pytest.raises(ZmlError, match=r"brought no new one|impossible") as caught:
        harvest(tmp_path / "c.jsonl", HarvestOptions(), client)
    assert "\n" not in str(caught.value)
    assert client.asked < 3_000
