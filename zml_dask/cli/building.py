"""The commands that fill a dataset: from a catalogue or a cache, by updates, from 2018's data."""

from __future__ import annotations

import socket
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from dask.utils import format_bytes

from zml_dask.cli.options import (
    API_URL,
    MAX_ARCHIVE_SIZE,
    RETRY_FAILED,
    SCRATCH,
    TOKEN_FILE,
    build_options,
    cluster_options,
    executor_of,
    limits_of,
    options_of,
    print_result,
    progress_of,
    warn_of_exposed,
)
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.job import run_job
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import NetworkError, ZmlError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.net.client import HttpClient, Token
from zml_dask.net.throttle import host_of, is_loopback
from zml_dask.pipeline.build import build_on
from zml_dask.pipeline.fetching import FetchArchives
from zml_dask.pipeline.importing import import_legacy
from zml_dask.pipeline.inputs import check_target
from zml_dask.pipeline.update import UpdateResult, harvest_of, options_of_dataset, update
from zml_dask.records.catalogue import Catalogue
from zml_dask.store.layout import DEFAULT_LEVEL, LEVELS
from zml_dask.store.storage import Storage
from zml_dask.text_safety import as_argument, escape_text, number_of, redact_url

_LOOPBACK_TIMEOUT: Final = 3.0
"""Seconds in which a server on this machine has to accept a connection."""
_MOST_LINES: Final = 20
"""Lines that an update prints of one kind of change."""
_DOWNLOADS = 4
"""Archives that are fetched at once: the server's limits, not the connections, set the pace."""

_LIMIT = click.option(
    "--limit", type=click.IntRange(1), help="Only the catalogue's first N records."
)


@click.command("build")
@click.argument("catalogue", type=click.Path())
@click.argument("dataset", type=click.Path())
@cluster_options
@build_options
@_LIMIT
@click.option(
    "--level",
    type=click.IntRange(LEVELS[0], LEVELS[-1]),
    help=f"Compression of a new dataset: 1 is fast, 9 small.  [default: {DEFAULT_LEVEL}]",
)
@click.option("--where", metavar="SQL", help="Only records that match this condition.")
@click.pass_context
def build_command(
    ctx: click.Context,
    /,
    catalogue: str,
    dataset: str,
    limit: int | None,
    where: str | None,
    **values: Any,
) -> None:
    """Build the records of CATALOGUE into DATASET.

    CATALOGUE is what 'zml-dask harvest' wrote, a part or a copy of that, other JSON
    of records, or a records.pkl of 2018. DATASET
    is a folder or a URL such as s3://bucket/name. If interrupted, run the same
    command again to continue; nothing is downloaded twice.
    """
    options = options_of(values)
    with progress_of(ctx) as progress:
        result = build_on(
            catalogue,
            dataset,
            executor_of(values, progress, dataset),
            options=options,
            limit=limit,
            where=where,
            progress=progress,
        )
    print_result(result)


@click.command("update")
@click.argument("dataset", type=click.Path())
@cluster_options
@build_options
@click.option("--drop-withdrawn", is_flag=True, help="Drop records that Zenodo has withdrawn.")
@click.option(
    "--check-withdrawn/--no-check-withdrawn",
    default=True,
    help="Look for such records, and for files that were replaced.",
)
@click.pass_context
def update_command(
    ctx: click.Context, /, dataset: str, drop_withdrawn: bool, check_withdrawn: bool, **values: Any
) -> None:
    """Harvest new records and new versions since DATASET was built, and append them.

    Asks for the same records as the harvest it was built from, and builds them
    with the same options. What failed before and may pass now is tried again.
    """
    storage = Storage.open(dataset)
    info = check_target(storage)
    asked = harvest_of(info, storage.url)
    options = options_of(values, options_of_dataset(info))
    api_url = options.api_url or asked.options.api_url
    _check_sandbox(api_url, storage.url)
    token = Token.load(options.token_file, api_url)
    with progress_of(ctx) as progress, HttpClient(token=token, on_retry=progress.say) as http:
        result = update(
            storage,
            executor_of(values, progress, dataset),
            http,
            options=options,
            check_withdrawn=check_withdrawn or drop_withdrawn,
            drop_withdrawn=drop_withdrawn,
            progress=progress,
        )
    _print_update(result, storage.url)


def _check_sandbox(api_url: str, dataset: str) -> None:
    """Raise `NetworkError` at once where the server of a demo no longer runs."""
    parts = urlsplit(api_url)
    if not is_loopback(host_of(api_url)):
        return
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or 80), _LOOPBACK_TIMEOUT
        ).close()
    except OSError:
        raise NetworkError(
            "connection",
            f"{dataset} was built from a server on this machine, {redact_url(api_url)}, which no "
            "longer runs: the sandbox of a demo ends with it; 'zml-dask sandbox' starts one to "
            "harvest, build and update from",
        ) from None


