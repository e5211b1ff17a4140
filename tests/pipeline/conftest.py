"""Clusters of the pipeline's tests: real ones, started once a module."""

from __future__ import annotations

from collections.abc import Iterator

import distributed
import pytest


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    """A cluster of one worker within this process: quick to start, and nothing is hidden."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def four_workers() -> Iterator[distributed.Client]:
    """A cluster of four workers; the tests of faults have workers that are processes."""
    with (
        distributed.LocalCluster(
            n_workers=4, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
