"""Loaded into workers (``--preload``): one legacy record kills whoever imports it."""

from __future__ import annotations

import os
import time
from typing import Any

import distributed

from zml_dask.pipeline import importing

POISON = 3


def dask_setup(worker: distributed.Worker) -> None:
    harmless = importing.import_record

    def import_record(source: Any, record: Any, *arguments: Any) -> Any:
        if record.record_id == POISON:
            time.sleep(0.2)
            os._exit(1)
        return harmless(source, record, *arguments)

    importing.import_record = import_record
