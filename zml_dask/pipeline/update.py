"""The update: records that are new or withdrawn since a dataset's last harvest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zml_dask.engine.job import OpenExecutor
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.log import build_log
from zml_dask.engine.progress import BuildProgress, ProgressCounts, SilentProgress
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import UsageError
from zml_dask.fetch.origins import embargo_date, embargo_end
from zml_dask.net.client import HttpClient
from zml_dask.pipeline.build import build_on
from zml_dask.pipeline.build_options import BuildOptions, recorded_options
from zml_dask.pipeline.build_options import options_from as build_options_from
from zml_dask.pipeline.inputs import TEMPORARY, check_target
from zml_dask.pipeline.ledger import Ledger, load_ledger
from zml_dask.pipeline.outcome import BuildResult
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.dump import DumpError, deleted_records
from zml_dask.records.harvest import harvest
from zml_dask.records.journal import HarvestOptions, HarvestState, options_from, save_state
from zml_dask.records.parse import RecordParseError, harvested_json, parse_record
from zml_dask.records.record import Record
from zml_dask.records.search import WINDOW, find_withdrawn, listed_hits, updated_hits
from zml_dask.store.info import DatasetInfo
from zml_dask.store.snapshot import Snapshot, among
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw
from zml_dask.text_safety import number_of


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update did.

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
    republished : mapping of int to str
        Records of the dataset whose files have changed at the server, and how; the
        dataset keeps its own.
    new_versions : mapping of int to int
        Records that were built now, and the version of each that the dataset had before.
    until : str or None
        Bound of the harvest that the dataset was built from: nothing newer is asked for.
    """

    build: BuildResult | None
    new: int
    withdrawn: Mapping[int, str]
    dropped: bool
    republished: Mapping[int, str] = field(default_factory=dict)
    new_versions: Mapping[int, int] = field(default_factory=dict)
    until: str | None = None


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

    What failed before and may succeed now is asked for by number and tried again: the catalogue
    that named it may be gone, as an update's own is.

    `options` are by default those that the dataset was built with; with its `retry_failed`, also
    what failed permanently is asked for. With `check_withdrawn`, it is also asked which records of
    the dataset have been withdrawn, by the server's list of deleted records (one request) or, where
    it has none, by their numbers (a request for each 25), and whose files have changed since the
    last harvest. With `drop_withdrawn`, those that are withdrawn are dropped, without rewriting the
    store. `UsageError` if the dataset was not built from a harvest.
    """
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    info = check_target(storage)
    asked = harvest_of(info, storage.url)
    options = options or build_options_from(options_of_dataset(info))
    if options.api_url is not None:
        asked = replace(asked, options=replace(asked.options, api_url=options.api_url))
    if asked.options.until is not None:
        progress.say(
            f"the harvest of {storage.url} was limited by --until {asked.options.until}, so later "
            "records are left out; harvest without --until to get them"
        )
    ledger = load_ledger(storage, info)
    failed = set(ledger.failed.tolist())
    if not options.retry_failed:
        failed -= set(ledger.failed_permanently.tolist())
        failed -= _under_embargo(ledger, progress)
    snapshot = Snapshot.open(storage)
    before = after = _versions(snapshot)
    result = None
    with _new_records(asked, failed, storage.url, http, progress) as catalogue:
        new = len(catalogue.refs)
        if new:
            result = build_on(catalogue, storage, open_executor, options=options, progress=progress)
            snapshot = Snapshot.open(storage)
            after = _versions(snapshot)
    withdrawn: dict[int, str] = {}
    republished: dict[int, str] = {}
    if check_withdrawn:
        withdrawn = withdrawn_of(snapshot, asked.options, http, progress)
        republished = republished_of(snapshot, asked, http, progress)
    dropped = bool(withdrawn) and drop_withdrawn
    old = {concept: number for number, concept in before.items()}
    new_versions = {
        number: old[concept]
        for number, concept in after.items()
        if number not in before and concept in old
    }
    if withdrawn or republished or new_versions:
        with dataset_lock(storage, on_wait=progress.say) as lock, build_log(storage) as log:
            if dropped:
                lock.check()
                withdraw(storage, withdrawn, "withdrawn by its owners")
            log.write(
                "update",
                withdrawn=withdrawn,
                dropped=dropped,
                republished=republished,
                new_versions=new_versions,
            )
    return UpdateResult(
        result,
        result.n_staged + result.n_failed if result is not None else 0,
        withdrawn,
        dropped,
        republished,
        new_versions,
        asked.options.until,
    )


def _under_embargo(ledger: Ledger, progress: BuildProgress) -> set[int]:
    """Return the failed records whose embargo ends in the future."""
    today = datetime.now(UTC).date().isoformat()
    rows = ledger.failures.select(["record_id", "kind", "message"]).to_pylist()
    ends = {
        row["record_id"]: end
        for row in rows
        if row["kind"] == "embargoed" and (end := embargo_end(row["message"])) and end > today
    }
    if ends:
        progress.say(
            f"under an embargo: {number_of(record=len(ends))}, the first until "
            f"{min(ends.values())}; not asked for before that"
        )
    return set(ends)


def _versions(snapshot: Snapshot) -> dict[int, int]:
    """Map the records of a dataset, in the order of their ids, to their concepts."""
    names = ["record_id", "concept_id"]
    table = snapshot.scan("records", names, with_withdrawn=True).drop_null()
    ids, concepts = (table[name].to_pylist() for name in names)
    return dict(sorted(zip(ids, concepts, strict=True)))


def harvest_of(info: DatasetInfo | None, url: str) -> HarvestState:
    """Return the harvest that a dataset was built from, as finished, to go on from.

    Raises `UsageError` if there is none.
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
    asked: HarvestState, failed: set[int], url: str, http: HttpClient, progress: BuildProgress
) -> Iterator[Catalogue]:
    """Harvest new records into a catalogue of their own, and add those that failed before."""
    with temporary_folder(TEMPORARY) as folder:
        path = folder / "catalogue.jsonl"
        path.touch()
        save_state(path, asked)
        found = harvest(
            path,
            asked.options,
            http,
            progress=lambda at: progress.update("harvest", ProgressCounts(at.found, at.total)),
        )
        if asked.options.until is None:
            progress.say(f"{number_of(record=found.written)} since {asked.complete_until}")
        else:
            progress.say(
                f"no newer records: the harvest was limited by --until {asked.options.until}; "
                f"to get more, harvest without it and build into {url}"
            )
        catalogue = Catalogue.open(path)
        missing = sorted(failed - set(catalogue.refs.record_ids.tolist()))
        if missing and (
            again := _append_failed(path, missing, asked.options.api_url, http, progress)
        ):
            progress.say(f"tried again after a failure: {number_of(record=again)}")
            catalogue = Catalogue.open(path)
        yield catalogue


