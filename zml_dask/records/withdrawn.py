"""Which of many records are gone from Zenodo, in few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from zml_dask.net.errors import (
    BadQueryError,
    BadRequestError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    ServerError,
)
from zml_dask.net.http import HttpClient
from zml_dask.records.parse import RecordParseError, record_id_of
from zml_dask.records.zenodo import GUEST_SIZES, TOKEN_SIZES, hits_of


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A record that is no longer there.

    Attributes
    ----------
    record_id : int
    kind : str
        ``"gone"``: it has a tombstone; ``"not_found"``: nobody knows of it.
    message : str
        What the server says.
    """

    record_id: int
    kind: Literal["gone", "not_found"]
    message: str


def find_withdrawn(
    record_ids: Iterable[int],
    client: HttpClient,
    api_url: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Withdrawn]:
    """Find the records that are no longer there.

    The search is asked for as many ids at once as it lists on a page; only
    those that it does not list are asked for one by one.

    Parameters
    ----------
    record_ids : iterable of int
    client : HttpClient
    api_url : str
        Root of the API.
    progress : callable, optional
        Called with the number of ids that have been looked up.

    Raises
    ------
    NetworkError
        If the server cannot be had.
    """
    root = f"{api_url.rstrip('/')}/records"
    sizes: Sequence[int] = TOKEN_SIZES if client.has_token else GUEST_SIZES
    ids, done = iter(record_ids), 0
    while batch := list(islice(ids, sizes[0])):
        listed, granted = _listed(root, batch, client, sizes)
        sizes = [size for size in sizes if size <= granted]
        for record_id in batch:
            if record_id not in listed:
                yield from _looked_up(root, record_id, client)
        done += len(batch)
        if progress is not None:
            progress(done)


def _listed(
    root: str, batch: Sequence[int], client: HttpClient, sizes: Sequence[int]
) -> tuple[set[int], int]:
    """Ids that the search lists, in pages as large as the server grants; also their size."""
    for size in sizes:
        parts = [batch[at : at + size] for at in range(0, len(batch), size)]
        try:
            return set().union(*(_page(root, part, client, size) for part in parts)), size
        except BadQueryError:
            raise
        except BadRequestError:
            if size == sizes[-1]:
                raise
    raise AssertionError("the last size returns or raises")


def _page(root: str, record_ids: Sequence[int], client: HttpClient, size: int) -> set[int]:
    parameters = {
        "q": " OR ".join(f"recid:{record_id}" for record_id in record_ids),
        # Superseded versions are there, too.
        "all_versions": "true",
        "page": "1",
        "size": str(size),
    }
    hits, _ = hits_of(client.get_json(root, parameters).payload, root)
    found = set()
    for hit in hits:
        try:
            found.add(record_id_of(hit))
        except RecordParseError:
            # What has no id was not asked for.
            continue
    return found


def _looked_up(root: str, record_id: int, client: HttpClient) -> Iterator[Withdrawn]:
    try:
        client.get_json(f"{root}/{record_id}")
    except GoneError as error:
        yield Withdrawn(record_id, "gone", str(error))
    except NotFoundError as error:
        yield Withdrawn(record_id, "not_found", str(error))
    except (ForbiddenError, ServerError):
        # Hidden, or not to be told now: no reason to call it gone.
        return
