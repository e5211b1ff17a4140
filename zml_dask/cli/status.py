"""``zml-dask status``: the state of a dataset, its failures, and its size on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click
from dask.utils import format_bytes
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zml_dask.pipeline.status import Amount, Cost, FailureGroup, Status, read_status
from zml_dask.text_safety import escape_text, number_of


@click.command("status")
@click.argument("dataset", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--failures", is_flag=True, help="List what failed by kind, with examples and advice."
)
@click.option("--catalogue", help="Compare with this catalogue; by default the last one built.")
def command(dataset: str, as_json: bool, failures: bool, catalogue: str | None) -> None:
    """Show how far DATASET is, without changing it."""
    status = read_status(dataset, catalogue)
    if as_json:
        click.echo(json.dumps(asdict(status), indent=1))
    elif failures:
        _print_failures(status.failures)
    else:
        _print_status(status)


def _print_status(status: Status) -> None:
    click.echo(escape_text(status.dataset))
    commits = "1 commit" if status.commits == 1 else f"{status.commits:,} commits"
    click.echo(f"committed  {_amount(status.committed)}, in {commits}")
    if status.left_out.files:
        click.echo(f"too large  {status.left_out}")
    if status.without_images:
        click.echo(f"no images  {status.without_images:,} of the committed records")
    click.echo(f"staged     {_amount(status.staged)}")
    failed = ", ".join(f"{count:,} {kind}" for kind, count in status.failed.items())
    click.echo(f"failed     {escape_text(failed) or 'none'}")
    if status.to_do is None:
        click.echo("to do      unknown: name the catalogue with --catalogue")
    else:
        click.echo(f"to do      {status.to_do:,} of {escape_text(status.catalogue or '')}")
    if status.running is not None:
        click.echo(f"running    {escape_text(status.running)} is building")
    if status.arrays:
        _print_costs([*status.arrays, *status.tables])
    if status.failed:
        click.echo(
            f"what failed, and what to do: zml-dask status {escape_text(status.dataset)} --failures"
        )


def _amount(amount: Amount) -> str:
    return number_of(record=amount.records, file=amount.files, image=amount.images)


def _print_costs(costs: Iterable[Cost]) -> None:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("name")
    for name in ("rows", "stored", "size", "ratio", "chunks", "shards"):
        table.add_column(name, justify="right")
    table.add_column("codec")
    for cost in costs:
        table.add_row(
            Text(escape_text(cost.name)),
            f"{cost.rows:,}",
            format_bytes(cost.stored),
            format_bytes(cost.size),
            f"{cost.ratio:.1f}",
            f"{cost.chunks:,}",
            f"{cost.shards:,}",
            Text(escape_text(cost.codec)),
        )
    # Elsewhere than on a terminal a line is as long as it is.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def _print_failures(groups: Iterable[FailureGroup]) -> None:
    printed = False
    for group in groups:
        printed = True
        kept = f", {group.permanent:,} of them permanent" if group.permanent else ""
        kept = ", permanent" if group.permanent == group.records else kept
        click.echo(escape_text(f"{group.records:,} {group.kind}{kept}: {group.advice}"))
        for row in group.examples:
            tries = "once" if row.attempts == 1 else f"{row.attempts} times"
            line = f"record {row.record_id}, at {row.stage}, tried {tries}: {row.message}"
            click.echo(f"    {escape_text(line)}")
    if not printed:
        click.echo("nothing has failed")
