"""Zenodo's query language over records."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import UsageError
from zml_dask.records.instants import format_instant
from zml_dask.records.query import matcher
from zml_dask.sandbox.corpus import Corpus, SearchQuery, _searchable, make_record

TIDES = _searchable(
    make_record(
        7,
        {"harbour/tides-v1.zip": b""},
        title="harbour/tides: Harmonic prediction",
        description="Predicts water levels.",
        keywords=("ocean", "Sea Level"),
        creators=("Doodson, Arthur T.",),
        license="mit",
        version="v1.0",
        concept_id=6,
        created=datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
    )
)


@pytest.mark.parametrize(
    "query",
    [
        "tides",
        "TIDES harbours",
        "tides AND water",
        "+tides -moon",
        "tides NOT moon",
        '"harmonic prediction"',
        'keywords:"sea level"',
        "title:(moon OR tides)",
        "creators.name:doodson",
        "metadata.rights.id:mit",
        "version:v1.0",
        "recid:7",
        "recid:1 OR recid:7",
        "conceptrecid:6",
        "doi:*7",
        'doi:"10.5072/zenodo.7"',
        "ti?es",
        "predict*",
        "resource_type.type:software AND access_right:open",
        "files.count:[1 TO *]",
        "files.count:[* TO 1]",
        "filetype:zip",
        "filename:*tides*",
        "created:[2024-02-29 TO 2024-03-01]",
        'created:["2024-02-29T12:30:15.123Z" TO "2024-02-29T12:30:15.123Z"]',
        "created:{2024-02-29T12\\:30\\:15.122Z TO *}",
        "publication_date:[2024-02 TO 2024-03]",
        "(tides OR moon) AND created:[* TO 2024-03-01]",
        "title:[h TO i]",
        "*",
    ],
)
def test_it_finds(query: str) -> None:
    assert matcher(query)(TIDES)


@pytest.mark.parametrize(
    "query",
    [
        "moon",
        "tides AND moon",
        "+moon tides",
        "tides -water",
        "NOT tides",
        '"prediction harmonic"',
        "keywords:tides",
        "recid:70",
        "no.such.field:7",
        "created:[2024 TO 2024]",
        "created:{* TO 2024-02-29}",
        "created:[2025-01-01 TO *]",
        "files.count:[2 TO *]",
        "license:apache-2.0",
    ],
)
def test_it_does_not_find(query: str) -> None:
    assert not matcher(query)(TIDES)


@pytest.mark.parametrize(
    "query",
    [
        "created:[yesterday TO *]",
        "a:b:c",
        "x/y",
        ">5",
        "(",
        '"',
        "a AND",
        "OR",
        "()",
        ")",
        "a^2",
        "a:[1 TO",
        "title:",
        "(" * 200 + "a" + ")" * 200,
    ],
)
def test_it_refuses(query: str) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        matcher(query)(TIDES)


def test_unknown_fields_are_refused_where_only_known_ones_make_sense() -> None:
    with pytest.raises(UsageError, match="keywords"):
        matcher("no.such.field:7", only_known=True)
    assert matcher("metadata.title:tides", only_known=True)(TIDES)


@given(st.text(max_size=30) | st.text('ab:"*?[]{}()+-! TONAD/\\', max_size=20))
def test_any_query_finds_or_is_refused(query: str) -> None:
    with contextlib.suppress(UsageError):
        assert matcher(query)(TIDES) in {True, False}


instants = st.integers(0, 10**12).map(
    lambda n: datetime(2014, 1, 1, tzinfo=UTC) + timedelta(microseconds=n * 300)
)


@given(st.lists(instants, max_size=12), instants)
def test_two_slices_that_share_a_bound_find_all(made: list[datetime], middle: datetime) -> None:
    corpus = Corpus(make_record(2 * n + 1, created=one) for n, one in enumerate(made))
    bound = format_instant(middle)
    below = corpus.search(SearchQuery(f'created:[* TO "{bound}"]'))
    above = corpus.search(SearchQuery(f'created:["{bound}" TO *]'))
    lower, upper = ({record.record_id for record in found} for found in (below, above))
    assert lower | upper == {record.record_id for record in corpus}
    assert all(format_instant(corpus[both].created) == bound for both in lower & upper)
