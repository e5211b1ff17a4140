"""Forked processes, as PyTorch's DataLoader and multiprocessing make them, compute as others do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dataset_builders import write_dataset

from zml_dask.store.storage import Storage

# In a process of its own: the tests' has threads of all kinds. A child that waits for threads that
# it does not have is ended by the alarm.
_PROGRAM = """
import dask.array as da, multiprocessing, signal, sys
import zml_dask as zml

def compute(ds):
    signal.alarm(250)
    return float(ds.images.mean().compute()), ds.sql("select count(*) from files").fetchall()

def same(one, other):
    assert one == other, (one, other)

def both():
    ds = zml.open_dataset(sys.argv[1])
    da.ones(99, chunks=1).sum().compute()  # all of Dask's threads are at work
    mine = compute(ds)
    signal.alarm(0)
    child = multiprocessing.get_context("fork").Process(target=lambda: same(compute(ds), mine))
    child.start()
    child.join()
    same(child.exitcode, 0)
    same(compute(ds), mine)

if sys.argv[2] == "threads":
    both()
else:
    from distributed import Client
    with Client(n_workers=1, processes=False, dashboard_address=None):
        both()
print("equal")
"""


@pytest.mark.parametrize("before", ["threads", "client"])
def test_a_forked_process_computes_after_dask_was_used(tmp_path: Path, before: str) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, storage.url, before],
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "equal\n", ran.stderr
