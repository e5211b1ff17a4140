"""Which records are gone, in few requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from serving import Sandbox
from synthetic import synthetic_corpus

from zml_dask.net.client import HttpClient
from zml_dask.records.search import find_withdrawn
from zml_dask.sandbox.corpus import Withdrawal, make_record

Make = Callable[..., Sandbox]
ClientOf = Callable[..., HttpClient]


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
    assert [(number, answer.kind) for number, answer in found] == [
        (ids[17], "gone"),
        (ids[205], "gone"),
        (77, "not_found"),
    ]
    assert "withdrawn" in str(found[0][1])
    assert len(served.requests.searches) == searches
    assert len(served.requests) == searches + 3
    assert looked_up[-1] == 211


def test_withdrawn_records_are_found_where_a_token_grants_no_larger_pages(
    make_sandbox: Make, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.sandbox.routes.TOKEN_PAGE", 25)
    corpus = synthetic_corpus(130)
    ids = [record.record_id for record in corpus]
    corpus.withdraw(ids[128])
    served = make_sandbox(corpus)
    found = list(find_withdrawn(ids, client_of(served, token=True), served.api_url))
    assert [number for number, _ in found] == [ids[128]]
    assert [seen.status for seen in served.requests.searches].count(400) == 1
