"""``zml-dask update``: harvest new records since the last harvest, and add them."""

from __future__ import annotations

import socket
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import click

from zml_dask.cli.building import (
    build_options,
    cluster_options,
    executor_of,
    options_of,
    print_result,
    progress_of,
)
from zml_dask.errors import NetworkError
from zml_dask.net.client import HttpClient, Token
from zml_dask.net.throttle import host_of, is_loopback
from zml_dask.pipeline.sources import check_target
from zml_dask.pipeline.update import UpdateResult, harvest_of, options_of_dataset, update
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text, redact_url

_LOOPBACK_TIMEOUT: Final = 3.0
_MOST_LINES: Final = 20
"""Of one kind of change."""


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
def command(
    ctx: click.Context,
    /,
    dataset: str,
    drop_withdrawn: bool,
    check_withdrawn: bool,
    **values: Any,
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
    with (
        progress_of(ctx) as progress,
        HttpClient(token=token, on_retry=progress.say) as http,
    ):
        result = update(
            storage,
            executor_of(values, progress, dataset),
            http,
            options=options,
            check_withdrawn=check_withdrawn or drop_withdrawn,
            drop_withdrawn=drop_withdrawn,
            progress=progress,
        )
    _print(result, storage.url)


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


def _print(result: UpdateResult, url: str) -> None:
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
        click.echo(f"to drop them: zml-dask update {url} --drop-withdrawn")
