"""The catalogue of 2018, ``records.pkl``: a pickled dict from id to hit, read without risk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from zml_dask.errors import UsageError
from zml_dask.records.journal import HarvestOptions, HarvestState, save_state
from zml_dask.records.parse import RecordParseError, canonical_json, record_id_of
from zml_dask.safe_pickle import load


def convert_records_pickle(stream: BinaryIO, into: Path, *, origin: str) -> int:
    """Write the records of a ``records.pkl`` as JSON Lines, in id order.

    What a pickle holds came from a server, whoever pickled it, so the new
    catalogue gets a harvest's sidecar and its records may name no file system.

    Parameters
    ----------
    stream : binary file
    into : Path
        The catalogue to write, atomically.
    origin : str
        Name of the pickle, for error messages.

    Returns
    -------
    int
        Number of records.

    Raises
    ------
    ForbiddenPickleError, DamagedPickleError
        If it holds more than plain containers, or is damaged.
    UsageError
        If it is not a collection of hits.
    """
    content = load(stream, name=origin)
    hits = list(content.values()) if isinstance(content, Mapping) else content
    if not isinstance(hits, list | tuple):
        raise UsageError(f"{origin} holds no records, but a {type(content).__name__}")
    lines: dict[int, str] = {}
    newest: str | None = None
    for hit in hits:
        try:
            lines[record_id_of(hit)] = canonical_json(hit)
        except (RecordParseError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{origin} holds more than records: {error}") from None
        created = hit.get("created")
        if isinstance(created, str):
            newest = max(newest or created, created)
    into.parent.mkdir(parents=True, exist_ok=True)
    scratch = into.with_name(into.name + ".new")
    with scratch.open("w", encoding="ascii") as target:
        target.writelines(f"{lines[record_id]}\n" for record_id in sorted(lines))
        target.flush()
        os.fsync(target.fileno())
    state = HarvestState(
        options=HarvestOptions(exclude=""),
        total=len(lines),
        found=len(lines),
        complete_until=newest,
        catalogue_bytes=scratch.stat().st_size,
        finished=True,
    )
    # The mark of distrust comes first: a crash between the two leaves no
    # catalogue that passes for the user's own.
    save_state(into, state)
    scratch.replace(into)
    return len(lines)
