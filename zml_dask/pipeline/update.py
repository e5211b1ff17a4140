"""The update: what is new since a dataset's last harvest, and what has been withdrawn since."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zml_dask.engine.job import OpenExecutor
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.progress import BuildProgress, Counts, SilentProgress
from zml_dask.errors import UsageError
from zml_dask.net.client import HttpClient
from zml_dask.pipeline.build import build_on
from zml_dask.pipeline.ledger import load_ledger
from zml_dask.pipeline.options import BuildOptions, recorded_options
from zml_dask.pipeline.options import options_from as build_options_from
from zml_dask.pipeline.outcome import BuildResult
from zml_dask.pipeline.sources import TEMPORARY, check_target
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestProgress, harvest
from zml_dask.records.journal import HarvestOptions, HarvestState, options_from, save_state
from zml_dask.records.parse import canonical_json
from zml_dask.records.search import find_withdrawn, listed_hits
from zml_dask.store.info import DatasetInfo
from zml_dask.store.storage import Storage
from zml_dask.store.tables import read_table
from zml_dask.store.withdrawal import withdraw


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update came to.

    Attributes
    ----------
    build : BuildResult or None
        None where the harvest found nothing at all.
    new : int
        Records that were tried: new ones, and those that had failed before.
    withdrawn : mapping of int to str
        Records of the dataset that their owners have withdrawn, and the server's
        words; those that were dropped before are not among them.
    dropped : bool
        Whether they were dropped now.
    """

    build: BuildResult | None
    new: int
    withdrawn: Mapping[int, str]
    dropped: bool


def update(
    dataset: str | Storage,
    open_executor: OpenExecutor,
    http: HttpClient,
    *,
    options: BuildOptions | None = None,
    check_withdrawn: bool = True,
    drop_withdrawn: bool = False,
    progress: BuildProgress | None = None,
) -> UpdateResult:
    """Harvest what is new since the dataset's last harvest and build it in.

    What failed before and may succeed now is asked for by number and tried again:
    the catalogue that named it may be gone, as an update's own is.

    Parameters
    ----------
    dataset : str or Storage
    open_executor : callable
        Opens what runs the build, if there is something to build.
    http : HttpClient
        For the harvest.
    options : BuildOptions, optional
        By default those that the dataset was built with. With `retry_failed`, also
        what failed permanently is asked for.
    check_withdrawn : bool
        Also ask for every record of the dataset whether it is still there: a
        request for each 25.
    drop_withdrawn : bool
        Drop those that are not, without rewriting the store.
    progress : BuildProgress, optional

    Returns
    -------
    UpdateResult

    Raises
    ------
    UsageError
        If the dataset was not built from a harvest.
    """
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    info = check_target(storage)
    asked = harvest_of(info, storage.url)
    options = options or build_options_from(options_of_dataset(info))
    if options.api_url is not None:
        asked = replace(asked, options=replace(asked.options, api_url=options.api_url))
    ledger = load_ledger(storage, info)
    failed = set(ledger.failed.tolist())
    if not options.retry_failed:
        failed -= set(ledger.failed_permanently.tolist())
    result = None
    with _new_records(asked, failed, http, progress) as catalogue:
        new = len(catalogue.refs)
        if new:
            result = build_on(catalogue, storage, open_executor, options=options, progress=progress)
    withdrawn: dict[int, str] = {}
    if check_withdrawn:
        withdrawn = withdrawn_of(storage, asked.options, http, progress)
        if withdrawn and drop_withdrawn:
            with dataset_lock(storage, on_wait=progress.say):
                withdraw(storage, withdrawn, "withdrawn from Zenodo by its owners")
    return UpdateResult(
        result,
        result.n_staged + result.n_failed if result is not None else 0,
        withdrawn,
        drop_withdrawn and bool(withdrawn),
    )


def harvest_of(info: DatasetInfo | None, url: str) -> HarvestState:
    """Return the harvest that a dataset was built from, as finished, to go on from.

    Raises
    ------
    UsageError
        If there is none.
    """
    if info is None or info.harvest is None or not info.harvest.get("complete_until"):
        raise UsageError(
            f"{url} was not built from a finished harvest, so there is nothing to go on from; "
            "use 'zml-dask harvest' and 'zml-dask build'"
        )
    return HarvestState(
        options=replace(options_from(info.harvest), limit=None),
        complete_until=str(info.harvest["complete_until"]),
        finished=True,
    )


def options_of_dataset(info: DatasetInfo | None) -> dict[str, Any]:
    """Return the options that a dataset was built with, shaped like the TOML file.

    Where records were harvested is not among them: that is the harvest's to say.
    """
    known = recorded_options(info.options if info else {})
    known.pop("api_url", None)
    return known


@contextmanager
def _new_records(
    asked: HarvestState, failed: set[int], http: HttpClient, progress: BuildProgress
) -> Iterator[Catalogue]:
    """Harvest into a catalogue of its own what was created since, and add what failed before."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        path = Path(folder) / "catalogue.jsonl"
        path.touch()
        save_state(path, asked)
        found = harvest(path, asked.options, http, progress=_telling(progress))
        progress.say(f"{found.written:,} records since {asked.complete_until}")
        catalogue = Catalogue.open(path)
        missing = sorted(failed - set(catalogue.refs.record_ids.tolist()))
        if missing and (again := _append_failed(path, missing, asked.options.api_url, http)):
            progress.say(f"{again:,} records that failed before are tried again")
            catalogue = Catalogue.open(path)
        yield catalogue


def _append_failed(path: Path, record_ids: list[int], api_url: str, http: HttpClient) -> int:
    """Add records by their numbers to a catalogue; how many of them are still there."""
    count = 0
    with path.open("a", encoding="ascii") as stream:
        for _, hits in listed_hits(record_ids, http, api_url):
            count += len(hits)
            stream.writelines(f"{canonical_json(hits[number])}\n" for number in sorted(hits))
    return count


def _telling(progress: BuildProgress) -> Callable[[HarvestProgress], None]:
    return lambda at: progress.update("harvest", Counts(at.found, at.total))


def withdrawn_of(
    storage: Storage, asked: HarvestOptions, http: HttpClient, progress: BuildProgress
) -> dict[int, str]:
    """Ask for every record of a dataset whether it is still there.

    Parameters
    ----------
    storage : Storage
    asked : HarvestOptions
        Of which the API's address matters.
    http : HttpClient
    progress : BuildProgress

    Returns
    -------
    dict of int to str
        Withdrawn records (the server answers 410), and the server's words.
    """
    info = check_target(storage)
    if info is None:
        return {}
    ids, dropped = (
        set(read_table(storage, info, table, ["record_id"])["record_id"].to_pylist())
        for table in ("records", "withdrawn")
    )
    left = sorted(ids - dropped)
    found = find_withdrawn(
        left,
        http,
        asked.api_url,
        progress=lambda done: progress.update("withdrawn", Counts(done, len(left))),
    )
    return {one.record_id: one.message for one in found if one.kind == "gone"}
