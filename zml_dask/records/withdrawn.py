"""Which of many records are gone from Zenodo, in few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from zml_dask.net.errors import ForbiddenError, GoneError, NotFoundError, ServerError
from zml_dask.net.http import HttpClient
from zml_dask.records.lookup import listed_hits


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
    done = 0
    for batch, hits in listed_hits(record_ids, client, api_url):
        for record_id in batch:
            if record_id not in hits:
                yield from _looked_up(root, record_id, client)
        done += len(batch)
        if progress is not None:
            progress(done)


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
