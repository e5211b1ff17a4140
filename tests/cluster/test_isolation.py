"""A record that kills its workers is found; its neighbours are built."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zml_dask.engine.activity import active
from zml_dask.engine.clusters import open_cluster
from zml_dask.engine.isolation import (
    DEATHS_TO_GIVE_UP,
    DeathWatch,
    deaths_of,
    retries,
)

POISON = 13


def test_a_worker_that_leaves_when_asked_gives_up_nothing() -> None:
    with open_cluster("local", 2) as client:
        client.register_plugin(DeathWatch())
        for _ in range(DEATHS_TO_GIVE_UP):
            holding = client.submit(_hold, 99, pure=False)
            while not (where := client.processing()) or not any(where.values()):
                time.sleep(0.05)
            address = next(name for name, keys in where.items() if keys)
            client.retire_workers([address])
            holding.cancel()
            client.cluster.scale(3)
            client.wait_for_workers(2)
        found = deaths_of(client, "", [99, 100])
    assert found == {}


def _hold(record_id: int) -> None:
    with active(record_id):
        time.sleep(60)


@given(
    count=st.integers(1, 40),
    poison=st.sets(st.integers(0, 39), max_size=5),
    unseen=st.booleans(),
    allowed_failures=st.integers(0, 3),
)
def test_it_ends_with_exactly_the_poison_given_up(
    count: int, poison: set[int], unseen: bool, allowed_failures: int
) -> None:
    poison = {number for number in poison if number < count}
    deaths: Counter[int] = Counter()
    built: set[int] = set()
    given_up: list[int] = []
    queue = [tuple(range(count))]
    rounds = 0
    while queue:
        rounds += 1
        assert rounds <= 40 * (len(poison) + 1)
        ids = queue.pop()
        unsettled = [number for number in ids if number not in built]
        culprit = next((number for number in unsettled if number in poison), None)
        if culprit is None:
            built.update(unsettled)
            continue
        built.update(unsettled[: unsettled.index(culprit)])
        left = tuple(unsettled[unsettled.index(culprit) :])
        # As on the scheduler: deaths are seen, or a lone record is charged with one.
        deaths[culprit] += 0 if unseen and len(left) > 1 else allowed_failures + 1
        groups = retries(left, {n: deaths[n] for n in left if deaths[n]})
        given_up += [] if groups else left
        assert {n for group in groups for n in group} == set(left) - set(given_up)
        queue += map(tuple, groups)
    assert sorted(given_up) == sorted(poison)
    assert built == set(range(count)) - poison


def _die(watch: DeathWatch, *record_ids: int) -> None:
    """A worker dies while these records are active."""
    for number in record_ids:
        watch._begin("tcp://worker", "job", number)
    watch.log_event("all", {"action": "remove-worker", "worker": "tcp://worker", "expected": False})


def test_who_was_active_together_is_tried_alone() -> None:
    watch = DeathWatch()
    for _ in range(DEATHS_TO_GIVE_UP):
        _die(watch, 39, POISON)
    together = retries([38, 39, POISON], watch.deaths("job", [38, 39, POISON]))
    assert together == [[39], [POISON], [38]]
    for _ in range(DEATHS_TO_GIVE_UP):
        _die(watch, POISON)
    # Its task waited on the worker that the other one killed.
    assert retries([39], watch.deaths("job", [39])) == [[39]]
    assert retries([POISON], watch.deaths("job", [POISON])) == []
    assert watch.deaths("another", [39, POISON]) == {}
    watch.forget("job")
    assert watch.deaths("job", [39, POISON]) == {}


def test_a_lone_record_that_is_never_seen_is_not_retried_for_ever() -> None:
    watch = DeathWatch()
    rounds = 0
    while retries([7], watch.deaths("job", [7])):
        rounds += 1
        assert rounds < DEATHS_TO_GIVE_UP
