"""The budget against servers that count: simulated, so that hours take no time."""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_right
from collections.abc import Mapping
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.net.throttle import (
    STRANGER,
    UNLIMITED,
    ZENODO,
    Budget,
    LocalThrottle,
    RateLimit,
    RatePolicy,
    bucket_of,
    is_loopback,
    policy_for,
)

EPOCH = 1_790_000_000


def _headers(limit: int, remaining: int, reset_in: int) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(EPOCH + reset_in),
        "Date": formatdate(EPOCH, usegmt=True),
    }


class Server:
    """Counts in moving windows, as Zenodo does; a refused request does not count."""

    def __init__(self, *limits: tuple[int, float]) -> None:
        self.limits = limits
        self.times: list[float] = []
        self.statuses: list[int] = []

    def answer(self, now: float) -> tuple[int, dict[str, str]]:
        used = [
            len(self.times) - bisect_right(self.times, now - seconds) for _, seconds in self.limits
        ]
        granted = all(n < count for (count, _), n in zip(self.limits, used, strict=True))
        if granted:
            self.times.append(now)
            used = [n + 1 for n in used]
        self.statuses.append(200 if granted else 429)
        left, count, seconds = min(
            (count - n, count, seconds)
            for (count, seconds), n in zip(self.limits, used, strict=True)
        )
        first = bisect_right(self.times, now - seconds)
        oldest = self.times[first] if first < len(self.times) else now
        headers = {
            "X-RateLimit-Limit": str(count),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(int(EPOCH + oldest + seconds) + 1),
            "Retry-After": str(int(oldest + seconds - now) + 1),
            "Date": formatdate(EPOCH + now, usegmt=True),
        }
        return self.statuses[-1], headers


def run(
    budget: Budget,
    server: Server,
    seconds: float,
    workers: int = 8,
    latency: float = 0.5,
    dawdling: float = 0.0,
) -> float:
    """Workers that ask for nothing but turns; returns the share of the permitted that was used."""
    generator = random.Random(1)
    events: list[tuple[float, int, str]] = [(0.0, n, "ask") for n in range(workers)]
    sent = [0.0] * workers
    while events:
        now, worker, what = heapq.heappop(events)
        if now > seconds:
            break
        if what == "ask":
            wait = budget.grant("default", now)
            if wait > 0.0:
                heapq.heappush(events, (now + min(wait, 1.0), worker, "ask"))
            else:
                sent[worker] = now + generator.uniform(0.0, dawdling)
                arrives = sent[worker] + generator.uniform(0.01, latency)
                heapq.heappush(events, (arrives, worker, "arrive"))
        else:
            status, headers = server.answer(now)
            took = now + 0.01 - sent[worker]
            budget.observe("default", now + 0.01, status, headers, took)
            heapq.heappush(events, (now + 0.02, worker, "ask"))
    used = server.statuses.count(200)
    permitted = min(count * max(1.0, seconds / window) for count, window in server.limits)
    return used / permitted


@pytest.mark.parametrize(
    "limits",
    [
        [(60, 60.0), (2000, 3600.0)],  # as published for guests
        [(133, 60.0), (8000, 3600.0)],  # as observed for guests
        [(100, 60.0), (5000, 3600.0)],  # as observed with a token
        [(30, 60.0)],
    ],
)
@pytest.mark.parametrize("policy", [ZENODO, UNLIMITED])
def test_nearly_all_of_what_is_permitted_and_hardly_a_429(
    limits: list[tuple[int, float]], policy: RatePolicy
) -> None:
    server = Server(*limits)
    share = run(Budget(policy), server, 3 * 3600.0)
    assert share > 0.95
    assert server.statuses.count(429) / len(server.statuses) < 0.01


def test_a_slow_server_costs_no_429() -> None:
    server = Server((133, 60.0), (8000, 3600.0))
    assert run(Budget(ZENODO), server, 3 * 3600.0, workers=64, latency=8.0) > 0.95
    assert server.statuses.count(429) / len(server.statuses) < 0.01


def test_workers_too_busy_to_send_at_once_cost_no_429() -> None:
    server = Server((133, 60.0), (8000, 3600.0))
    run(Budget(ZENODO), server, 3 * 3600.0, workers=64, dawdling=20.0)
    assert server.statuses.count(429) == 0


def test_what_strangers_or_an_earlier_run_used_is_taken_off() -> None:
    server = Server((60, 60.0))
    for at in range(50):
        server.answer(at * 0.5)
    budget = Budget(ZENODO)
    now = 30.0
    assert budget.grant("default", now) == 0.0
    budget.observe("default", now, *server.answer(now))
    granted = 0
    while budget.grant("default", now) == 0.0:
        granted += 1
    assert granted == 9


def test_the_start_value_gives_way_to_what_the_server_says() -> None:
    budget = Budget(ZENODO)
    budget.grant("default", 0.0)
    budget.observe("default", 0.0, 200, _headers(133, 132, 60))
    granted = sum(budget.grant("default", 1.0) == 0.0 for _ in range(500))
    assert granted == 132
    # Without a header, the published hour is what counts.
    budget = Budget(ZENODO)
    granted, now = 0, 0.0
    while now < 3590:
        wait = budget.grant("default", now)
        granted += wait == 0.0
        now += wait
    assert granted == 2000


def test_a_reset_in_milliseconds_is_not_believed() -> None:
    budget = Budget(UNLIMITED)
    budget.grant("default", 0.0)
    headers = _headers(60, 0, 60) | {"X-RateLimit-Reset": str(1000 * (EPOCH + 60))}
    budget.observe("default", 0.0, 200, headers)
    assert 0.0 < budget.grant("default", 1.0) <= 60.0


