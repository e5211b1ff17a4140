"""The build's log: JSON Lines beside the dataset, one line per record, written by the driver."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zml_dask.engine.objects import LOG
from zml_dask.errors import LockLostError

if TYPE_CHECKING:
    from zml_dask.store.storage import Storage


class BuildLog:
    """Appends events, each a JSON object on a line with the time (UTC) and what happened."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, event: str, **details: Any) -> None:
        """Add an event (``"start"``, ``"record"``, ``"pack"``, ``"commit"``, ``"end"`` and so on).

        Its details are whatever JSON can hold; control characters of hostile names are escaped.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._stream.write(f"{json.dumps({'time': now, 'event': event, **details})}\n")
        self._stream.flush()


@contextmanager
def build_log(storage: Storage) -> Iterator[BuildLog]:
    """Open the dataset's log for appending.

    On a file system lines appear as they are written. An object store cannot
    append: there the lines are spooled here and put, whole, at the end.
    """
    if storage.is_local:
        path = Path(storage.url, LOG)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                stream.write("\n")  # the run before died in the middle of a line
            yield BuildLog(stream)
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        if storage.exists(LOG):
            spool.write(storage.read(LOG).decode())
        is_ours = True
        try:
            yield BuildLog(spool)
        except LockLostError:
            is_ours = False
            raise
        finally:
            if is_ours:  # else another process writes the log now
                spool.seek(0)
                storage.write(LOG, spool.read().encode())
