"""What is new since a harvest, and what is gone, in few requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zml_dask.net.http import HttpClient
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.state import HarvestStateError, load_state
from zml_dask.records.update import NeverFinishedError, find_withdrawn, harvest_since
from zml_dask.sandbox.corpus import Withdrawal, make_record
from zml_dask.sandbox.server import Sandbox
from zml_dask.sandbox.synthetic import synthetic_corpus

Make = Callable[..., Sandbox]
ClientOf = Callable[..., HttpClient]


def test_an_update_needs_only_what_the_dataset_noted(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(200))
    client = client_of(served)
    options = HarvestOptions(api_url=served.api_url, query="tool* OR fresh", limit=500)
    harvest(tmp_path / "old.jsonl", options, client)
    state = load_state(tmp_path / "old.jsonl")
    assert state is not None
    noted = {**asdict(state.options), "complete_until": state.complete_until}

    now = datetime.now(UTC)
    served.corpus.add(
        make_record(9_000_001, title="fresh", created=now),
        # One that was there but not yet searchable, and one that is not asked for.
        make_record(9_000_003, title="fresh", created=now - timedelta(hours=5)),
        make_record(9_000_005, title="other", created=now),
    )
    served.requests.clear()
    result = harvest_since(tmp_path / "new.jsonl", noted, client)
    lines = (tmp_path / "new.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [9_000_003, 9_000_001]
    assert result.written == 2
    assert len(served.requests) == 1
    # Once more into the same file: nothing twice.
    assert harvest_since(tmp_path / "new.jsonl", noted, client).written == 0
    # And into the first catalogue.
    assert harvest_since(tmp_path / "old.jsonl", noted, client).records == 202


def test_an_update_of_an_unfinished_harvest_says_what_to_do(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    client = client_of(served)
    harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url, limit=10), client)
    state = load_state(tmp_path / "c.jsonl")
    assert state is not None
    noted = {**asdict(state.options), "complete_until": state.complete_until}
    with pytest.raises(NeverFinishedError, match="harvest"):
        harvest_since(tmp_path / "new.jsonl", noted, client)


def test_an_update_into_the_catalogue_of_another_harvest_is_refused(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(6))
    client = client_of(served)
    harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url, query="x"), client)
    noted = {"api_url": served.api_url, "complete_until": "2024-01-01T00:00:00.000Z"}
    with pytest.raises(HarvestStateError):
        harvest_since(tmp_path / "c.jsonl", noted, client)


@pytest.mark.parametrize(("token", "searches"), [(False, 9), (True, 3)])
def test_withdrawn_records_are_found_without_asking_for_each(
    make_sandbox: Make, client_of: ClientOf, token: bool, searches: int
) -> None:
    corpus = synthetic_corpus(210)
    served = make_sandbox(corpus)
    ids = [record.record_id for record in corpus]
    corpus.withdraw(ids[17], Withdrawal(note="Author's wish"))
    corpus.withdraw(ids[205])
    # Superseded is not withdrawn.
    corpus.add(make_record(9_000_001, concept_id=corpus[ids[3]].concept))
    looked_up: list[int] = []
    found = list(
        find_withdrawn(
            [*ids, 77],
            client_of(served, token=token),
            served.api_url,
            progress=looked_up.append,
        )
    )
    assert [(one.record_id, one.kind) for one in found] == [
        (ids[17], "gone"),
        (ids[205], "gone"),
        (77, "not_found"),
    ]
    assert "withdrawn" in found[0].message
    assert len(served.requests.searches) == searches
    assert len(served.requests) == searches + 3
    assert looked_up[-1] == 211


def test_withdrawn_records_are_found_where_a_token_grants_no_larger_pages(
    make_sandbox: Make, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.sandbox.search.TOKEN_PAGE", 25)
    corpus = synthetic_corpus(130)
    ids = [record.record_id for record in corpus]
    corpus.withdraw(ids[128])
    served = make_sandbox(corpus)
    found = list(find_withdrawn(ids, client_of(served, token=True), served.api_url))
    assert [one.record_id for one in found] == [ids[128]]
    assert [seen.status for seen in served.requests.searches].count(400) == 1