def _append_failed(
    path: Path, record_ids: list[int], api_url: str, http: HttpClient, progress: BuildProgress
) -> int:
    """Add records by their numbers to a catalogue; how many of them are to be tried again.

    One whose embargo was extended is among them: its failure then names the new date,
    before which no update asks for it.
    """
    count, embargoed, extended = 0, 0, list[str]()
    today = datetime.now(UTC).date().isoformat()
    with path.open("a", encoding="ascii") as stream:
        for _, hits in listed_hits(record_ids, http, api_url):
            for number in sorted(hits):
                record = parse_record(hits[number])
                if record.access == "embargoed":
                    end = embargo_date(record)
                    if end is None or end <= today:
                        embargoed += 1
                        continue
                    extended.append(end)
                count += 1
                stream.write(f"{harvested_json(hits[number])}\n")
    if embargoed:
        progress.say(f"still under an embargo: {number_of(record=embargoed)}")
    if extended:
        progress.say(
            f"embargo extended: {number_of(record=len(extended))}, the first until "
            f"{min(extended)}; not asked for before that"
        )
    return count


def withdrawn_of(
    snapshot: Snapshot, asked: HarvestOptions, http: HttpClient, progress: BuildProgress
) -> dict[int, str]:
    """Ask which records of a dataset have been withdrawn; return why, in the server's words."""
    ids = _shown_ids(snapshot)
    try:
        listed = deleted_records(http, asked.api_url, ids.__contains__)
    except DumpError as error:
        progress.say(f"{error}; asking record by record")
        listed = None
    if listed is not None:
        return {number: reason or "deleted" for number, reason in sorted(listed.items())}
    found = find_withdrawn(
        sorted(ids),
        http,
        asked.api_url,
        progress=lambda done: progress.update("withdrawn", ProgressCounts(done, len(ids))),
    )
    return {number: str(answer) for number, answer in found if answer.kind == "gone"}


def republished_of(
    snapshot: Snapshot, asked: HarvestState, http: HttpClient, progress: BuildProgress
) -> dict[int, str]:
    """Ask whose files have changed since the last harvest (their checksums say so), and how."""
    ids = _shown_ids(snapshot)
    if not ids or asked.complete_until is None:
        return {}
    total, hits = updated_hits(http, asked.options, asked.complete_until)
    if total > WINDOW:
        progress.say(
            f"{total:,} records were edited since {asked.complete_until}: more than the search "
            "shows, so republished files are not looked for"
        )
        return {}
    now: dict[int, Record] = {}
    for hit in hits:
        with suppress(RecordParseError):
            record = parse_record(hit)
            if record.record_id in ids:
                now[record.record_id] = record
    rows = snapshot.scan("records", ["record_id", "metadata"], among([*now]))
    changes = {
        row["record_id"]: _change(parse_record(json.loads(row["metadata"])), now[row["record_id"]])
        for row in rows.to_pylist()
    }
    return {number: change for number, change in sorted(changes.items()) if change}


def _change(old: Record, new: Record) -> str:
    """Say how a record's files have changed; nothing where they have not."""
    before, after = ({file.key: file.checksum for file in one.files} for one in (old, new))
    # A record that is restricted now lists no files; a file without a checksum may be anything.
    changed = [
        key
        for key in after
        if key in before and None not in (after[key], before[key]) and after[key] != before[key]
    ]
    added = [key for key in after if key not in before] if before else []
    words = [f"another checksum of {key}" for key in changed] + [
        f"{key} was added" for key in added
    ]
    return ", ".join(words)


def _shown_ids(snapshot: Snapshot) -> set[int]:
    """Return the ids of a dataset's records that were not dropped."""
    return set(snapshot.scan("records", ["record_id"])["record_id"].to_pylist())
