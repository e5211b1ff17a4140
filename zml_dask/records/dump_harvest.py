"""A harvest from a dump.

Records are chosen from the dump and written in its order, so that a harvest that was killed
continues without asking again for what it has. The search then adds newer records, and at the end
the lines are sorted by creation, oldest first, as a search returns them.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from zml_dask.errors import NetworkError
from zml_dask.net.client import HttpClient
from zml_dask.records.dump import (
    DumpEntry,
    DumpError,
    deleted_records,
    download_dump,
    dump_entries,
    searchable,
)
from zml_dask.records.instants import format_instant, instant_of, parse_instant
from zml_dask.records.journal import DumpState, HarvestState, Journal
from zml_dask.records.native import lacks_files, search_hit
from zml_dask.records.parse import (
    RecordParseError,
    brief_hit,
    harvested_json,
    listed,
    mapping,
    parse_record,
    record_id_of,
    record_name,
    text,
    whole_number,
)
from zml_dask.records.query import matcher
from zml_dask.records.record import Record
from zml_dask.records.search import EARLIEST, OVERLAP

_BATCH: Final = 1_000
# An entry that cannot be read is asked for by its number. If there are more than this,
# and more than one in a hundred, the dump is damaged.
_MOST_DAMAGED: Final = 100


@dataclass(frozen=True, slots=True)
class DumpProgress:
    """The progress of a dump: bytes of its download, or of what was read of it."""

    what: str  # "download" or "read"
    done: int
    total: int  # bytes, compressed, as is `done`
    written: int  # records in the catalogue


class DumpRound:
    """Reads a dump into a catalogue.

    `pattern` is of titles and file names to exclude, `state` that of a harvest with a dump that is
    not read yet. `say` is called with lines for the user.
    """

    def __init__(
        self,
        journal: Journal,
        client: HttpClient,
        pattern: re.Pattern[str] | None,
        state: HarvestState,
        say: Callable[[str], None],
        progress: Callable[[DumpProgress], None] | None,
    ) -> None:
        if state.dump is None:
            raise ValueError("the harvest has no dump")
        self._journal = journal
        self._client = client
        self._pattern = pattern
        self._say = say
        self._progress = progress
        # Entries that are read again are counted again.
        self._state = replace(state, missing=0)
        self._found = len(journal.ids)
        self._excluded = 0
        self._dump = state.dump
        self._entries = 0
        self._api_url = state.options.api_url
        self._all_versions = state.options.all_versions
        self._begin, self._end = (
            None if bound is None else parse_instant(bound) for bound in state.options.bounds()
        )
        self._matches = matcher(state.options.query, only_known=True)
        self._passed = set(self._dump.passed)
        self._lines: list[str] = []
        self._added: set[int] = set()
        self._newest = instant_of(self._dump.newest)
        self._damaged = 0

    def to_the_end(self) -> HarvestState:
        """Read all of the dump; return the state in which the search is to add what is newer.

        Raises `DumpError` or `NetworkError` if it cannot be downloaded or breaks off; the same call
        resumes later.
        """
        self._save()
        self._dump = download_dump(
            self._dump,
            self._client,
            self._api_url,
            say=self._say,
            report=lambda done, total: self._report("download", done, total),
            keep=self._keep,
        )
        total = Path(self._dump.path).stat().st_size
        for entry in dump_entries(self._dump.path, self._is_known):
            self._entries += 1
            self._take(entry)
            if len(self._lines) >= _BATCH:
                self._flush()
            if self._entries % _BATCH == 0:
                self._report("read", entry.offset, total)
        # The search begins before the dump was made, and before its newest record.
        moments = [self._newest, instant_of(self._dump.created)]
        oldest = min((one for one in moments if one is not None), default=EARLIEST)
        since = format_instant(oldest - OVERLAP)
        begin, end = self._state.options.bounds()
        begin = since if begin is None else max(begin, since)
        self._dump = replace(self._dump, is_read=True)
        self._state = replace(
            self._state, pending=() if end is not None and end < begin else ((begin, end),)
        )
        self._flush()
        self._say(
            f"{self._entries:,} records in the dump, {self._found:,} of software found, "
            f"{len(self._journal.ids):,} in the catalogue; now what was created since {begin[:10]}"
        )
        return self._state

    def _is_known(self, record_id: int) -> bool:
        ids = self._journal.ids
        return record_id in ids or record_id in self._added or record_id in self._passed

    def _take(self, entry: DumpEntry) -> None:
        if self._is_known(entry.record_id):
            return
        try:
            # An entry that is too large fails as damaged JSON does.
            native = self._candidate(entry.data or b"")
            if native is None:
                return
            created = instant_of(native.get("created"))
            if created is not None:
                self._newest = max(created, self._newest or created)
            if not self._is_in_time(created):
                return
            if not lacks_files(native):
                self._choose(search_hit(native, self._api_url))
                return
        except (ValueError, RecursionError, RecordParseError):
            self._damaged += 1
            if self._damaged > max(_MOST_DAMAGED, self._entries // 100):
                raise DumpError(
                    f"the dump {self._dump.path} is damaged: {self._damaged:,} of the first "
                    f"{self._entries:,} records in it cannot be read; download it again"
                ) from None
        self._ask(entry.record_id)

    def _candidate(self, data: bytes) -> Mapping[str, Any] | None:
        """Return the native record of an entry if it is software of a wanted version, else None.

        Raises `ValueError` if the JSON is damaged.
        """
        if b'"software' not in data:
            # A quick check: three of four entries are something else.
            if not data.rstrip().endswith(b"}"):
                raise ValueError("the JSON is cut off")
            return None
        try:
            native = mapping(msgspec.json.decode(data))
        except (msgspec.MsgspecError, RecursionError):
            # It is stricter than Python's decoder, which decides.
            native = mapping(json.loads(data))
        kind = text(mapping(mapping(native.get("metadata")).get("resource_type")).get("id")) or ""
        if kind.partition("-")[0].lower() != "software":
            return None
        if not self._all_versions and mapping(native.get("versions")).get("is_latest") is False:
            return None
        return native

    def _is_in_time(self, created: datetime | None) -> bool:
        begin, end = self._begin, self._end
        if created is None:
            return begin is None and end is None
        return (begin is None or created >= begin) and (end is None or created <= end)

    def _ask(self, record_id: int) -> None:
        """Complete a record by a request of its own; remember those that are not wanted."""
        self._flush()
        url = f"{self._api_url}/records/{record_name(record_id)}"
        try:
            hit = mapping(self._client.get_json(url).payload)
            kept = record_id_of(hit) == record_id and self._is_wanted(hit) and self._choose(hit)
        except RecordParseError:
            kept = False
        except NetworkError as error:
            if error.kind == "server_error":
                self._state = replace(self._state, missing=self._state.missing + 1)
                return
            if error.kind not in {"forbidden", "gone", "not_found"}:
                raise
            kept = False
        if not kept:
            self._passed.add(record_id)
        self._flush()

    def _is_wanted(self, hit: Mapping[str, Any]) -> bool:
        """Whether a whole record would have been chosen by its entry."""
        if parse_record(hit).resource_type != "software":
            return False
        versions = listed(mapping(mapping(hit.get("metadata")).get("relations")).get("version"))
        is_last = all(mapping(one).get("is_last") is not False for one in versions)
        return (is_last or self._all_versions) and self._is_in_time(instant_of(hit.get("created")))

    def _choose(self, hit: Mapping[str, Any]) -> bool:
        """Add a hit to the catalogue, if the query finds it and nothing excludes it."""
        if not self._matches(searchable(hit)):
            return False
        record = parse_record(hit)
        excluded = is_excluded(record, self._pattern)
        self._found += 1
        self._excluded += excluded
        if not excluded:
            self._lines.append(harvested_json(hit))
            self._added.add(record.record_id)
        return not excluded

    def _flush(self) -> None:
        self._journal.append(self._lines)
        self._journal.ids |= self._added
        self._lines, self._added = [], set()
        self._save()

    def _keep(self, dump: DumpState) -> None:
        self._dump = dump
        self._save()

    def _save(self) -> None:
        newest = None if self._newest is None else format_instant(self._newest)
        passed = tuple(sorted(self._passed))
        dump = replace(self._dump, entries=self._entries, newest=newest, passed=passed)
        self._state = self._journal.save(
            replace(self._state, dump=dump, found=self._found, excluded=self._excluded)
        )

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(DumpProgress(what, done, total, len(self._journal.ids)))


def is_excluded(record: Record, pattern: re.Pattern[str] | None) -> bool:
    """Whether a pattern is found in a record's title or a file's name."""
    names = (record.title or "", *(file.key for file in record.files))
    return pattern is not None and any(map(pattern.search, names))


def put_in_order(
    journal: Journal, state: HarvestState, client: HttpClient, say: Callable[[str], None]
) -> HarvestState:
    """Bring a catalogue from a dump to the order and the records that a search would give.

    Superseded versions are removed if only the latest are wanted, and so are withdrawn records and
    the newest ones beyond the limit. `state` has the dump that was read, and no slices still to be
    asked for. Returns the state without the dump; it is not written yet.
    """
    try:
        gone = deleted_records(client, state.options.api_url, journal.ids.__contains__) or {}
    except DumpError as error:
        say(f"{error}; records withdrawn since the dump stay in the catalogue")
        gone = {}
    rows = _ordered(journal, frozenset(gone), all_versions=state.options.all_versions)
    limit = state.options.limit
    dump, state = state.dump, replace(state, dump=None)
    if limit is not None and len(rows) > limit:
        rows = rows[:limit]
        last = format_instant(datetime.fromtimestamp(rows[-1, 0] / 1000, UTC))
        end = state.pending[-1][1] if state.pending else state.options.until
        state = replace(state, pending=((last, end),))
    spans = ((int(begin), int(size)) for begin, size in rows[:, 3:])
    journal.rewrite(spans, replace(state, dump=dump))
    if dump is not None and dump.version_id is not None:
        Path(dump.path).unlink(missing_ok=True)
    return state


def _ordered(journal: Journal, gone: frozenset[int], *, all_versions: bool) -> NDArray[np.int64]:
    """Return the lines to keep, oldest first: created (ms), id, concept, offset, length."""
    keys = array("q")
    for offset, line in journal.lines():
        hit = brief_hit(line)
        created = instant_of(hit.get("created"))
        keys.extend(
            (
                0 if created is None else int(created.timestamp() * 1000),
                record_id_of(hit),
                # Only hits in other forms than the search's hold it elsewhere.
                whole_number(hit.get("conceptrecid")) or 0,
                offset,
                len(line),
            )
        )
    rows = np.frombuffer(keys, dtype=np.int64).reshape(-1, 5)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    keep = ~np.isin(rows[:, 1], np.fromiter(gone, dtype=np.int64))
    if not all_versions:
        concepts = rows[::-1, 2]
        _, newest = np.unique(concepts, return_index=True)
        is_newest = np.zeros(len(rows), dtype=bool)
        is_newest[len(rows) - 1 - newest] = True
        keep &= is_newest | (rows[:, 2] == 0)
    return rows[keep]
