"""Zenodo's search, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from zml_dask.errors import ZmlError
from zml_dask.net.http import HttpClient
from zml_dask.records.slices import Slice
from zml_dask.records.state import HarvestOptions

WINDOW: Final = 10_000
"""Results of one search that can be paged through."""

_OPEN: Final = ("1970-01-01T00:00:00Z", "9999-12-31T00:00:00Z")

TOKEN_SIZES: Final = (100, 25, 10)
"""Hits a page to ask for with a token; the next where the server grants no more."""

GUEST_SIZES: Final = (25, 10)


class NotASearchError(ZmlError):
    """The server answers a search with something that is no search result."""


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of a search.

    Attributes
    ----------
    hits : tuple
        Whatever the server lists; each is checked when it is used.
    total : int
        Hits of the whole search.
    now : datetime
        The server's clock.
    """

    hits: tuple[Any, ...]
    total: int
    now: datetime


def search_query(query: str, created: Slice) -> str:
    """Write a query for the records that one slice of time holds.

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
    client: HttpClient, options: HarvestOptions, created: Slice, *, page: int, size: int
) -> SearchPage:
    """Ask for one page of the software records created in a slice, oldest first.

    Page numbers are the caller's to count: the server's links lead out of the
    window that it serves.

    Parameters
    ----------
    client : HttpClient
    options : HarvestOptions
    created : Slice
    page : int
        From 1 on.
    size : int
        Hits a page.

    Raises
    ------
    BadQueryError
        If the server cannot parse the query.
    BadRequestError
        If it does not grant the page.
    NotASearchError
        If the answer is not a search result.
    """
    url = f"{options.api_url.rstrip('/')}/records"
    parameters = {
        "type": "software",
        "sort": "oldest",
        "page": str(page),
        "size": str(size),
    }
    query = search_query(options.query, created)
    if query:
        parameters["q"] = query
    if options.all_versions:
        parameters["all_versions"] = "true"
    answer = client.get_json(url, parameters)
    hits, total = hits_of(answer.payload, url)
    return SearchPage(tuple(hits), total, _clock(answer.headers))


def hits_of(payload: Any, url: str) -> tuple[list[Any], int]:
    """Give the hits of a search's answer and their total.

    Raises
    ------
    NotASearchError
        If it is something else.
    """
    listed = payload.get("hits") if isinstance(payload, Mapping) else None
    hits = listed.get("hits") if isinstance(listed, Mapping) else None
    total = listed.get("total") if isinstance(listed, Mapping) else None
    if isinstance(total, Mapping):
        total = total.get("value")
    if not isinstance(hits, list) or not isinstance(total, int) or total < 0:
        raise NotASearchError(f"{url} gives no search result: is it the root of a Zenodo API?")
    return hits, total


def _clock(headers: Mapping[str, str]) -> datetime:
    told = {name.lower(): value for name, value in headers.items()}.get("date", "")
    try:
        return parsedate_to_datetime(told).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)
