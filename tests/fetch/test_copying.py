"""Streams onto a disk that is nearly full."""

from __future__ import annotations

import io
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from zml_dask.errors import NetworkError
from zml_dask.fetch.cache import copy_stream

LIMIT = 1_200_000


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files of this process end at `LIMIT` bytes, as at the end of a quota: by a short write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("little_room")
def test_a_last_piece_that_fits_in_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, check=lambda error: error.kind == "disk_full"):
        copy_stream(io.BytesIO(bytes(LIMIT + 300_000)), tmp_path / "copy", most=2 * LIMIT)
    count, _ = copy_stream(io.BytesIO(bytes(LIMIT)), tmp_path / "copy", most=LIMIT)
    assert (tmp_path / "copy").stat().st_size == count == LIMIT
