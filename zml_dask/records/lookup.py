"""Records by their numbers, many in one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from zml_dask.net.errors import BadQueryError, BadRequestError
from zml_dask.net.http import HttpClient
from zml_dask.records.parse import RecordParseError, record_id_of
from zml_dask.records.zenodo import GUEST_SIZES, TOKEN_SIZES, hits_of


def listed_hits(
    record_ids: Iterable[int], client: HttpClient, api_url: str
) -> Iterator[tuple[list[int], dict[int, Mapping[str, Any]]]]:
    """Ask the search for records by number, as many at once as it lists on a page.

    Parameters
    ----------
    record_ids : iterable of int
    client : HttpClient
    api_url : str
        Root of the API.

    Yields
    ------
    list of int, dict of int to mapping
        Numbers that were asked for together, and the hits of those that the search
        lists: neither withdrawn, nor hidden, nor unknown.

    Raises
    ------
    NetworkError
        If the server cannot be had.
    """
    root = f"{api_url.rstrip('/')}/records"
    sizes: Sequence[int] = TOKEN_SIZES if client.has_token else GUEST_SIZES
    ids = iter(record_ids)
    while batch := list(islice(ids, sizes[0])):
        hits, granted = _listed(root, batch, client, sizes)
        sizes = [size for size in sizes if size <= granted]
        yield batch, hits


def _listed(
    root: str, batch: Sequence[int], client: HttpClient, sizes: Sequence[int]
) -> tuple[dict[int, Mapping[str, Any]], int]:
    """Hits that the search lists, in pages as large as the server grants; also their size."""
    for size in sizes:
        parts = [batch[at : at + size] for at in range(0, len(batch), size)]
        found: dict[int, Mapping[str, Any]] = {}
        try:
            for part in parts:
                found |= _page(root, part, client, size)
        except BadQueryError:
            raise
        except BadRequestError:
            if size == sizes[-1]:
                raise
        else:
            return found, size
    raise AssertionError("the last size returns or raises")


def _page(
    root: str, record_ids: Sequence[int], client: HttpClient, size: int
) -> dict[int, Mapping[str, Any]]:
    parameters = {
        "q": " OR ".join(f"recid:{record_id}" for record_id in record_ids),
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
            # What has no id was not asked for.
            continue
        if number in record_ids:
            found[number] = hit
    return found
