"""``zml-dask fetch``: archives into a cache, for clusters whose nodes have no network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from dask.utils import format_bytes

from zml_dask.cli.building import (
    API_URL,
    MAX_ARCHIVE_SIZE,
    TOKEN_FILE,
    limits_of,
    progress_of,
    warn_of_exposed,
)
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.job import run_job
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import ZmlError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.net.client import HttpClient, Token
from zml_dask.pipeline.fetching import FetchArchives
from zml_dask.records.catalogue import Catalogue
from zml_dask.text_safety import number_of

_DOWNLOADS = 4
"""At once: the server's limits, not the connections, set the pace."""


@click.command("fetch")
@click.argument("catalogue", type=click.Path())
@click.argument("cache", type=click.Path())
@click.option("--limit", type=click.IntRange(1), help="Only the catalogue's first N records.")
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
def command(
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
    with (
        progress_of(ctx) as progress,
        temporary_folder("fetch") as temporary,
    ):
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
