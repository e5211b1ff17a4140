"""What the pipeline's tests start once a module: real clusters, and a sandbox's catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed
import pytest
from serving import Sandbox

from .datasets import harvested


@contextmanager
def cluster_of(n_workers: int) -> Iterator[distributed.Client]:
    """A cluster within this process: quick to start, and nothing is hidden."""
    with (
        distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    """A cluster of one worker."""
    with cluster_of(1) as client:
        yield client


@pytest.fixture(scope="module")
def four_workers() -> Iterator[distributed.Client]:
    """A cluster of four workers; the tests of faults have workers that are processes."""
    with cluster_of(4) as client:
        yield client


@pytest.fixture(scope="module")
def catalogue(served: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a module's own sandbox, `served`, holds."""
    return harvested(served, tmp_path_factory.mktemp("catalogue"))
