"""The harvest: all software records of a server, each once, whatever interrupts it.

A search shows its first 10,000 results, so the harvest asks for slices of creation time, halved
until each fits; pages are counted here and every hit is checked. Slices end in the server's past:
within one, records can only disappear (withdrawn, or superseded by a new version), and records that
appear meanwhile are in a last slice of their own. A total that shrinks between two pages means that
later records moved up, and the harvest goes back by as many records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Final

from zml_dask.errors import NetworkError, UsageError, ZmlError
from zml_dask.net.client import HttpClient
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.dump import choose_dump
from zml_dask.records.dump_harvest import DumpProgress, DumpRound, is_excluded, put_in_order
from zml_dask.records.instants import format_instant, instant_of, parse_instant
from zml_dask.records.journal import HarvestOptions, HarvestState, Journal, state_path
from zml_dask.records.parse import RecordParseError, harvested_json, mapping, parse_record
from zml_dask.records.query import matcher
from zml_dask.records.search import (
    EARLIEST,
    GUEST_SIZES,
    LAST_FILTER,
    OVERLAP,
    TOKEN_SIZES,
    WINDOW,
    SearchPage,
    Slice,
    halves,
    search_page,
)
from zml_dask.records.table import write_parquet

__all__ = ["HarvestOptions", "HarvestProgress", "HarvestResult", "harvest"]


@dataclass(frozen=True, slots=True)
class HarvestProgress:
    """The progress of a harvest.

    Attributes
    ----------
    found : int
        Records of type software found in this round.
    total : int
        Number of hits that the server stated at the beginning of the round.
    written, excluded : int
    slices : int
        Number of known intervals that remain.
    """

    found: int
    total: int
    written: int
    excluded: int
    slices: int


@dataclass(frozen=True, slots=True)
class HarvestResult:
    """The result of a harvest.

    Attributes
    ----------
    found : int
        Records of type software found in this round.
    written : int
        Lines that this call added to the catalogue.
    excluded : int
        Records left out by the pattern.
    total : int
        Number of hits that the server stated at the beginning of the round.
    missing : int
        Hits that the server stated and did not return.
    records : int
        Number of records in the catalogue.
    finished : bool
        False if the limit ended the harvest.
    """

    found: int
    written: int
    excluded: int
    total: int
    missing: int
    records: int
    finished: bool


def harvest(
    catalogue_path: str | Path,
    options: HarvestOptions | None = None,
    client: HttpClient | None = None,
    *,
    from_dump: str | None = None,
    progress: Callable[[HarvestProgress], None] | None = None,
    dump_progress: Callable[[DumpProgress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> HarvestResult:
    """Write all records that `options` describe to a catalogue, or resume doing so.

    An interrupted harvest resumes where it stopped; a finished one without an end
    (``until``) looks for newer records.

    Parameters
    ----------
    catalogue_path : path
        A local file: JSON Lines, appended to, or Parquet, written at the end.
    options : HarvestOptions, optional
    client : HttpClient, optional
        Default: a new one without a token.
    from_dump : str, optional
        Begin with a metadata dump instead of the search: ``"newest"``, the id of a
        version, or the path of a downloaded one. An existing catalogue is continued
        by the search.
    progress, dump_progress : callable, optional
        Called after every page; called while a dump is downloaded and read.
    say : callable, optional
        Called with lines for the user.

    Raises
    ------
    UsageError
        If an option is invalid, the catalogue was harvested with other options or cannot be
        written to, or the query cannot be evaluated on a dump.
    DumpError
        If the dump does not exist, is incomplete or is damaged; the same call resumes later.
    NetworkError
        If the server cannot parse the query, or cannot be reached; the same call resumes later.
    """
    asked = options or HarvestOptions()
    asked = replace(asked, api_url=_root(asked.api_url))
    pattern = _pattern(asked.exclude)
    asked.bounds()  # before anything is asked
    path = lines = Path(catalogue_path)
    if path.suffix == ".parquet":
        # Parquet cannot be appended to: lines are what survives an interruption.
        lines = path.with_name(path.name + ".jsonl")
        if path.exists() and not Path(state_path(str(lines))).exists():
            lines.unlink(missing_ok=True)
            Catalogue.open(path).write(lines)
    with ExitStack() as stack:
        if client is None:
            client = stack.enter_context(HttpClient())
        journal = stack.enter_context(Journal(lines))
        state = _resumed(journal.state, asked, str(lines))
        before = len(journal.ids)
        if from_dump is not None and state.dump is None:
            if state.started is not None or state.complete_until is not None:
                say(f"{lines} was begun before: continuing by the search")
            else:
                matcher(asked.query, only_known=True)
                state = replace(state, dump=choose_dump(from_dump, client, asked.api_url, lines))
        if state.dump is not None and not state.dump.is_read:
            dump_round = DumpRound(journal, client, pattern, state, say, dump_progress)
            state = dump_round.to_the_end()
        state = HarvestRound(journal, client, pattern, state, progress).to_the_end()
        if state.dump is not None:
            state = put_in_order(journal, state, client, say)
        state = journal.save(_finished(state))
        result = HarvestResult(
            found=state.found,
            written=len(journal.ids) - before,
            excluded=state.excluded,
            total=state.total,
            missing=state.missing,
            records=len(journal.ids),
            finished=state.finished,
        )
    if lines != path:
        catalogue = Catalogue.open(lines)
        write_parquet(path, catalogue.hits(), catalogue.harvest)
        Path(state_path(str(lines))).unlink()
        lines.unlink()
    return result


def _root(api_url: str) -> str:
    root = api_url.rstrip("/")
    # The path is how the throttle recognises a search, which has a limit of its own.
    if re.fullmatch(r"https?://[^/]+(/.*)?/api", root) is None:
        raise UsageError(
            f"--api-url {api_url!r} is not the root of an API: write it like https://zenodo.org/api"
        )
    return root


def _pattern(exclude: str) -> re.Pattern[str] | None:
    try:
        return re.compile(exclude, re.IGNORECASE) if exclude else None
    except re.error as error:
        raise UsageError(f"--exclude {exclude!r} is not a regular expression: {error}") from None


def _resumed(state: HarvestState | None, asked: HarvestOptions, name: str) -> HarvestState:
    """Return the state to continue from: new, as it was left, or of a further round."""
    begin, end = asked.bounds()
    if state is None or (
        state.started is None and state.complete_until is None and state.dump is None
    ):
        # The server never answered, as happens with an invalid query.
        return HarvestState(options=asked, pending=((begin, end),))
    if replace(state.options, limit=None) != replace(asked, limit=None):
        raise UsageError(
            f"{name} was harvested with other options ({_difference(state.options, asked)}): "
            "repeat those, or harvest into another file"
        )
    state = replace(state, options=asked)
    if not state.finished or end is not None:
        return state
    again = begin
    if state.complete_until is not None:
        overlapping = format_instant(parse_instant(state.complete_until) - OVERLAP)
        again = max(overlapping, begin or overlapping)
    return HarvestState(
        options=asked, pending=((again, None),), complete_until=state.complete_until
    )


def _difference(old: HarvestOptions, new: HarvestOptions) -> str:
    names = ("api_url", "query", "since", "until", "exclude", "all_versions")
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    return ", ".join(f"--{name.replace('_', '-')} {getattr(old, name)!r}" for name in changed)


# How long after its creation a record may enter the search; the slice of the latest records
# begins so much earlier.
_INDEX_DELAY: Final = timedelta(minutes=10)
_TRIES: Final = 4


class HarvestRound:
    """A harvest by the search, from `state` on; `pattern` is of records to exclude."""

    def __init__(
        self,
        journal: Journal,
        client: HttpClient,
        pattern: re.Pattern[str] | None,
        state: HarvestState,
        progress: Callable[[HarvestProgress], None] | None,
    ) -> None:
        self._journal = journal
        self._client = client
        self._pattern = pattern
        self._progress = progress
        self._state = state
        self._before = len(journal.ids)
        self._sizes = TOKEN_SIZES if client.has_token else GUEST_SIZES
        self._size = 0
        # Learnt from the answers: how much of a search is shown, and how to ask for software.
        self._window = WINDOW
        self._type_filter = 0
        # Requests in a row that brought nothing new, and what the last one brought.
        self._stale = 0
        self._last: set[str] = set()
        # Whatever is in the catalogue was seen, also before this round.
        self._seen = set(journal.ids)

    def to_the_end(self) -> HarvestState:
        """Read all pending slices, or as many as the limit allows."""
        # The sidecar comes before the first line, as the mark that a harvest wrote it.
        self._journal.save(self._state)
        while self._state.pending and not self._is_full():
            self._check_slices()
            self._read_slice()
        return self._state

    def _is_full(self) -> bool:
        limit = self._state.options.limit
        return limit is not None and len(self._journal.ids) >= limit

    def _read_slice(self) -> None:
        """Read the first pending slice, or replace it by smaller ones."""
        # What an earlier call read of it, and the ids seen in this one.
        earlier, ids = self._state.offset, set[str]()
        is_second_reading = False
        while not self._is_full():
            page, start = self._ask()
            if page is None or self._widens(page):
                self._state = replace(self._state, offset=0, slice_total=0)
                earlier, ids = 0, set()
                continue
            earlier = min(earlier, start)
            state = self._begun(page)
            smaller = self._smaller_slices(page) if page.total > self._window else ()
            if smaller:
                pending = (*smaller, *state.pending[1:])
                self._take(page, replace(state, pending=pending, offset=0, slice_total=0))
                return
            ids.update(map(_id_of, page.hits))
            stop = start + self._size
            if start and page.total < state.slice_total:
                # Records before this page are gone, and those after it moved up.
                stop = max(start - (state.slice_total - page.total), 0)
                earlier = min(earlier, stop)
            # The least total counts: two replicas of the index that differ would
            # otherwise send the harvest back and forth without end.
            least = min(state.slice_total or page.total, page.total)
            state = replace(state, offset=stop, slice_total=least)
            # An unexpected empty page ends the slice, unless it is the last one, whose records
            # moved up.
            if (page.hits or stop < start) and stop < min(page.total, self._window):
                self._take(page, _closed(state, page))
                continue
            missing = max(page.total - earlier - len(ids), 0)
            if missing and not is_second_reading:
                is_second_reading, earlier = True, 0
                self._stale = 0
                self._take(page, replace(state, offset=0, slice_total=0))
                continue
            self._take(
                page,
                replace(
                    state,
                    pending=state.pending[1:],
                    offset=0,
                    slice_total=0,
                    slices_total=state.slices_total + page.total,
                    missing=state.missing + missing,
                ),
            )
            return

    def _check_slices(self) -> None:
        # Each record is in one slice, but for those on a bound or new meanwhile.
        state = self._state
        if state.slices_total > 2 * state.total + WINDOW:
            raise ZmlError(
                f"{state.options.api_url} lists {state.slices_total:,} records in slices of "
                f"{state.total:,}: it ignores 'created:[...]', so that only its first "
                f"{WINDOW:,} can be read; ask for fewer with --query"
            )

    def _check_news(self, page: SearchPage, found: int) -> None:
        """Stop asking a server that has no more records, whatever total it states."""
        ids = set(map(_id_of, page.hits))
        is_news = found or not ids <= self._last
        self._last = ids
        self._stale = 0 if is_news else self._stale + 1
        # A slice may be read twice, and be halved some dozens of times.
        if self._stale > WINDOW // max(self._size, GUEST_SIZES[-1]) + 100:
            raise ZmlError(
                f"{self._state.options.api_url} states {page.total:,} records, and the last "
                f"{self._stale:,} requests brought no new one: its total is wrong, or it "
                "ignores 'created:[...]' and 'page'; ask for fewer with --query"
            )

    def _begun(self, page: SearchPage) -> HarvestState:
        if self._state.started is not None:
            return self._state
        return replace(self._state, started=format_instant(page.now), total=page.total)

    def _widens(self, page: SearchPage) -> bool:
        """Whether the server ignored the filter by type, so that another is tried."""
        if self._type_filter == LAST_FILTER or all(map(_may_be_software, page.hits)):
            return False
        self._type_filter += 1
        return True

    def _ask(self) -> tuple[SearchPage | None, int]:
        """Ask for the next page of the first pending slice.

        Returns it and where in the slice it begins; the page is None if that is past the window
        that the server shows.
        """
        for size in (self._size,) if self._size else self._sizes:
            number = self._state.offset // size
            try:
                page = self._patiently(number + 1, size)
            except NetworkError as error:
                if error.kind != "bad_request":
                    raise
                # The size is larger than the server grants, unless it refuses the smallest as well.
                if size in {self._size, self._sizes[-1]}:
                    if number and number * size < self._window:
                        self._window = number * size
                        return None, 0
                    raise
                continue
            start = number * size
            # A server that silently gives fewer hits than asked for has a limit as well.
            is_short = start == 0 and 0 < len(page.hits) < min(size, page.total)
            self._size = len(page.hits) if is_short else size
            return page, start
        raise AssertionError("the last size returns or raises")

    def _patiently(self, page: int, size: int) -> SearchPage:
        """Ask; once a query has been answered, a 500 to it is a transient error."""
        state = self._state
        is_proven = state.started is not None or not state.options.query.strip()
        for tried in range(1, _TRIES + 1):
            try:
                return search_page(
                    self._client,
                    state.options,
                    state.pending[0],
                    page=page,
                    size=size,
                    type_filter=self._type_filter,
                )
            except NetworkError as error:
                if error.kind != "bad_query" or not is_proven or tried == _TRIES:
                    raise
                sleep(self._client.options.pause(tried))
        raise AssertionError("the last try returns or raises")

    def _smaller_slices(self, page: SearchPage) -> Sequence[Slice]:
        """Cut the first pending slice; return nothing if it is too short for that."""
        first = None
        if page.hits and not self._state.offset:
            first = instant_of(mapping(page.hits[0]).get("created"))
        begin = max(first or EARLIEST, EARLIEST)
        return halves(self._state.pending[0], first=begin, now=page.now) or ()

    def _take(self, page: SearchPage, state: HarvestState) -> None:
        """Add what is new on a page to the catalogue, and only then say so in the state."""
        lines, excluded, found = [], 0, 0
        for hit in page.hits:
            try:
                record, line = parse_record(hit), harvested_json(hit)
            except (RecordParseError, RecursionError):
                # Without an id it can be neither fetched nor named; and metadata that is
                # nested a thousand levels deep is not genuine.
                continue
            if record.resource_type != "software" or record.record_id in self._seen:
                continue
            if self._is_full():
                # A larger limit will have to read this page again.
                state = replace(self._begun(page), found=state.found, excluded=state.excluded)
                break
            self._seen.add(record.record_id)
            found += 1
            if is_excluded(record, self._pattern):
                excluded += 1
                continue
            self._journal.ids.add(record.record_id)
            lines.append(line)
        self._check_news(page, found)
        self._journal.append(lines)
        self._state = self._journal.save(
            replace(state, found=state.found + found, excluded=state.excluded + excluded)
        )
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            state = self._state
            self._progress(
                HarvestProgress(
                    found=state.found,
                    total=state.total,
                    written=len(self._journal.ids) - self._before,
                    excluded=state.excluded,
                    slices=len(state.pending),
                )
            )


def _finished(state: HarvestState) -> HarvestState:
    """Return the state with its end noted, if nothing is left to ask for."""
    if state.pending or state.finished:
        return state
    complete, end = state.started, state.options.bounds()[1]
    if end is not None:
        complete = end if complete is None else min(end, complete)
    return replace(state, finished=True, complete_until=complete)


def _closed(state: HarvestState, page: SearchPage) -> HarvestState:
    """End a slice of several pages in the server's past; make the rest a slice of its own."""
    begin, end = state.pending[0]
    now = format_instant(page.now)
    if end is not None and end <= now:
        return state
    started = parse_instant(state.started) if state.started else page.now
    if begin is not None and parse_instant(begin) >= started - _INDEX_DELAY:
        # This is already the slice of the latest records: it is the last one.
        return state
    rest = format_instant(page.now - _INDEX_DELAY)
    pending = ((begin, now), *state.pending[1:], (max(rest, begin or rest), end))
    return replace(state, pending=pending)


def _may_be_software(hit: object) -> bool:
    try:
        return parse_record(hit).resource_type == "software"
    except (RecordParseError, RecursionError):
        # A hit that is not a record says nothing about the filter.
        return True


def _id_of(hit: object) -> str:
    # As text: a server may put anything there.
    return repr(hit.get("id")) if isinstance(hit, Mapping) else ""
