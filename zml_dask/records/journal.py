"""The catalogue while a harvest writes it: appended to, locked, and never torn."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from zml_dask.errors import UsageError, ZmlError
from zml_dask.records.parse import RecordParseError, record_id_of
from zml_dask.records.state import HarvestState, load_state, save_state, state_path


class CatalogueWriteError(UsageError):
    """The catalogue cannot be written to: where it is, or because of what it is."""


class HarvestDiskError(ZmlError):
    """The disk does not take what is harvested."""


class Journal:
    """A catalogue opened for appending, and the state beside it.

    Whatever stopped the last harvest, the lines that are whole stay and count;
    what is torn at the end goes. The state is written after its page's lines,
    so it never claims more than is there.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    state : HarvestState or None
        As it was found.
    ids : set of int
        Of the records in the catalogue.

    Raises
    ------
    CatalogueWriteError
        If it cannot be opened, another harvest has it, or it is not a harvest's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: set[int] = set()
        self._stream = _open_locked(path)
        try:
            self.state = load_state(path)
            self._check_length(self._stream.seek(0, os.SEEK_END))
            self._read_ids()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # After a full disk there is nothing left to flush that could be.
        with suppress(OSError):
            self._stream.close()

    def append(self, lines: Iterable[str]) -> int:
        """Add lines durably and give the catalogue's new length in bytes.

        Raises
        ------
        HarvestDiskError
            If the disk does not take them.
        """
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        with self._disk():
            if data:
                self._stream.write(data)
                self._stream.flush()
                os.fsync(self._stream.fileno())
            return self._stream.tell()

    def save(self, state: HarvestState) -> None:
        """Write the state.

        Raises
        ------
        HarvestDiskError
            If the disk does not take it.
        """
        with self._disk():
            save_state(self.path, state)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HarvestDiskError(
                f"{self.path} cannot be written: {error.strerror}; make room and start the same "
                "command again, it goes on where it was"
            ) from error

    def _check_length(self, size: int) -> None:
        if self.state is None and size:
            raise CatalogueWriteError(
                f"{self.path} is there but no harvest wrote it: harvest into a new file"
            )
        if self.state is not None and size < self.state.catalogue_bytes:
            raise CatalogueWriteError(
                f"{self.path} is shorter than its harvest left it: remove it and "
                f"{state_path(str(self.path))}, and harvest again"
            )

    def _read_ids(self) -> None:
        """Collect the ids of all whole lines and cut off what is torn at the end."""
        self._stream.seek(0)
        whole = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                self.ids.add(record_id_of(json.loads(line)))
            except (ValueError, RecursionError, RecordParseError) as error:
                raise CatalogueWriteError(
                    f"{self.path} holds a line that is no record, at byte {whole}: {error}"
                ) from None
            whole += len(line)
        self._stream.seek(whole)
        self._stream.truncate()


def _open_locked(path: Path) -> BinaryIO:
    if "://" in str(path):
        raise CatalogueWriteError(f"{path} is not a local file: harvest to one, then copy it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")  # noqa: PTH123, SIM115 - kept open; no mode of open() creates without truncating
    except OSError as error:
        raise CatalogueWriteError(f"{path} cannot be written: {error.strerror}") from error
    try:
        # The kernel lets go of it with the process, however that ends.
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise CatalogueWriteError(f"{path} is being written by another harvest") from None
    return stream
