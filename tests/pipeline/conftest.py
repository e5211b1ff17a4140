"""Clusters of the pipeline's tests: real ones, started once."""

from __future__ import annotations

from collections.abc import Iterator

import distributed
import pytest

from zml_dask.pipeline.clusters import ClusterOptions, open_cluster


@pytest.fixture(scope="session")
def client() -> Iterator[distributed.Client]:
    """A cluster of one worker within this process: quick to start, and nothing is hidden."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def four_workers() -> Iterator[distributed.Client]:
    """A cluster of four worker processes."""
    with open_cluster("local", 4, options=ClusterOptions(dashboard="off")) as client:
        yield client
