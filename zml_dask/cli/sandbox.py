"""``zml-dask sandbox``: serve a local Zenodo, for trying things out."""

from __future__ import annotations

import signal
import threading

import click

from zml_dask.sandbox.corpus import Corpus
from zml_dask.sandbox.distributions import installed_corpus
from zml_dask.sandbox.server import GUEST, Sandbox, SandboxLimits


@click.command("sandbox")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5055,
    show_default=True,
    help="0 for a free one.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most this many distributions.")
@click.option(
    "--rate",
    type=click.Choice(["none", "guest"]),
    default="none",
    show_default=True,
    help="Rate limits to enforce: none, or those Zenodo has for guests.",
)
@click.option(
    "--troubles/--no-troubles",
    default=True,
    show_default=True,
    help="Add eight records with typical problems.",
)
def sandbox_command(port: int, limit: int | None, rate: str, troubles: bool) -> None:
    """Serve a local Zenodo over the software installed here, until interrupted."""
    limits = GUEST if rate == "guest" else SandboxLimits()
    with Sandbox(Corpus(), port=port):
        pass  # a port that is taken is reported before the work of collecting records
    corpus = installed_corpus(limit, troubles=troubles)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with Sandbox(corpus, port=port, limits=limits) as sandbox:
        click.echo(f"{sandbox.api_url}  ({len(corpus)} records; stop it with Ctrl-C)")
        click.echo(f"Harvest it: zml-dask harvest catalogue.jsonl --api-url {sandbox.api_url}")
        try:
            stopped.wait()
        except KeyboardInterrupt:
            click.echo(f"Stopped after {sandbox.n_requests:,} requests.", err=True)
