"""The catalogue: harvested records as JSON Lines, read by offset.

A line is one hit as harvested, in canonical JSON. A catalogue beside which a
harvest's state lies came from a server, and its records may name no file system
of their own; one without was written by its user, and may.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import fsspec
import numpy as np

from zml_dask.errors import UsageError, ZmlError
from zml_dask.records.journal import HarvestState, state_path
from zml_dask.records.parse import (
    ZENODO_API,
    RecordParseError,
    archive_bytes_of,
    canonical_json,
    parse_record,
    record_id_of,
)
from zml_dask.records.record import Record
from zml_dask.records.records_pickle import convert_records_pickle
from zml_dask.records.refs import RecordRef, RefTable

__all__ = [
    "Catalogue",
    "CatalogueChangedError",
    "CatalogueError",
    "RecordRef",
    "canonical_json",
    "read_record",
]


class CatalogueError(UsageError):
    """A catalogue that is not there or cannot be read."""


class CatalogueChangedError(ZmlError):
    """A catalogue was replaced under the references to it, by which no record can be had."""


@dataclass(frozen=True)
class Catalogue:
    """An open catalogue.

    Attributes
    ----------
    path : str
        Of the JSON Lines file; a path or any fsspec URL.
    refs : RefTable
        A reference a record, in record-id order; the last line of an id counts.
    harvest : HarvestState or None
        The state of the harvest that wrote it; None for a user's own catalogue.
    api_url : str
        Root of the API that the files' URLs are built on.
    """

    path: str
    refs: RefTable
    harvest: HarvestState | None
    api_url: str

    @classmethod
    def open(
        cls, path: str | Path, *, api_url: str | None = None, into: str | Path | None = None
    ) -> Self:
        """Open a catalogue and index its lines.

        Parameters
        ----------
        path : str or Path
            JSON Lines, or a ``records.pkl`` of 2018.
        api_url : str, optional
            Default: the harvest's own, else Zenodo's.
        into : path, optional
            Where a ``records.pkl`` is converted to; only one needs it.

        Raises
        ------
        CatalogueError
            If it is not there, or a line of it is not a record; a last line
            without an end, such as an interrupted harvest leaves, is passed over.
        UnsafePickleError
            If a pickle holds more than plain containers.
        """
        name = str(path)
        if _is_pickle(name):
            if into is None:
                raise CatalogueError(f"{name} is a pickle: say where to convert it to")
            with fsspec.open(name, "rb") as stream:
                convert_records_pickle(stream, Path(into), origin=name)
            name = str(into)
        harvest = _harvest_of(name)
        own = harvest.options.api_url if harvest else ZENODO_API
        return cls(name, RefTable(_index(name)), harvest, (api_url or own).rstrip("/"))

    @property
    def trusted(self) -> bool:
        """Whether its records may name file systems: only the user's own catalogue."""
        return self.harvest is None

    def read(self, ref: RecordRef) -> Record:
        """Read one record.

        Raises
        ------
        CatalogueChangedError
            If the line is no longer that record.
        """
        return read_record(self.path, ref, api_url=self.api_url, trusted=self.trusted)


def read_record(
    path: str, ref: RecordRef, *, api_url: str = ZENODO_API, trusted: bool = False
) -> Record:
    """Read the record that `ref` points to, without opening the whole catalogue.

    Parameters
    ----------
    path : str
        Of the catalogue, or any fsspec URL.
    ref : RecordRef
    api_url : str
        Root of the API that the record is from.
    trusted : bool
        Whether its files may lie on any file system.

    Raises
    ------
    CatalogueError
        If the catalogue is not there.
    CatalogueChangedError
        If the catalogue has changed under the reference.
    RecordParseError
        If the record is nested too deeply to be read here.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        line = filesystem.cat_file(inner, start=ref.offset, end=ref.offset + ref.length)
    except (OSError, ValueError, ImportError) as error:
        raise CatalogueError(f"the catalogue {path} cannot be read: {error}") from error
    try:
        hit = json.loads(line)
        if record_id_of(hit) == ref.record_id:
            return parse_record(hit, api_url=api_url, trusted=trusted)
    except RecursionError as error:
        # No sign of a change: the stack is deeper here than where it was indexed.
        raise RecordParseError(f"record {ref.record_id} is nested too deeply: {error}") from error
    except (ValueError, RecordParseError):
        pass  # cut out of the middle of another line
    raise CatalogueChangedError(
        f"record {ref.record_id} is not where it was in {path}: "
        "the catalogue changed; start the command again"
    )


def _is_pickle(name: str) -> bool:
    return _head(name, 1) == b"\x80" or name.endswith((".pkl", ".pickle"))


def _head(name: str, count: int) -> bytes:
    try:
        with fsspec.open(name, "rb") as stream:
            head: bytes = stream.read(count)
    except FileNotFoundError:
        raise CatalogueError(
            f"there is no catalogue {name}: make one with 'zml-dask harvest {name}'"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise CatalogueError(f"the catalogue {name} cannot be read: {error}") from error
    return head


def _harvest_of(name: str) -> HarvestState | None:
    sidecar = state_path(name)
    try:
        with fsspec.open(sidecar, "rb") as stream:
            return HarvestState.from_json(stream.read(), sidecar)
    except FileNotFoundError:
        return None


def _index(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Index every line: int64 (n, 4), columns as in `RecordRef`."""
    rows = array("q")
    with fsspec.open(name, "rb") as stream:
        for number, (offset, line) in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                hit = json.loads(line)
                rows.extend((record_id_of(hit), offset, len(line), archive_bytes_of(hit)))
            except (ValueError, RecursionError, RecordParseError) as error:
                if not line.endswith(b"\n"):
                    break
                raise CatalogueError(f"line {number} of {name} is not a record: {error}") from None
    return np.frombuffer(rows, dtype=np.int64).reshape(-1, 4)


def _lines(stream: Any) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in stream:
        yield offset, line
        offset += len(line)
