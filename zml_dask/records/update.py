"""What an update of a dataset asks Zenodo: which records are new, and which are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from zml_dask.errors import UsageError
from zml_dask.net.errors import (
    BadQueryError,
    BadRequestError,
    ForbiddenError,
    GoneError,
    NotFoundError,
)
from zml_dask.net.http import HttpClient
from zml_dask.records.harvest import HarvestProgress, HarvestResult, harvest
from zml_dask.records.parse import RecordParseError, record_id_of
from zml_dask.records.state import HarvestState, load_state, options_from, save_state
from zml_dask.records.zenodo import GUEST_SIZES, TOKEN_SIZES, hits_of


class NeverFinishedError(UsageError):
    """An update has no instant to begin at: the harvest before it never came to its end."""


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


def harvest_since(
    catalogue_path: str | Path,
    noted: Mapping[str, Any],
    client: HttpClient,
    *,
    api_url: str | None = None,
    progress: Callable[[HarvestProgress], None] | None = None,
) -> HarvestResult:
    """Harvest what is new or newly versioned since an earlier harvest.

    It looks back a day further, since a record may enter the search late; the
    caller knows which records it has.

    Parameters
    ----------
    catalogue_path : path
        The earlier harvest's own catalogue, which is added to, or a new file,
        which gets the new records alone. Interrupted, the same call goes on.
    noted : mapping
        The earlier harvest: the fields of its `HarvestOptions`, and its
        ``complete_until``.
    client : HttpClient
    api_url : str, optional
        Where the service has moved to; default: as noted.
    progress : callable, optional
        Called after every page.

    Raises
    ------
    NeverFinishedError
        If the earlier harvest was not finished.
    """
    complete_until = noted.get("complete_until")
    if not isinstance(complete_until, str):
        raise NeverFinishedError(
            "the harvest of this dataset was not finished (--limit?), so nobody knows what is "
            "new: run 'zml-dask harvest' to its end and 'zml-dask build' with its catalogue"
        )
    # An update has no end, neither of days nor of records.
    options = replace(options_from(noted), limit=None, until=None)
    if api_url is not None:
        options = replace(options, api_url=api_url.rstrip("/"))
    path = Path(catalogue_path)
    state = load_state(path)
    if state is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = HarvestState(options=options, complete_until=complete_until, finished=True)
        save_state(path, state)
    elif replace(state.options, limit=None, until=None) == options:
        save_state(path, replace(state, options=options))
    return harvest(path, options, client, progress=progress)


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
    except ForbiddenError:
        # Hidden, but there.
        return