def test_a_lower_limit_is_heeded_at_once() -> None:
    budget = Budget(ZENODO)
    budget.grant("default", 0.0)
    budget.observe("default", 0.0, 200, _headers(10, 9, 60))
    assert sum(budget.grant("default", 1.0) == 0.0 for _ in range(500)) == 9


def test_searches_and_files_have_each_their_own() -> None:
    budget = Budget(ZENODO)
    assert sum(budget.grant("search", 1.0) == 0.0 for _ in range(500)) == 30
    assert sum(budget.grant("default", 1.0) == 0.0 for _ in range(500)) == 60


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": formatdate(EPOCH + 9, usegmt=True)}, 9.0),
        ({"Retry-After": time.asctime(time.gmtime(EPOCH + 9))}, 9.0),
        ({"Retry-After": time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(EPOCH + 9))}, 9.0),
        ({"X-RateLimit-Reset": "4.5"}, 5.5),
        ({"Retry-After": "3600"}, 3600.0),
        ({"Retry-After": "3601"}, 0.0),
        ({"Retry-After": "99999999"}, 0.0),
        ({"Retry-After": "soon"}, 30.0),
        ({"Retry-After": "-5"}, 30.0),
        ({"Retry-After": "0.5.5"}, 30.0),
        ({}, 30.0),
    ],
)
def test_a_429_pauses_every_bucket(headers: dict[str, str], pause: float) -> None:
    budget = Budget(RatePolicy())
    date = {"Date": formatdate(EPOCH, usegmt=True)}
    budget.grant("default", 100.0)
    budget.observe("default", 100.0, 429, headers | date)
    assert budget.grant("search", 100.0) == pause
    assert budget.grant("default", 100.0 + pause / 2) == pause / 2
    assert budget.grant("search", 100.0 + pause) == 0.0


def test_retry_after_of_a_good_answer_means_nothing() -> None:
    budget = Budget(RatePolicy())
    budget.grant("default", 0.0)
    budget.observe("default", 0.0, 200, {"Retry-After": "59"})
    assert budget.grant("default", 0.0) == 0.0


def test_requests_that_are_never_answered_leave_their_place() -> None:
    budget = Budget(RatePolicy(default=(RateLimit(2, 60.0),)))
    assert [budget.grant("default", 0.0) for _ in range(3)] == [0.0, 0.0, 60.0]
    assert [budget.grant("default", 60.5) for _ in range(2)] == [0.0, 0.0]


def test_a_limit_beyond_all_measure_is_none() -> None:
    budget = Budget(ZENODO)
    budget.grant("default", 0.0)
    budget.observe("default", 0.0, 200, _headers(10**17, 0, 60))
    assert budget.grant("default", 0.0) == 0.0


def test_without_limits_everything_goes() -> None:
    budget = Budget(UNLIMITED)
    assert all(budget.grant("default", 0.0) == 0.0 for _ in range(10_000))


@given(
    st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60),
    st.integers(1, 5),
)
def test_never_more_than_the_limit_in_any_window(
    steps: list[tuple[float, bool]], count: int
) -> None:
    budget = Budget(RatePolicy(default=(RateLimit(count, 60.0),)))
    now, granted = 0.0, []
    for step, answered in steps:
        now += step
        if budget.grant("default", now) == 0.0:
            granted.append(now)
            if answered:
                budget.observe("default", now, 200, {})
    for at in granted:
        assert sum(at - 60.0 < other <= at for other in granted) <= count


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "X-RateLimit-Limit",
                "X-RateLimit-Remaining",
                "X-RateLimit-Reset",
                "Retry-After",
                "Date",
            ]
        ),
        st.one_of(st.text(max_size=12), st.integers().map(str), st.floats().map(str)),
    ),
    st.sampled_from([0, 200, 404, 429, 503]),
)
def test_no_header_breaks_it_or_stops_it_for_ever(headers: Mapping[str, str], status: int) -> None:
    budget = Budget(ZENODO)
    budget.grant("default", 0.0)
    budget.observe("default", 0.0, status, headers)
    now = 0.0
    for _ in range(20):
        wait = budget.grant("default", now)
        if wait == 0.0:
            return
        now += wait
    raise AssertionError(f"still waiting after {now} s")


def test_which_bucket_and_which_policy() -> None:
    assert bucket_of("https://zenodo.org/api/records?q=x") == "search"
    assert bucket_of("https://zenodo.org/api/records/?q=x") == "search"
    assert bucket_of("https://zenodo.org/api/records/1") == "default"
    assert policy_for("zenodo.org") is policy_for("sandbox.zenodo.org") is ZENODO
    assert policy_for("zenodo.org.evil.example") is STRANGER
    assert policy_for("127.0.0.1:8000") is policy_for("[::1]:80") is UNLIMITED
    assert policy_for("github.com") is STRANGER
    assert not is_loopback("127.evil.example")


def test_a_throttle_counts_what_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("zml_dask.net.throttle.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "zml_dask.net.throttle.time.sleep", lambda s: clock.__setitem__(0, clock[0] + s)
    )
    throttle = LocalThrottle(lambda host: RatePolicy(default=(RateLimit(1, 10.0),)))
    assert throttle.acquire("http://a/x") == 0.0
    assert throttle.acquire("http://b/x") == 0.0
    assert throttle.acquire("http://a/y") == pytest.approx(10.0)
    assert throttle.waited == pytest.approx(10.0)
