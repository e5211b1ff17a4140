"""Loaded into workers (``--preload``): one record fills the memory of whoever reads it.

What the pipeline does with a record is bounded, so that no record of ours could do this
by itself; a bug in a library might.
"""

from __future__ import annotations

import time
from typing import Any

import distributed

from zml_dask.pipeline import process

_POISON = 17_000_001
_STEP = 32 * 1024 * 1024
_MOST_STEPS = 60


def dask_setup(worker: distributed.Worker) -> None:
    harmless = process.process_fetched

    def process_fetched(attempt: Any, *arguments: Any, **options: Any) -> Any:
        if attempt.record.record_id == _POISON:
            _fill_memory()
        return harmless(attempt, *arguments, **options)

    process.process_fetched = process_fetched


def _fill_memory() -> None:
    hoard = []
    for _ in range(_MOST_STEPS):
        hoard.append(bytearray(b"x") * _STEP)
        time.sleep(0.05)
    raise MemoryError("the nanny did not end this worker")
