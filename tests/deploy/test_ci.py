"""CI's own script, with steps that only say that they were run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = (".ci/install", ".ci/checks", ".ci/release", ".ci/tests", "deploy/build-image.sh")
STEP = """#!/bin/sh
echo "ran $0"
"""
# It and its child hold one pipe open; through another it says that they do.
ENDLESS = """#!/bin/sh
exec 3>alive
sleep 1000 &
echo >started
wait
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for step in STEPS:
        _write(tmp_path / step, STEP)
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    return tmp_path


def _write(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def _run(checkout: Path) -> subprocess.CompletedProcess[str]:
    scratch = checkout / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        [checkout / ".ci/run"],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    assert list(scratch.iterdir()) == []
    return done


def test_ci_runs_every_step_and_passes_where_all_pass(checkout: Path) -> None:
    done = _run(checkout)
    assert done.returncode == 0, done.stderr
    for step in STEPS:
        assert f"ran {step}\n" in done.stdout


@pytest.mark.parametrize("failing", STEPS)
def test_ci_fails_where_any_step_fails(checkout: Path, failing: str) -> None:
    _write(checkout / failing, f"{STEP}exit 3\n")
    done = _run(checkout)
    assert done.returncode != 0
    assert f"ran {failing}\n" in done.stdout
    assert "=== done" not in done.stdout


@pytest.mark.parametrize("endless", [".ci/release", "deploy/build-image.sh"])
def test_ci_leaves_nothing_running_where_it_fails(checkout: Path, endless: str) -> None:
    os.mkfifo(checkout / "alive")
    os.mkfifo(checkout / "started")
    _write(checkout / endless, ENDLESS)
    _write(checkout / ".ci/checks", "#!/bin/sh\nread -r line <started\nexit 7\n")
    alive = os.open(checkout / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert _run(checkout).returncode == 7
        os.set_blocking(alive, True)
        assert os.read(alive, 1) == b""  # whoever held it has ended
    finally:
        os.close(alive)
