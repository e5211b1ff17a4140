"""Slices of time, and the dates that people write."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import UsageError
from zml_dask.records.instants import format_instant, parse_bound, parse_instant
from zml_dask.records.search import EARLIEST, halves

NOW = datetime(2026, 1, 1, tzinfo=UTC)
instants = st.datetimes(datetime(2013, 1, 1), datetime(2025, 12, 31), timezones=st.just(UTC))


@given(instants, instants)
def test_halves_meet_in_the_middle_and_cover_the_whole(one: datetime, other: datetime) -> None:
    whole = (format_instant(min(one, other)), format_instant(max(one, other)))
    parts = halves(whole, first=EARLIEST, now=NOW)
    if parts is None:
        assert (parse_instant(whole[1]) - parse_instant(whole[0])).total_seconds() < 0.002
        return
    (begin, left), (right, end) = parts
    assert (begin, end) == whole
    assert left == right
    assert left is not None
    assert parse_instant(whole[0]) < parse_instant(left) < parse_instant(whole[1])


@given(instants, instants)
def test_cutting_comes_to_an_end(one: datetime, inside: datetime) -> None:
    whole = (None, format_instant(one))
    for _ in range(60):
        parts = halves(whole, first=EARLIEST, now=NOW)
        if parts is None:
            return
        whole = parts[0] if inside < parse_instant(str(parts[0][1])) else parts[1]
    raise AssertionError("sixty halvings were not enough")


def test_an_open_slice_is_cut_between_the_first_record_and_now() -> None:
    parts = halves((None, None), first=datetime(2020, 1, 1, tzinfo=UTC), now=NOW)
    assert parts == ((None, "2023-01-01T00:00:00.000Z"), ("2023-01-01T00:00:00.000Z", None))


@given(instants)
def test_what_is_written_is_read_to_the_millisecond(moment: datetime) -> None:
    assert parse_instant(format_instant(moment)) == moment.replace(
        microsecond=moment.microsecond // 1000 * 1000
    )


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2024-02-29", "2024-02-29T00:00:00.000Z", "2024-02-29T23:59:59.999Z"),
        ("2024-02-29T10:00:00+02:00", "2024-02-29T08:00:00.000Z", "2024-02-29T08:00:00.000Z"),
        ("2024-02-29 10:00", "2024-02-29T10:00:00.000Z", "2024-02-29T10:00:00.000Z"),
    ],
)
def test_dates_and_instants(text: str, begin: str, end: str) -> None:
    assert parse_bound(text, option="--since") == begin
    assert parse_bound(text, option="--until", is_end=True) == end


@given(st.text(max_size=30))
def test_anything_else_is_refused_by_the_option_s_name(text: str) -> None:
    try:
        assert parse_instant(parse_bound(text, option="--since")).tzinfo == UTC
    except UsageError as error:
        message = str(error)
        if "--since" not in message:
            raise
