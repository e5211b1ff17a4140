"""``zml-dask harvest``: write the catalogue of all software records, or go on doing so."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from zml_dask.cli.building import warn_of_exposed
from zml_dask.net.client import HttpClient
from zml_dask.net.options import Token
from zml_dask.net.throttle import LocalThrottle
from zml_dask.records.dump import NEWEST
from zml_dask.records.dump_harvest import DumpProgress
from zml_dask.records.harvest import HarvestOptions, HarvestProgress, HarvestResult, harvest
from zml_dask.records.journal import DEFAULT_EXCLUDE
from zml_dask.records.parse import ZENODO_API
from zml_dask.text_safety import escape_text


@click.command("harvest")
@click.argument("catalogue", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--query", default="", help="In Zenodo's query syntax. Default: all software.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="At most this many records in the catalogue."
)
@click.option("--since", metavar="DATE", help="Created on this day or later.")
@click.option("--until", metavar="DATE", help="Created on this day or before.")
@click.option(
    "--exclude",
    metavar="REGEX",
    default=DEFAULT_EXCLUDE,
    show_default=True,
    help="Leave out records whose title or a file's name it is found in; '' for none.",
)
@click.option(
    "--from-dump",
    metavar="[VERSION|FILE]",
    is_flag=False,
    flag_value=NEWEST,
    help="Begin with the server's metadata dump: the newest, a version, or a downloaded file.",
)
@click.option("--all-versions", is_flag=True, help="Include superseded versions.")
@click.option(
    "--api-url",
    metavar="URL",
    default=ZENODO_API,
    envvar="ZENODO_API_URL",
    show_default=True,
    show_envvar=True,
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="Holds an access token, which makes pages larger. Default: $ZENODO_TOKEN.",
)
@click.pass_context
def command(
    ctx: click.Context,
    catalogue: Path,
    query: str,
    limit: int | None,
    since: str | None,
    until: str | None,
    exclude: str,
    from_dump: str | None,
    all_versions: bool,
    api_url: str,
    token_file: Path | None,
) -> None:
    """Harvest the records of type software into CATALOGUE (JSON Lines).

    Interrupted, the same command goes on where it was. Finished, it looks for
    what is new since. For all of Zenodo, --from-dump is the faster way by far.
    """
    options = HarvestOptions(
        api_url=api_url.rstrip("/"),
        query=query,
        since=since,
        until=until,
        exclude=exclude,
        limit=limit,
        all_versions=all_versions,
    )
    token = Token.load(token_file, api_url)
    warn_of_exposed(token_file)
    throttle = LocalThrottle()
    with (
        _Bar(throttle, quiet=ctx.obj["quiet"]) as bar,
        HttpClient(throttle=throttle, token=token, on_retry=bar.say) as client,
    ):
        result = harvest(
            catalogue,
            options,
            client,
            from_dump=from_dump,
            progress=bar.show,
            dump_progress=bar.show_dump,
            say=bar.say,
        )
    click.echo(summary(result, catalogue))


def summary(result: HarvestResult, catalogue: Path) -> str:
    """One line about what a harvest did."""
    left_out = f", {result.excluded:,} left out by --exclude" if result.excluded else ""
    missing = (
        f"; {result.missing:,} that the server counts and did not give" if result.missing else ""
    )
    ended = "" if result.finished else "; --limit ended it"
    return (
        f"{result.written:,} new records, {result.records:,} in {catalogue}"
        f" ({result.found:,} of {result.total:,} hits seen{left_out}){missing}{ended}"
    )


class _Bar:
    """A progress bar on a terminal, a line now and then elsewhere."""

    _EVERY = 2_000
    _SECONDS = 10.0

    def __init__(self, throttle: LocalThrottle, *, quiet: bool) -> None:
        self._throttle = throttle
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("harvest", total=None, note="", count="")
        self._printed = 0
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Write a line, above the bar where there is one."""
        self._console.print(Text(escape_text(line)), soft_wrap=True)

    def show(self, at: HarvestProgress) -> None:
        """Show where the harvest is."""
        note = f"{at.written:,} new, {at.slices} slices left"
        if self._throttle.waited >= 1:
            note += f", waited {self._throttle.waited:.0f} s for the server's limit"
        count = f"{at.found:,}/{at.total:,}"
        self._show("harvest", at.found, at.total, count, note)
        if not self._console.is_terminal and at.found - self._printed >= self._EVERY:
            self._printed = at.found
            self._console.print(f"harvest: {at.found:,} of {at.total:,}, {note}", highlight=False)

    def show_dump(self, at: DumpProgress) -> None:
        """Show how much of a dump was downloaded or read."""
        count = f"{at.done / 1e6:,.0f}/{at.total / 1e6:,.0f} MB"
        note = f"{at.written:,} records"
        what = "dump" if at.what == "read" else at.what
        self._show(what, at.done, at.total, count, note)
        if not self._console.is_terminal and monotonic() - self._printed_at >= self._SECONDS:
            self._printed_at = monotonic()
            self._console.print(f"{what}: {count}, {note}", highlight=False)

    def _show(self, what: str, done: int, total: int, count: str, note: str) -> None:
        self._bar.update(
            self._task, completed=done, total=total, note=note, count=count, description=what
        )
