"""The harvest: all software records of a Zenodo, each once, whatever interrupts it.

A search shows its first 10,000 results, so the harvest asks for slices of
creation time, halved until each fits; pages are counted here and every hit is
checked. Slices end in the server's past: within one, records can only disappear
(withdrawn, or superseded by a new version), and what appears meanwhile waits in
a last slice of its own. A total that shrinks between two pages means that later
records moved up, and sends the harvest back as many pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from zml_dask.errors import UsageError
from zml_dask.net.http import HttpClient
from zml_dask.records.harvest_result import HarvestProgress, HarvestResult
from zml_dask.records.harvest_round import HarvestRound
from zml_dask.records.journal import Journal
from zml_dask.records.slices import instant, read, written
from zml_dask.records.state import HarvestOptions, HarvestState, HarvestStateError

__all__ = ["HarvestOptions", "HarvestProgress", "HarvestResult", "HarvestState", "harvest"]

OVERLAP: Final = timedelta(days=1)
"""How far a further round looks back: a record may enter the search after its creation."""


class BadPatternError(UsageError):
    """``--exclude`` is not a regular expression."""


class BadApiUrlError(UsageError):
    """The API's root is none."""


def harvest(
    catalogue_path: str | Path,
    options: HarvestOptions | None = None,
    client: HttpClient | None = None,
    *,
    progress: Callable[[HarvestProgress], None] | None = None,
) -> HarvestResult:
    """Write all records that `options` ask for to a catalogue, or go on doing so.

    An interrupted harvest goes on where it was; a finished one without an end
    (``until``) looks for what is new since.

    Parameters
    ----------
    catalogue_path : path
        A local file: JSON Lines, appended to.
    options : HarvestOptions, optional
    client : HttpClient, optional
        Default: a new one without a token.
    progress : callable, optional
        Called after every page.

    Returns
    -------
    HarvestResult

    Raises
    ------
    BadApiUrlError, BadDateError, BadPatternError
        If an option cannot be.
    HarvestStateError
        If the catalogue was harvested with other options.
    CatalogueWriteError
        If the catalogue cannot be written to.
    BadQueryError
        If the server cannot parse the query.
    NetworkError
        If the server cannot be had; the same call goes on later.
    """
    asked = options or HarvestOptions()
    asked = replace(asked, api_url=_root(asked.api_url))
    pattern = _pattern(asked.exclude)
    begin, end = _bounds(asked)
    if client is None:
        with HttpClient() as own:
            return harvest(catalogue_path, asked, own, progress=progress)
    with Journal(Path(catalogue_path)) as journal:
        state = _resumed(journal.state, asked, begin, end, str(catalogue_path))
        return HarvestRound(journal, client, pattern, state, progress).to_the_end()


def _root(api_url: str) -> str:
    root = api_url.rstrip("/")
    # The path is how the throttle tells a search, which has a limit of its own.
    if re.fullmatch(r"https?://[^/]+(/.*)?/api", root) is None:
        raise BadApiUrlError(
            f"--api-url {api_url!r} is no root of an API: write it like https://zenodo.org/api"
        )
    return root


def _pattern(exclude: str) -> re.Pattern[str] | None:
    try:
        return re.compile(exclude, re.IGNORECASE) if exclude else None
    except re.error as error:
        raise BadPatternError(f"--exclude {exclude!r} is no regular expression: {error}") from None


def _bounds(options: HarvestOptions) -> tuple[str | None, str | None]:
    begin = instant(options.since, option="--since") if options.since else None
    end = instant(options.until, option="--until", is_end=True) if options.until else None
    if begin and end and begin > end:
        raise UsageError(f"--since {options.since} is after --until {options.until}")
    return begin, end


def _resumed(
    state: HarvestState | None,
    asked: HarvestOptions,
    begin: str | None,
    end: str | None,
    name: str,
) -> HarvestState:
    """Give the state to go on from: new, as it was left, or of a further round."""
    if state is None or (state.started is None and state.complete_until is None):
        # Nothing was ever answered, as happens with a query that was not one.
        return HarvestState(options=asked, pending=((begin, end),))
    if replace(state.options, limit=None) != replace(asked, limit=None):
        raise HarvestStateError(
            f"{name} was harvested with other options ({_difference(state.options, asked)}): "
            "repeat those, or harvest into another file"
        )
    state = replace(state, options=asked)
    if not state.finished or end is not None:
        return state
    again = begin
    if state.complete_until is not None:
        overlapping = written(read(state.complete_until) - OVERLAP)
        again = max(overlapping, begin or overlapping)
    return HarvestState(
        options=asked, pending=((again, None),), complete_until=state.complete_until
    )


def _difference(old: HarvestOptions, new: HarvestOptions) -> str:
    names = ("api_url", "query", "since", "until", "exclude", "all_versions")
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    return ", ".join(f"--{name.replace('_', '-')} {getattr(old, name)!r}" for name in changed)
