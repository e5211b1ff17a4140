"""A record that kills its workers is found; its neighbours are built."""

from __future__ import annotations

import os
import time
from collections import Counter

import distributed
import pytest
from distributed import KilledWorker, as_completed
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.engine.clusters import open_cluster
from zml_dask.pipeline.isolation import (
    DEATHS_TO_CONDEMN,
    DeathWatch,
    in_hand,
    judge,
    verdict,
    watch_deaths,
)

pytestmark = pytest.mark.timeout(400)

POISON = 13


def _build(record_ids: tuple[int, ...]) -> tuple[int, ...]:
    for record_id in record_ids:
        with in_hand(record_id):
            if record_id == POISON:
                time.sleep(0.1)  # filling the memory takes at least that long
                os._exit(1)
    return record_ids


def _run(client: distributed.Client, partitions: list[tuple[int, ...]]) -> tuple[list, dict]:
    """Build partitions as the pipeline does; the built, and the condemned with their errors."""
    built, condemned, of_key = [], {}, {}

    def submit(ids: tuple[int, ...]) -> distributed.Future:
        future = client.submit(_build, ids, pure=False)
        of_key[future.key] = ids
        return future

    queue = as_completed([submit(ids) for ids in partitions])
    for future in queue:
        try:
            built += future.result()
        except KilledWorker:
            ruling = judge(client, of_key[future.key])
            condemned |= dict(ruling.condemned)
            queue.update([submit(ids) for ids in ruling.retry])
    return built, condemned


def test_a_poison_record_is_condemned_and_its_neighbours_are_built() -> None:
    partitions = [tuple(range(start, start + 10)) for start in range(0, 40, 10)]
    with open_cluster("local", 2) as client:
        watch_deaths(client)
        built, condemned = _run(client, partitions)
    assert sorted(set(built)) == [number for number in range(40) if number != POISON]
    assert list(condemned) == [POISON]
    error = condemned[POISON]
    assert (error.kind, error.stage, error.permanent) == ("worker_killed", "worker", True)
    assert str(POISON) in str(error)
    assert "memory" in str(error)
    assert "\n" not in str(error)


def test_a_worker_that_leaves_when_asked_condemns_nothing() -> None:
    with open_cluster("local", 2) as client:
        watch_deaths(client)
        for _ in range(DEATHS_TO_CONDEMN):
            holding = client.submit(_hold, 99, pure=False)
            while not (where := client.processing()) or not any(where.values()):
                time.sleep(0.05)
            address = next(name for name, keys in where.items() if keys)
            client.retire_workers([address])
            holding.cancel()
            client.cluster.scale(3)
            client.wait_for_workers(2, timeout=30)
        found = client.sync(client.scheduler.zml_deaths, record_ids=[99, 100])
    assert found == {}


def _hold(record_id: int) -> None:
    with in_hand(record_id):
        time.sleep(60)


@given(
    count=st.integers(1, 40),
    poison=st.sets(st.integers(0, 39), max_size=5),
    unseen=st.booleans(),
    allowed_failures=st.integers(0, 3),
)
def test_judgement_ends_with_exactly_the_poison_condemned(
    count: int, poison: set[int], unseen: bool, allowed_failures: int
) -> None:
    poison = {number for number in poison if number < count}
    deaths: Counter[int] = Counter()
    built: set[int] = set()
    condemned: list[int] = []
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
        ruling = verdict(left, {n: deaths[n] for n in left if deaths[n]})
        condemned += [number for number, _ in ruling.condemned]
        assert {n for part in ruling.retry for n in part} == set(left) - set(condemned)
        queue += ruling.retry
    assert sorted(condemned) == sorted(poison)
    assert built == set(range(count)) - poison


def _die(watch: DeathWatch, *record_ids: int) -> None:
    """A worker dies with these records in hand."""
    for number in record_ids:
        watch._take("tcp://worker", number)
    watch.log_event("all", {"action": "remove-worker", "worker": "tcp://worker", "expected": False})


def test_who_was_in_hand_together_is_judged_alone() -> None:
    watch = DeathWatch()
    for _ in range(DEATHS_TO_CONDEMN):
        _die(watch, 39, POISON)
    together = verdict([38, 39, POISON], watch.deaths([38, 39, POISON]))
    assert (together.condemned, set(together.retry)) == ((), {(39,), (POISON,), (38,)})
    for _ in range(DEATHS_TO_CONDEMN):
        _die(watch, POISON)
    # Its task waited on the worker that the other one killed.
    assert verdict([39], watch.deaths([39])).retry == ((39,),)
    assert [n for n, _ in verdict([POISON], watch.deaths([POISON])).condemned] == [POISON]


def test_a_lone_record_that_is_never_seen_is_not_retried_for_ever() -> None:
    watch = DeathWatch()
    rounds = 0
    while verdict([7], watch.deaths([7])).retry:
        rounds += 1
        assert rounds < DEATHS_TO_CONDEMN
