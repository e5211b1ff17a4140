"""Loaded into workers (``--preload``): one record kills them while another is being read."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import distributed

from zml_dask.pipeline import process

READ_MEANWHILE = 1002
POISON = 1003


def dask_setup(worker: distributed.Worker) -> None:
    fetch_harmless, read = process.FetchAttempt.fetch, process.process_fetched
    reading = threading.Event()

    def fetch(attempt: Any) -> None:
        if attempt.record.record_id == POISON:
            reading.wait(0.5)  # alone, it waits in vain
            time.sleep(0.2)
            os._exit(1)
        fetch_harmless(attempt)

    def process_fetched(attempt: Any, *arguments: Any, **options: Any) -> Any:
        if attempt.record.record_id == READ_MEANWHILE:
            reading.set()
            time.sleep(2)
        return read(attempt, *arguments, **options)

    process.FetchAttempt.fetch = fetch  # type: ignore[method-assign]
    process.process_fetched = process_fetched
