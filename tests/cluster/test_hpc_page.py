"""The commands of docs/hpc.md, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import Sandbox

from zml_dask.sandbox.distributions import installed_corpus

from .runs import content, until
from .slurm_lab import SlurmLab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
HERE = "tests/cluster/test_hpc_page.py"


def _commands() -> list[str]:
    page = (ROOT / "docs" / "hpc.md").read_text()
    marked = rf"<!-- tested-by: {re.escape(HERE)} -->\n```console\n(.*?)```"
    blocks = re.findall(marked, page, re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def test_the_page_leads_to_a_dataset(
    slurm: SlurmLab, slurm_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "work"
    shutil.copytree(ROOT / "deploy", place / "deploy")
    shutil.copy(slurm_config, place / "dask-jobqueue.yaml")
    # The script asks for as much as a large build wants.
    script = place / "deploy" / "build.sbatch"
    script.write_text(script.read_text().replace("--mem=8G", "--mem=1G"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}", prepend=":")
    commands = _commands()
    assert [each.split()[1 if each.startswith("zml") else 0] for each in commands] == [
        "cluster-config",
        "harvest",
        "build",
        "sbatch",
        "status",
        "fetch",
        "build",
    ]
    with Sandbox(installed_corpus(5, most_bytes=200_000, troubles=False)) as zenodo:
        monkeypatch.setenv("ZENODO_API_URL", zenodo.api_url)
        for command in commands:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=place,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            # Jobs of a driver that was itself submitted run on in the background.
            until(lambda: not slurm.run("squeue", "--noheader"), "all jobs have ended")
    (said,) = place.glob("zml-build-*.log")
    assert "done" in said.read_text()
    assert content(place / "zenodo-ml") == content(place / "zenodo-ml-offline")
