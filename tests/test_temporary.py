"""What killed processes leave in the temporary folder, and kernels where nothing may be written."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import pytest
from dataset_builders import write_dataset

from zml_dask.engine.temporary import _LOCK as LOCK
from zml_dask.engine.temporary import temporary_folder
from zml_dask.store.storage import Storage

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
from zml_dask.engine.temporary import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "large").write_text("x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this test and of what it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def holder(purpose: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, purpose],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("purpose", ["catalogue", "fetch"])
def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path, purpose: str) -> None:
    killed, left = holder(purpose)
    killed.kill()
    killed.wait()
    living, kept = holder("catalogue")
    try:
        assert not left.exists()
        with temporary_folder("other") as mine:
            assert kept.exists()
            assert mine.parent == temporary
            assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    finally:
        living.communicate("")
    assert list(temporary.iterdir()) == []


KILLED = """
import os, signal, sys
import zml_dask as zml
from zml_dask.{module} import {name}
{name}.{method} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
ds = zml.open_dataset(sys.argv[1])
{call}
"""


@pytest.mark.parametrize(
    ("module", "name", "method", "call"),
    [
        ("publish.training", "ExportParquet", "add", 'ds.export(sys.argv[2], "parquet")'),
        ("query.saving", "SaveView", "_stage", "ds.save(sys.argv[2])"),
        ("derived", "near_duplicates", "cluster", 'zml.derive(ds, "near_duplicates")'),
    ],
)
def test_a_killed_command_leaves_nothing_after_the_next(
    temporary: Path, tmp_path: Path, module: str, name: str, method: str, call: str
) -> None:
    write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    code = KILLED.format(module=module, name=name, method=method, call=call)
    again = f"import sys, zml_dask as zml\nds = zml.open_dataset(sys.argv[1])\n{call}"
    left = []
    for each in (code, again):
        args = [sys.executable, "-c", each, str(tmp_path / "ds"), str(tmp_path / "out")]
        done = subprocess.run(args, capture_output=True, check=False)
        left.append((done.returncode, [path.name for path in temporary.glob("zml-s*/*")]))
    (killed, several), (status, nothing) = left
    assert (killed, status, nothing) == (-signal.SIGKILL, 0, [])
    assert several


def test_folders_of_others_are_left_alone(temporary: Path) -> None:
    (temporary / "zml-without-a-lock").mkdir()
    foreign = temporary / "zml-somebody-elses"
    foreign.mkdir()
    (foreign / LOCK).touch()
    if os.getuid() == 0:
        os.chown(foreign / LOCK, 65534, 65534)
    with temporary_folder("mine"):
        pass
    assert (temporary / "zml-without-a-lock").exists()
    assert foreign.exists() is (os.getuid() == 0)


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, list[Path]()

    def locked_late(file: BinaryIO, operation: int) -> None:
        if not removed:  # what another process does that makes a folder of its own just now
            removed.append(Path(file.name).parent)
            shutil.rmtree(removed[0])
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", locked_late)
    with temporary_folder("mine") as mine:
        assert mine.exists()
        assert [mine] == list(temporary.iterdir()) != removed
    assert list(temporary.iterdir()) == []


def test_what_processes_of_other_machines_hold_is_left_alone(temporary: Path) -> None:
    elsewhere = temporary / "zml-elsewhere" / f".in-use-not-{socket.gethostname()}"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    with temporary_folder("mine"):
        assert elsewhere.exists()


@pytest.mark.parametrize("private", [True, False])
def test_kernels_run_where_neither_package_nor_home_may_be_written(
    temporary: Path, tmp_path: Path, private: bool
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "kernel.py").write_text(
        "from zml_dask.compiled import compiled\n"
        "@compiled\ndef double(number):\n    return 2 * number\nprint(double(21))\n"
    )
    read_only = f"mount --bind {package} {package} && mount -o remount,ro,bind {package}"
    if subprocess.run(["unshare", "-m", "bash", "-c", read_only], capture_output=True).returncode:
        pytest.skip("no mount namespaces here: needs root")
    kept = temporary / f"zml-compiled-{os.getuid()}"
    if not private:  # somebody made it before us, and may put into it what we would run
        kept.mkdir()
        kept.chmod(0o777)
    for _ in range(2):  # the second time from the cache, where there is one
        done = subprocess.run(
            [
                "unshare",
                "-m",
                "bash",
                "-c",
                f"{read_only} && exec {sys.executable} -c 'import kernel'",
            ],
            env=os.environ | {"HOME": "/proc/none", "PYTHONPATH": f"{ROOT}:{package}"},
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("42\n", "", 0)
    assert bool(list(kept.glob("**/*.nbi"))) is private
