"""Zenodo's search: pages, slices of time, records by number, withdrawn records.

The search shows 10,000 results of a query, so a harvest asks for slices of
creation time that are small enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

from zml_dask.errors import NetworkError, ZmlError
from zml_dask.net.client import HttpClient
from zml_dask.net.throttle import http_date
from zml_dask.records.instants import format_instant, parse_instant
from zml_dask.records.journal import HarvestOptions
from zml_dask.records.parse import (
    RecordParseError,
    mapping,
    record_id_of,
    record_name,
    text,
    whole_number,
)

T = TypeVar("T")

Slice = tuple[str | None, str | None]
"""First and last instant, both inclusive, as ISO 8601 in UTC; None is an open end."""

# Zenodo opened in May 2013.
EARLIEST: Final = datetime(2013, 1, 1, tzinfo=UTC)
# Zenodo's index keeps milliseconds, so no slice can be finer.
_FINEST: Final = timedelta(milliseconds=2)
# Longer ones are cut at whole seconds, which read better.
_COARSE: Final = timedelta(seconds=4)


def halves(whole: Slice, *, first: datetime, now: datetime) -> tuple[Slice, Slice] | None:
    """Cut a slice in the middle; None for one that is too short.

    The halves share the instant in the middle: a record created in that very millisecond is found
    twice rather than, by some rounding, never. `first` and `now` stand for an open beginning and an
    open end.

    Examples
    --------
    >>> day = ("2024-02-01T00:00:00.000Z", "2024-02-02T00:00:00.000Z")
    >>> halves(day, first=EARLIEST, now=EARLIEST)[0]
    ('2024-02-01T00:00:00.000Z', '2024-02-01T12:00:00.000Z')
    """
    begin = first if whole[0] is None else parse_instant(whole[0])
    end = now if whole[1] is None else parse_instant(whole[1])
    if end - begin < _FINEST:
        return None
    middle = begin + (end - begin) / 2
    if end - begin > _COARSE:
        middle = middle.replace(microsecond=0)
    return (whole[0], format_instant(middle)), (format_instant(middle), whole[1])


WINDOW: Final = 10_000
"""Results of one search that can be paged through."""

OVERLAP: Final = timedelta(days=1)
"""How far a further round looks back: a record may enter the search after its creation."""

LAST_FILTER: Final = 2
"""The last of the ways to ask for software; see `search_page`."""

_MOST_RECORDS: Final = 10**9

_OPEN: Final = ("1970-01-01T00:00:00Z", "9999-12-31T00:00:00Z")

TOKEN_SIZES: Final = (100, 25, 10)
"""Hits a page to ask for with a token; the next where the server grants no more."""

GUEST_SIZES: Final = (25, 10)


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of a search."""

    hits: tuple[Any, ...]  # whatever the server lists; each is checked when it is used
    total: int  # hits of the whole search
    now: datetime  # the server's clock


def search_query(query: str, created: Slice) -> str:
    """Return a query for the records of one slice of time.

    Examples
    --------
    >>> search_query("title:tides", ("2024-01-01T00:00:00.000Z", None))
    '(title:tides) AND created:["2024-01-01T00:00:00Z" TO "9999-12-31T00:00:00Z"]'
    """
    parts = [f"({query})"] if query.strip() else []
    if created != (None, None):
        # Full dates on both sides: a partial one means its first instant.
        begin, end = (bound or open_end for bound, open_end in zip(created, _OPEN, strict=True))
        begin, end = (bound.replace(".000Z", "Z") for bound in (begin, end))
        parts.append(f'created:["{begin}" TO "{end}"]')
    return " AND ".join(parts)


def search_page(
    client: HttpClient,
    options: HarvestOptions,
    created: Slice,
    *,
    page: int,
    size: int,
    type_filter: int = 0,
) -> SearchPage:
    """Ask for one page (from 1 on) of the software records created in a slice, oldest first.

    The caller counts the pages: the server's links lead out of the window that it serves.
    `type_filter` is the way of asking for software: 0 is Zenodo's parameter, 1 InvenioRDM's facet,
    2 a part of the query. A server ignores a parameter that it does not know.

    Raises `NetworkError` of the kind "bad_query" if the server cannot parse the query,
    "bad_request" if it does not grant the page; `ZmlError` if the answer is not a search result.
    """
    url = f"{options.api_url.rstrip('/')}/records"
    query = search_query(options.query, created)
    parameters = {"type": "software"} if type_filter == 0 else {}
    if type_filter == 1:
        parameters = {"resource_type": "software"}
    if type_filter == LAST_FILTER:
        query = " AND ".join(filter(None, [query, "metadata.resource_type.id:software*"]))
    parameters |= {"sort": "oldest", "page": str(page), "size": str(size)}
    if query:
        parameters["q"] = query
    if options.all_versions:
        parameters["all_versions"] = "true"
    answer = client.get_json(url, parameters)
    hits, total = hits_of(answer.payload, url)
    return SearchPage(tuple(hits), total, _clock(answer.headers))


