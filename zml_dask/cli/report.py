"""``zml-dask report``: what is in a dataset, as a page and as numbers."""

from __future__ import annotations

from pathlib import Path

import click

from zml_dask.analysis.counts import UNNAMED, count
from zml_dask.analysis.report import render
from zml_dask.text_safety import escape_text, number_of

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command("report")
@click.argument("dataset", type=click.Path())
@click.option(
    "--output", type=_FILE, default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--json", "json_file", type=_FILE, help="Also write every number as JSON here.")
@click.option("--parquet", "parquet_file", type=_FILE, help="Also write every number as Parquet.")
@click.option(
    "--viewer",
    help="Address of the viewer's page, as seen from the report (viewer/index.html): names in "
    "the report become links to their images.",
)
def command(
    dataset: str,
    output: Path,
    json_file: Path | None,
    parquet_file: Path | None,
    viewer: str | None,
) -> None:
    """Write a page about DATASET: counts by language and extension, failures, a mosaic."""
    for wanted in (output, json_file, parquet_file):
        if wanted is not None and not wanted.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {escape_text(str(wanted.parent))!r}")
    numbers = count(dataset)
    output.write_text(render(dataset, numbers, viewer), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(numbers.to_json() + "\n", encoding="utf-8")
    if parquet_file is not None:
        numbers.write_parquet(parquet_file)
    totals = numbers.totals
    languages = set(numbers.tables["by_language"]["language"]) - {UNNAMED}
    click.echo(
        f"{escape_text(str(output))}: "
        + number_of(record=totals["records"], file=totals["files"], image=totals["images"])
        + f" of {number_of(language=len(languages))}"
    )
