"""One throttle for all workers, against a server that counts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from signal import SIGKILL

import distributed
import pytest
import requests
from distributed import as_completed

from zml_dask.engine.cluster_throttle import ClusterThrottle, ThrottlePlugin, throttle_waiting
from zml_dask.engine.clusters.opening import open_cluster
from zml_dask.net.throttle import LocalThrottle, RateLimit, RatePolicy
from zml_dask.pipeline.process import default_throttle

from .rate_limited_server import Limited, serving


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with open_cluster("local", 8) as client:
        client.wait_for_workers(8)
        client.register_plugin(ThrottlePlugin(_forty_in_four_seconds))
        yield client


def _forty_in_four_seconds(host: str) -> RatePolicy:
    return RatePolicy(default=(RateLimit(40, 4.0),))


def _request(url: str, count: int) -> list[int]:
    throttle = ClusterThrottle(distributed.get_worker())
    statuses = []
    with requests.Session() as session:
        for _ in range(count):
            throttle.acquire(url)
            answer = session.get(url, timeout=10)
            throttle.report(url, answer.status_code, answer.headers, answer.elapsed.total_seconds())
            statuses.append(answer.status_code)
    return statuses


def test_eight_workers_send_no_more_than_is_permitted(client: distributed.Client) -> None:
    """How much of it they use is a matter of the budget's, and tested by its clock."""
    limited = Limited()
    each = 3 * limited.count // 8
    with serving(limited) as url:
        futures = [client.submit(_request, url, each, pure=False) for _ in range(8)]
        assert [len(statuses) for statuses in client.gather(futures)] == [each] * 8
    assert limited.statuses().count(429) / len(limited.statuses()) < 0.03


def test_one_refusal_stops_every_worker(client: distributed.Client) -> None:
    limited = Limited(retry_after=3)
    with serving(limited) as url:
        futures = [client.submit(_request, url, 20, pure=False) for _ in range(8)]
        while len(limited.answered) < 20:
            time.sleep(0.01)
        limited.refuse_next = 1
        waited = 0.0
        while 429 not in limited.statuses():
            time.sleep(0.01)
        while waited <= 1.0:
            waited = throttle_waiting(client)[0]
            time.sleep(0.01)
        client.gather(futures)
    assert waited <= 3.0
    refused = next(when for when, status in limited.answered if status == 429)
    after = sorted(when for when, _ in limited.answered if when > refused)
    # Of each worker comes what was on its way, and what was permitted before the refusal was known.
    assert sum(when - refused < 2.9 for when in after) <= 2 * 8
    assert after[-1] - refused > 2.9


def test_a_dead_worker_leaves_its_share_to_the_others(client: distributed.Client) -> None:
    limited = Limited()
    pids = client.run(os.getpid)
    with serving(limited) as url:
        futures = [client.submit(_request, url, 12, pure=False) for _ in range(8)]
        while len(limited.answered) < 45:
            time.sleep(0.01)
        os.kill(pids[next(name for name, keys in client.processing().items() if keys)], SIGKILL)
        results = [statuses for future, statuses in as_completed(futures, with_results=True)]
    assert results == [[200] * 12] * 8
    assert throttle_waiting(client) == (0.0, "")


def test_what_a_dead_worker_waited_for_goes_to_the_next() -> None:
    async def main() -> tuple[bool, bool]:
        plugin = ThrottlePlugin(lambda host: RatePolicy(default=(RateLimit(1, 0.2),)))
        assert await plugin.acquire("tcp://dead", "zenodo.org", "default")
        dead = asyncio.create_task(plugin.acquire("tcp://dead", "zenodo.org", "default"))
        waits = asyncio.create_task(plugin.acquire("tcp://alive", "zenodo.org", "default"))
        await asyncio.sleep(0)
        plugin.remove_worker(None, "tcp://dead")
        return await dead, await asyncio.wait_for(waits, timeout=30)

    assert asyncio.run(main()) == (False, True)


def test_a_worker_that_hangs_up_while_it_waits_stops_nobody() -> None:
    """Dask cancels the answer to a connection that broke; the others' turns still come."""

    async def main() -> bool:
        plugin = ThrottlePlugin(lambda host: RatePolicy(default=(RateLimit(1, 0.2),)))
        assert await plugin.acquire("tcp://a", "zenodo.org", "default")
        gone = asyncio.create_task(plugin.acquire("tcp://b", "zenodo.org", "default"))
        waits = asyncio.create_task(plugin.acquire("tcp://c", "zenodo.org", "default"))
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.wait_for(waits, timeout=30)

    assert asyncio.run(main())


def test_outside_a_cluster_the_throttle_is_the_process_own() -> None:
    throttle = default_throttle()
    assert isinstance(throttle, LocalThrottle)
    assert throttle is default_throttle()