def _print_update(result: UpdateResult, url: str) -> None:
    if result.build is None or not result.new:
        bound = f": it was harvested --until {result.until}" if result.until else ""
        click.echo(f"nothing new for {url}{bound}")
    else:
        print_result(result.build)
    word = "dropped" if result.dropped else "withdrawn"
    for kind, changes, then in (
        ("new version", result.new_versions, "; the dataset keeps both"),
        (word, result.withdrawn, ""),
        ("republished", result.republished, "; the dataset keeps what it has"),
    ):
        for record_id, change in islice(changes.items(), _MOST_LINES):
            what = escape_text(change) if isinstance(change, str) else f"of record {change}"
            click.echo(f"{kind}: record {record_id}: {what}{then}")
        if len(changes) > _MOST_LINES:
            click.echo(f"{kind}: {len(changes) - _MOST_LINES:,} more; build.log.jsonl names all")
    if result.withdrawn and not result.dropped:
        click.echo(f"to drop them: zml-dask update {as_argument(url)} --drop-withdrawn")


@click.command("import-legacy")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path())
@cluster_options
@RETRY_FAILED
@SCRATCH
@click.pass_context
def import_legacy_command(
    ctx: click.Context,
    /,
    source: Path,
    dataset: str,
    retry_failed: bool,
    scratch: Path | None,
    **values: Any,
) -> None:
    """Import the 2018 dataset SOURCE into DATASET.

    SOURCE is a folder of records (<id>/images_<id>.pkl, images_<id>.h5,
    metadata_<id>.pkl) or a squashfs image of one, which is read without mounting
    it. Pickles are read without being run. If interrupted, run the same command
    again to continue.
    """
    with progress_of(ctx) as progress:
        result = import_legacy(
            source,
            dataset,
            executor_of(values, progress, dataset),
            retry_failed=retry_failed,
            scratch=scratch,
            progress=progress,
        )
    passed_over = f", {result.already:,} were done before" if result.already else ""
    click.echo(
        f"{escape_text(dataset)}: {result.imported:,} of "
        f"{number_of(record=result.found, image=result.images)}{passed_over}"
    )
    if result.failed:
        click.echo(
            f"failed: {number_of(record=result.failed)} "
            f"(zml-dask status {as_argument(dataset)} --failures says more)"
        )


@click.command("fetch")
@click.argument("catalogue", type=click.Path())
@click.argument("cache", type=click.Path())
@_LIMIT
@MAX_ARCHIVE_SIZE
@API_URL
@click.option("--github-url", metavar="URL", default="https://github.com", show_default=True)
@TOKEN_FILE
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Local folder for downloads under way; keep it to resume within a file.",
)
@click.pass_context
def fetch_command(
    ctx: click.Context,
    catalogue: str,
    cache: str,
    limit: int | None,
    max_archive_size: str | None,
    api_url: str | None,
    github_url: str,
    token_file: Path | None,
    scratch: Path | None,
) -> None:
    """Fetch the archives of CATALOGUE's records into CACHE, a folder or a URL.

    For clusters whose compute nodes have no network: run this on a login or
    transfer node, then 'zml-dask build CATALOGUE DATASET --cache CACHE --offline'.
    If interrupted, run the same command again to continue.
    """
    with progress_of(ctx) as progress, temporary_folder("fetch") as temporary:
        opened = Catalogue.open(catalogue, api_url=api_url, into=temporary / "catalogue.jsonl")
        options = FetchOptions(
            limits=limits_of(max_archive_size), github_url=github_url, trusted=opened.trusted
        )
        token = Token.load(token_file, opened.token_url)
        warn_of_exposed(token_file)
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        with HttpClient(token=token, on_retry=progress.say) as client:
            job = FetchArchives(
                replace(opened, refs=opened.refs[:limit]),
                cache,
                client,
                scratch or temporary,
                options,
            )
            result = run_job(job, ThreadsExecutor(_DOWNLOADS), progress=progress)
    click.echo(
        f"{cache}: {number_of(record=result.fetched)} fetched ({format_bytes(result.bytes)}), "
        f"{result.already:,} there before"
    )
    if result.failures:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.failures.items())
        click.echo(f"failed: {kinds}; what may pass is tried again by the same command")
        if not result.fetched and not result.already:
            raise ZmlError(f"{cache} holds no record: all that were tried failed")
