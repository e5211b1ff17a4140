"""The commands of a catalogue: harvest it, and list its records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

import click
import pyarrow as pa
from dask.utils import format_bytes

from zml_dask.cli.options import TOKEN_FILE, progress_of, warn_of_exposed
from zml_dask.cli.output import write_rows
from zml_dask.engine.progress import ProgressCounts
from zml_dask.engine.temporary import temporary_folder
from zml_dask.net.client import HttpClient, Token
from zml_dask.net.throttle import LocalThrottle
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.dump import NEWEST
from zml_dask.records.dump_harvest import DumpProgress
from zml_dask.records.harvest import HarvestOptions, HarvestProgress, HarvestResult, harvest
from zml_dask.records.journal import DEFAULT_EXCLUDE
from zml_dask.records.parse import ZENODO_API
from zml_dask.records.table import row_of
from zml_dask.text_safety import escape_text, number_of

_COLUMNS: Final = ("record_id", "created", "license", "archive_bytes", "title")
_ROWS: Final = 20


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
@TOKEN_FILE
@click.pass_context
def harvest_command(
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

    If interrupted, run the same command again to continue; later, the same command
    adds what is new. For all of Zenodo, --from-dump is the faster way by far.
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
    with progress_of(ctx) as progress:

        def say(line: str) -> None:
            progress.say(escape_text(line))

        with HttpClient(throttle=throttle, token=token, on_retry=say) as client:
            result = harvest(
                catalogue,
                options,
                client,
                from_dump=from_dump,
                progress=lambda at: progress.update(
                    "harvest", _harvest_counts(at, throttle.waited)
                ),
                dump_progress=lambda at: progress.update(
                    "dump" if at.what == "read" else at.what, _dump_counts(at)
                ),
                say=say,
            )
    click.echo(summary(result, catalogue))


def summary(result: HarvestResult, catalogue: Path) -> str:
    """Return one line about what a harvest did."""
    left_out = f", {result.excluded:,} left out by --exclude" if result.excluded else ""
    missing = (
        f"; {result.missing:,} that the server counts and did not give" if result.missing else ""
    )
    ended = "" if result.finished else "; --limit ended it"
    # Those of a dump are not counted by the search that follows it.
    of_total = f" of {result.total:,}" if result.found <= result.total else ""
    seen = f"{result.found:,}{of_total}"
    return (
        f"{number_of(**{'new record': result.written})}, {result.records:,} in {catalogue}"
        f" ({seen} hits seen{left_out}){missing}{ended}"
    )


def _harvest_counts(at: HarvestProgress, waited: float) -> ProgressCounts:
    note = f"{at.written:,} new, {number_of(slice=at.slices)} left"
    if waited >= 1:
        note += f", waited {waited:.0f} s for the server's limit"
    return ProgressCounts(at.found, at.total, note=note)


def _dump_counts(at: DumpProgress) -> ProgressCounts:
    done, total = (round(size / 1e6) for size in (at.done, at.total))
    return ProgressCounts(done, total, note=f"in MB, {number_of(record=at.written)}")


@click.command("catalogue")
@click.argument("catalogue", type=click.Path())
@click.argument("where", required=False)
@click.option("--limit", type=click.IntRange(0), help="Rows to print; 20 in a table, else all.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What to print: a table, or one JSON record per line.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the records into a catalogue of their own: .jsonl or .parquet.",
)
def catalogue_command(
    catalogue: str, where: str | None, limit: int | None, form: str, output: Path | None
) -> None:
    """Count and list the records of CATALOGUE that match the SQL condition WHERE.

    WHERE is like "license = 'mit' and archive_bytes < 1e6", over the columns of a
    Parquet catalogue, which a catalogue of any other form is given, too. With
    --output they become a catalogue themselves: to build a part, or to turn JSON
    Lines into Parquet, which is opened in a fraction of the time.
    """
    with temporary_folder("catalogue") as folder:
        opened = Catalogue.open(catalogue, into=folder / "catalogue.jsonl")
        found = opened if where is None else opened.where(where)
        if output is not None:
            found.write(output)
        elif form == "json":
            for hit in islice(found.hits(), limit):
                click.echo(json.dumps(json.loads(hit), sort_keys=True, separators=(",", ":")))
        else:
            most = _ROWS if limit is None else limit
            write_rows(iter([_table(islice(found.hits(), most))]), "table", None, limit=most)
        size = format_bytes(int(found.refs.archive_bytes.sum()))
        counted = number_of(record=len(opened.refs))
        found_of = f"{len(found.refs):,} of {counted}" if where is not None else counted
        into = f", written to {output}" if output is not None else ""
        click.echo(
            f"{found_of} from {escape_text(found.api_url)}, archives of {size}{into}",
            err=form == "json",
        )


def _table(hits: Iterable[bytes]) -> pa.Table:
    rows = [{name: row[name] for name in _COLUMNS} for row in map(row_of, hits)]
    for row in rows:
        row["created"] = row["created"] and row["created"].date()
    return pa.Table.from_pylist(rows)