def hits_of(payload: Any, url: str) -> tuple[list[Any], int]:
    """Return the hits of a search's answer and their total; raise `ZmlError` if it is none."""
    listed = payload.get("hits") if isinstance(payload, Mapping) else None
    hits = listed.get("hits") if isinstance(listed, Mapping) else None
    total = listed.get("total") if isinstance(listed, Mapping) else None
    if isinstance(total, Mapping):
        total = total.get("value")
    total = total if isinstance(total, int) else whole_number(total)
    if not isinstance(hits, list) or total is None or total < 0:
        said = text(mapping(payload).get("message"))
        root = ": is it the root of a Zenodo API?"
        why = f", but says {said[:200]!r}; try later" if said else root
        raise ZmlError(f"{url} gives no search result{why}")
    if total > _MOST_RECORDS:
        raise ZmlError(
            f"{url} says that it has {total:.0e} records, which is impossible: is it a Zenodo?"
        )
    return hits, total


def updated_hits(
    client: HttpClient, options: HarvestOptions, since: str
) -> tuple[int, Iterator[Any]]:
    """Ask for the records that were created or edited since an ISO 8601 instant.

    Returns how many there are, and the hits, as far as the search shows them. Raises `NetworkError`
    or `ZmlError` if the server cannot be reached.
    """
    query = f'updated:["{since}" TO "{_OPEN[1]}"]'
    if options.query.strip():
        query = f"({options.query}) AND {query}"
    edited = replace(options, query=query)
    first, size = _in_granted_size(
        TOKEN_SIZES if client.has_token else GUEST_SIZES,
        lambda size: search_page(client, edited, (None, None), page=1, size=size),
    )

    def pages() -> Iterator[Any]:
        yield from first.hits
        for number in range(2, -(-min(first.total, WINDOW) // size) + 1):
            yield from search_page(client, edited, (None, None), page=number, size=size).hits

    return first.total, pages()


def _clock(headers: Mapping[str, str]) -> datetime:
    try:
        return datetime.fromtimestamp(http_date(headers.get("Date")) or time.time(), UTC)
    except (ValueError, OverflowError, OSError):  # in the year 99999
        return datetime.now(UTC)


def listed_hits(
    record_ids: Iterable[int], client: HttpClient, api_url: str
) -> Iterator[tuple[list[int], dict[int, Mapping[str, Any]]]]:
    """Ask the search for records by number, as many at once as it lists on a page.

    Yields the numbers that were asked for together, and the hits of those that the search lists:
    neither withdrawn, nor hidden, nor unknown. Raises `NetworkError` if the server cannot be
    reached.
    """
    root = f"{api_url.rstrip('/')}/records"
    sizes: Sequence[int] = TOKEN_SIZES if client.has_token else GUEST_SIZES
    ids = iter(record_ids)
    while batch := list(islice(ids, sizes[0])):

        def ask(size: int, batch: Sequence[int] = batch) -> dict[int, Mapping[str, Any]]:
            found: dict[int, Mapping[str, Any]] = {}
            for at in range(0, len(batch), size):
                found |= _page(root, batch[at : at + size], client, size)
            return found

        hits, granted = _in_granted_size(sizes, ask)
        sizes = [size for size in sizes if size <= granted]
        yield batch, hits


def _in_granted_size(sizes: Sequence[int], ask: Callable[[int], T]) -> tuple[T, int]:
    """Ask with the first page size that the server grants; return the answer and that size."""
    for size in sizes:
        try:
            return ask(size), size
        except NetworkError as error:
            if error.kind != "bad_request" or size == sizes[-1]:
                raise
    raise AssertionError("the last size returns or raises")


def _by_number(record_id: int) -> str:
    name = record_name(record_id)
    # The field that Zenodo translates; other servers know their own.
    return f"recid:{name}" if name == str(record_id) else f'id:"{name}"'


def _page(
    root: str, record_ids: Sequence[int], client: HttpClient, size: int
) -> dict[int, Mapping[str, Any]]:
    parameters = {
        "q": " OR ".join(map(_by_number, record_ids)),
        # Superseded versions are there, too.
        "all_versions": "true",
        "page": "1",
        "size": str(size),
    }
    hits, _ = hits_of(client.get_json(root, parameters).payload, root)
    found = {}
    for hit in hits:
        try:
            number = record_id_of(hit)
        except RecordParseError:
            # A hit without an id was not asked for.
            continue
        if number in record_ids:
            found[number] = hit
    return found


def find_withdrawn(
    record_ids: Iterable[int],
    client: HttpClient,
    api_url: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, NetworkError]]:
    """Yield the records that are withdrawn or unknown, each with the server's answer.

    The answer is of the kind "gone" if the record has a tombstone, "not_found" if it is unknown.
    The search is asked for as many ids at once as it lists on a page; only those that it does not
    list are asked for one by one. `progress` is called with the number of ids that have been looked
    up. Raises `NetworkError` if the server cannot be reached.
    """
    root = f"{api_url.rstrip('/')}/records"
    done = 0
    for batch, hits in listed_hits(record_ids, client, api_url):
        for record_id in batch:
            if record_id in hits:
                continue
            try:
                client.get_json(f"{root}/{record_name(record_id)}")
            except NetworkError as error:
                if error.kind in {"gone", "not_found"}:
                    yield record_id, error
                elif error.kind not in {"forbidden", "server_error"}:
                    raise
                # Hidden, or a transient error: neither means that it is gone.
        done += len(batch)
        if progress is not None:
            progress(done)
