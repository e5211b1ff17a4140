"""Fixtures of the cluster tests: a real SLURM, and a configuration for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .runs import need
from .slurm_lab import SlurmLab, missing_programs, running_slurm

WORKER = """
jobqueue:
  slurm:
    cores: 1
    memory: 1GiB
    interface: lo
    walltime: "{walltime}"
    log-directory: {folder}/logs
    shared-temp-directory: {folder}/shared
    local-directory: {folder}/scratch
    death-timeout: 20
    worker-extra-args: {extra}
    job-script-prologue: ["export PYTHONPATH={tests}"]
distributed:
  deploy:
    lost-worker-timeout: 1s
"""


@pytest.fixture(scope="session")
def _slurm_daemons() -> Iterator[SlurmLab]:
    need(missing_programs())
    with running_slurm() as lab, pytest.MonkeyPatch.context() as patch:
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        yield lab


@pytest.fixture
def slurm(_slurm_daemons: SlurmLab) -> Iterator[SlurmLab]:
    """A running SLURM without jobs."""
    yield _slurm_daemons
    _slurm_daemons.clear()


@pytest.fixture
def slurm_config(tmp_path: Path) -> Path:
    """A cluster configuration for the SLURM of the tests."""
    return write_config(tmp_path)


def write_config(folder: Path, walltime: str = "00:20:00", extra: Sequence[str] = ()) -> Path:
    path = folder / "dask-jobqueue.yaml"
    tests = Path(__file__).parent.parent
    words = json.dumps(list(extra))
    path.write_text(WORKER.format(walltime=walltime, folder=folder, tests=tests, extra=words))
    return path
