"""Builds as a person starts them, and what tests ask of them afterwards."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import Seen

from zml_dask.engine.clusters import ClusterOptions
from zml_dask.pipeline.ledger import load_ledger
from zml_dask.store.storage import Storage

COMMAND = [sys.executable, "-c", "from zml_dask.cli.main import main; main()"]
_LOG = "build.log.jsonl"
_SECONDS = 500
PATIENT = ClusterOptions(start_timeout=_SECONDS)
"""For clusters whose workers do arrive, on a busy machine too."""


def need(lacking: str | None) -> None:
    """Skip the test where the machine lacks what it needs."""
    if lacking is not None:
        pytest.skip(lacking)


@contextmanager
def started(*words: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``zml-dask``, its output into a file, and kill it where the test ends before it does.

    A build that outlived its test would go on submitting jobs beside those of the next one.
    """
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [*COMMAND, *map(str, words)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "200"},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for a build that is to succeed; what it said."""
    status = process.wait(_SECONDS)
    said = log.read_text()
    assert status == 0, said
    return said


def run(*words: object, log: Path) -> str:
    with started(*words, log=log) as process:
        return finish(process, log)


def until(condition: Callable[[], bool], what: str, seconds: float = _SECONDS) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def staged(dataset: Path) -> set[int]:
    """Records that are staged, or failed, and not yet committed."""
    if not dataset.exists():
        return set()
    ledger = load_ledger(Storage.open(dataset), None)
    return {int(number) for number in np.concatenate([ledger.staged, ledger.failed])}


def content(dataset: Path) -> dict[str, str]:
    """Every file of a dataset but the diary of its builds, by its digest."""
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*"))
        if path.is_file() and path.name != _LOG
    }


def records_of(downloads: Iterable[Seen]) -> list[int]:
    """Records whose archives were requested: /api/records/ID/files/..."""
    return [int(seen.path.split("/")[3]) for seen in downloads]
