"""``zml-dask cite``: how to cite a dataset and its records."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from zml_dask.query.citation import CitationFormat
from zml_dask.query.dataset import open_dataset


@click.command("cite")
@click.argument("dataset", type=click.Path())
@click.option("--where", default="", help="Cite the records with files that fulfil this condition.")
@click.option("--records", is_flag=True, help="Cite every record, of the whole dataset too.")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(CitationFormat)),
    default="bibtex",
    show_default=True,
    help="BibTeX, or CSL JSON for reference managers.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def command(
    dataset: str, where: str, records: bool, form: CitationFormat, output: Path | None
) -> None:
    """Print how to cite DATASET, and with --where or --records the records in it."""
    opened = open_dataset(dataset)
    view = opened.select(where) if where.strip() else opened
    text = view.cite(form, records=records or bool(where.strip()))
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{output}: written")
