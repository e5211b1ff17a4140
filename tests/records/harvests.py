"""What the tests of harvests share: ids of a corpus and of a catalogue, and an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from serving import Sandbox

from zml_dask.net.client import HttpClient
from zml_dask.records.harvest import HarvestProgress
from zml_dask.sandbox.corpus import Corpus

Make = Callable[..., Sandbox]


ClientOf = Callable[..., HttpClient]


class Interruption(BaseException):
    """Stands for whatever ends a harvest in the middle."""


def ids_in(path: Path) -> list[int]:
    """All ids in a catalogue's lines, in their order."""
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def ids_of(corpus: Corpus) -> list[int]:
    return sorted(
        record.record_id
        for record in corpus
        if record.is_latest and record.withdrawal is None and record.resource_type == "software"
    )


def interrupt_after(pages: int) -> Callable[[HarvestProgress], None]:
    left = [pages]

    def progress(_: HarvestProgress) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interruption

    return progress
