"""The sandbox's search keeps Zenodo's rules: pages, window, links, order, errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from serving import Sandbox
from synthetic import synthetic_corpus

from zml_dask.records.parse import parse_record
from zml_dask.sandbox.corpus import make_record

Make = Callable[..., Sandbox]
BEARER = {"Authorization": "Bearer any"}


def test_pages_cover_all_records_and_links_lead_along(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    url: str | None = f"{served.api_url}/records?type=software&size=25"
    found, totals, previous = [], set(), None
    while url:
        page = session.get(url).json()
        assert page["links"].get("prev") == previous
        found += [hit["id"] for hit in page["hits"]["hits"]]
        totals.add(page["hits"]["total"])
        previous, url = page["links"]["self"], page["links"].get("next")
        if url:
            arguments = parse_qsl(urlsplit(url).query)
            assert arguments == sorted(arguments)
            assert dict(arguments)["sort"] == "newest"
    assert found == sorted((record.record_id for record in served.corpus), reverse=True)
    assert totals == {60}


@pytest.mark.parametrize(("headers", "most"), [({}, 25), (BEARER, 100)])
def test_a_page_holds_so_much_and_no_more(
    make_sandbox: Make, session: requests.Session, headers: dict[str, str], most: int
) -> None:
    served = make_sandbox(synthetic_corpus(120))
    url = f"{served.api_url}/records"
    granted = session.get(url, params={"size": most}, headers=headers)
    assert len(granted.json()["hits"]["hits"]) == most
    refused = session.get(url, params={"size": most + 1}, headers=headers)
    assert refused.status_code == 400
    [error] = refused.json()["errors"]
    assert error["field"] == "size"
    assert str(most) in error["messages"][0]


def test_the_window_ends_at_ten_thousand_and_next_leads_past_it(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = make_sandbox([make_record(2 * n + 1) for n in range(10_060)])
    last = session.get(f"{served.api_url}/records", params={"size": 25, "page": 400})
    assert last.status_code == 200
    assert last.json()["hits"]["total"] == 10_060
    past = session.get(last.json()["links"]["next"])
    assert past.status_code == 400
    assert past.json() == {"status": 400, "message": "Invalid querystring parameters."}


@pytest.mark.parametrize(
    "arguments", ["sort=alphabet", "page=0", "size=0", "size=x", "page=401&size=25"]
)
def test_arguments_that_cannot_be_are_400(
    make_sandbox: Make, session: requests.Session, arguments: str
) -> None:
    served = make_sandbox([])
    assert session.get(f"{served.api_url}/records?{arguments}").status_code == 400


@pytest.mark.parametrize("query", ["a:b:c", "10.5072/zenodo.7", "(tides", 'title:"open', "a AND"])
def test_bad_syntax_is_500_each_time(
    make_sandbox: Make, session: requests.Session, query: str
) -> None:
    served = make_sandbox([make_record(7)])
    for _ in range(2):
        answer = session.get(f"{served.api_url}/records", params={"q": query})
        assert answer.status_code == 500
        assert answer.json()["error_id"]


def test_unknown_arguments_widen_the_result_without_a_word(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = make_sandbox([make_record(1), make_record(3, resource_type="dataset")])
    url = f"{served.api_url}/records"
    assert session.get(url, params={"kind": "software"}).json()["hits"]["total"] == 2
    assert session.get(url, params={"type": "software"}).json()["hits"]["total"] == 1
    assert session.get(url, params={"type": "Software"}).json()["hits"]["total"] == 0


def test_order_versions_and_tombstones(make_sandbox: Make, session: requests.Session) -> None:
    served = make_sandbox(
        [
            make_record(1, concept_id=100, created=datetime(2020, 1, 1, tzinfo=UTC)),
            make_record(5, created=datetime(2019, 1, 1, tzinfo=UTC)),
            make_record(7),
        ]
    )
    served.corpus.add(make_record(3, concept_id=100, created=datetime(2021, 1, 1, tzinfo=UTC)))
    served.corpus.withdraw(7)

    def found(**arguments: str) -> list[int]:
        page = session.get(f"{served.api_url}/records", params=arguments).json()
        return [hit["id"] for hit in page["hits"]["hits"]]

    assert found() == [3, 5]
    assert found(sort="oldest") == [5, 3]
    assert found(sort="-mostrecent") == [5, 3]
    assert found(all_versions="true") == [3, 1, 5]
    assert found(all_versions="") == [3, 1, 5]


def test_the_slash_at_the_end_redirects_and_keeps_the_query(
    make_sandbox: Make, session: requests.Session
) -> None:
    served = make_sandbox(synthetic_corpus(12))
    answer = session.get(f"{served.api_url}/records/", params={"size": 3, "q": "tool*"})
    assert answer.history[0].status_code == 301
    assert len(answer.json()["hits"]["hits"]) == 3


def test_both_shapes_hold_the_same_records(sandbox: Sandbox, session: requests.Session) -> None:
    native = {"Accept": "application/vnd.inveniordm.v1+json"}
    url = f"{sandbox.api_url}/records?all_versions=true&size=25"
    legacy_hits = session.get(url).json()["hits"]["hits"]
    native_hits = session.get(url, headers=native).json()["hits"]["hits"]
    assert isinstance(legacy_hits[0]["id"], int)
    assert isinstance(native_hits[0]["id"], str)
    assert len(legacy_hits) > 10
    for one, other in zip(legacy_hits, native_hits, strict=True):
        assert parse_record(one) == parse_record(other)
