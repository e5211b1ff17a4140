"""Workers as jobs of a real SLURM."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from distributed import Client

from zml_dask.pipeline.clusters import (
    ClusterOptions,
    open_cluster,
)

from .slurm_lab import SlurmLab

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


def _job_of_worker() -> str:
    return os.environ["SLURM_JOB_ID"]


def test_workers_are_jobs_that_speak_tls(slurm: SlurmLab, slurm_config: Path) -> None:
    with open_cluster("slurm", 2, options=ClusterOptions(config=slurm_config)) as client:
        client.wait_for_workers(2, timeout=40)
        assert client.scheduler.address.startswith("tls://")
        jobs = client.run(_job_of_worker)
        assert all(address.startswith("tls://") for address in jobs)
        assert sorted(jobs.values()) == sorted(slurm.jobs())
        with pytest.raises(OSError, match=r"reset|timed out"):
            Client(client.scheduler.address.replace("tls://", "tcp://"), timeout="2s")
        keys = list((slurm_config.parent / "shared").rglob("*key*"))
        assert keys
        assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
        assert all(stat.S_IMODE(key.parent.stat().st_mode) == 0o700 for key in keys)
    assert not list((slurm_config.parent / "shared").rglob("*key*"))
    assert not slurm.jobs()
