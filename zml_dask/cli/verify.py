"""``zml-dask verify``: check that nothing was lost, and repair damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from zml_dask.cli.options import fetch_options, options_of, progress_of
from zml_dask.engine.lock import DatasetLock, dataset_lock
from zml_dask.legacy.verification import verify_exports
from zml_dask.net.client import HttpClient, Token
from zml_dask.pipeline.build_options import recorded_options
from zml_dask.pipeline.process import process
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.parse import ZENODO_API, parse_record
from zml_dask.records.record import Record
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.snapshot import Snapshot, among
from zml_dask.store.storage import Storage
from zml_dask.store.verify import Report, verify
from zml_dask.store.verify.repair import Restage, repair
from zml_dask.text_safety import escape_text

_SHOWN = 20


@click.command("verify")
@click.argument("dataset", type=click.Path())
@click.option(
    "--deep", is_flag=True, help="Check every image against its file's text, not a sample."
)
@click.option(
    "--source",
    type=click.IntRange(1),
    metavar="N",
    help="Fetch N records again and compare them with their archives.",
)
@click.option("--repair", "fix", is_flag=True, help="Repair damaged objects.")
@click.option("--catalogue", help="Where records are fetched from; by default as harvested.")
@fetch_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def verify_command(
    ctx: click.Context,
    /,
    dataset: str,
    deep: bool,
    source: int | None,
    fix: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Check every object of DATASET against its checksum, and its images against their text.

    Exits with 1 if something is wrong. --repair rebuilds damaged objects:
    metadata and indices from the tables, images by fetching their records.
    """
    storage = Storage.open(dataset)
    restage = _restage_from(storage, values)
    with progress_of(ctx) as progress:
        check = partial(
            verify, storage, deep=deep, source=source or 0, restage=restage, progress=progress
        )
        report = check()
        if fix:
            with dataset_lock(storage) as lock:
                report = _repair(storage, report, restage, check, lock)
    if report.ok:  # what is damaged itself proves nothing about its exports
        report.merge(verify_exports(storage, repair=fix))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        _show(report)
    return 0 if report.ok else 1


def _repair(
    storage: Storage,
    report: Report,
    restage: Restage,
    check: Callable[[], Report],
    lock: DatasetLock,
) -> Report:
    """Repair until nothing is wrong, or nothing more can be repaired."""
    done: list[str] = []
    left = report
    while not report.ok:
        lock.check()
        left = repair(storage, report, restage)
        report = check()
        if set(left.notes) <= set(done):
            break
        # Damage behind a damaged table is seen only once that is repaired.
        done += left.notes
    known = {problem.path for problem in report.problems}
    if not report.ok:
        report.problems += [problem for problem in left.problems if problem.path not in known]
    report.notes += done
    return report


def _show(report: Report) -> None:
    """Print a report as lines of text; names in it come from archives, and are escaped."""
    for problem in report.problems[:_SHOWN]:
        click.echo(escape_text(f"{problem.kind}: {problem.path}: {problem.message}"))
    if len(report.problems) > _SHOWN:
        click.echo(f"... and {len(report.problems) - _SHOWN} more (--json prints all)")
    for note in report.notes:
        click.echo(escape_text(f"note: {note}"))
    counts = ", ".join(f"{number:,} {what}" for what, number in report.checked.items())
    verdict = "ok" if report.ok else f"{len(report.problems)} problems"
    click.echo(f"{verdict}: {escape_text(report.url)} (checked {counts or 'nothing'})")


def _restage_from(dataset: Storage, values: dict[str, Any]) -> Restage:
    """Make a function that fetches records again, as the dataset was built."""

    def restage(record_ids: Sequence[int], target: Storage) -> None:
        info = read_info(dataset) or DatasetInfo()
        # Options that give the same rows as the dataset's; nothing is exported again.
        recorded = recorded_options(info.options) | {"export": []}
        options = replace(options_of(values, recorded), image=info.shape)
        api_url = options.api_url or str((info.harvest or {}).get("api_url") or ZENODO_API)
        token = Token.load(options.token_file, api_url)
        catalogue = values["catalogue"]
        with HttpClient(token=token) as client:
            for record in _records(dataset, info, record_ids, catalogue, api_url):
                process(record, target, options=options, client=client, catalogue=catalogue)

    return restage


def _records(
    dataset: Storage,
    info: DatasetInfo,
    record_ids: Sequence[int],
    catalogue: str | None,
    api_url: str,
) -> Sequence[Record]:
    """Find records in a catalogue, by default in the dataset's own metadata."""
    if catalogue is not None:
        opened = Catalogue.open(catalogue)
        refs = [opened.refs.find(record_id) for record_id in record_ids]
        return [opened.read(ref) for ref in refs if ref is not None]
    snapshot = Snapshot(dataset, info)
    found = snapshot.scan("records", ["metadata"], among(record_ids), with_withdrawn=True)
    hits = found["metadata"].to_pylist()
    return [parse_record(json.loads(hit), api_url=api_url) for hit in hits if hit]
