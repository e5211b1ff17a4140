"""The commands that answer a question about a dataset, as rows or as citations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pyarrow as pa

from zml_dask.cli.output import output_options, write_rows
from zml_dask.errors import UsageError
from zml_dask.query.citation import CitationFormat
from zml_dask.query.columns import SCHEMAS, Column, find_countable
from zml_dask.query.counting import nearest_values, wider_values
from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.query.selection import derived_tables, gather, join_derived, open_selected
from zml_dask.store.layout import derived_table
from zml_dask.text_safety import escape_text, number_of

_QUERY_COLUMNS = "record_id,path,language,license,n_lines,n_images"
_QUERY_EPILOG = " ".join(
    f"Columns of {name}: {', '.join(SCHEMAS[name].names)}." for name in ("files", "records")
)
_BATCH = 65_536
_DIRECTIONS = {"asc": "ASC", "desc": "DESC"}


@click.command("query", epilog=_QUERY_EPILOG)
@click.argument("dataset", type=click.Path())
@click.argument("where", required=False)
@click.option(
    "--columns",
    default=_QUERY_COLUMNS,
    show_default=True,
    help="Columns of files and records, by commas.",
)
@click.option("--order-by", default="", help="Columns to sort by, as in 'n_lines desc, path'.")
@output_options
def query_command(
    dataset: str,
    where: str | None,
    columns: str,
    order_by: str,
    limit: int | None,
    form: str | None,
    output: str | None,
) -> None:
    """Count and list the files of DATASET that match WHERE.

    WHERE is a SQL condition over the columns of files and records, like
    "language_group == 'Fortran' and 'MIT' in licenses"; without one, everything matches.
    For records, counts and anything else there is zml-dask sql.
    """
    opened = open_dataset(dataset)
    found = opened.select(where)
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if not names:
        raise UsageError("--columns names none; give for example --columns path,license")
    for name in names:
        find_countable(name, opened.snapshot.derived)
    counts = found.counted
    ordered = _order(opened, order_by)
    tables = _sorted(found, names, ordered, limit) if ordered else _listed(found, names, limit)
    shown = write_rows(tables, form, output, limit=limit, counts=counts)
    total = (
        f"{number_of(file=counts['files'])} with {number_of(image=counts['images'])} "
        f"in {number_of(record=counts['records'])}"
    )
    more = "" if shown.rows == counts["files"] else f"; {shown.rows:,} shown"
    shown.say(f"{total}{more}")
    advice = wider_values(found) if counts["files"] else nearest_values(found)
    if advice is not None:
        click.echo(escape_text(advice), err=True)


def _order(found_in: Dataset, order_by: str) -> list[tuple[Column, str]]:
    """Parse columns and directions to sort by."""
    found = []
    for item in order_by.split(","):
        words = item.split()
        if not words:
            continue
        direction = _DIRECTIONS.get(words[1].lower()) if len(words) == 2 else "ASC"
        if len(words) > 2 or direction is None:
            raise UsageError(
                f"--order-by {item.strip()!r}: give a column, and asc or desc after it"
            )
        column = find_countable(words[0], found_in.snapshot.derived)
        found.append((column, direction))
    return found


def _listed(found: Dataset, names: list[str], limit: int | None) -> Iterator[pa.Table]:
    """Yield the files in the dataset's order, some at a time."""
    total = len(found.selection.files)
    total = total if limit is None else min(limit, total)
    for start in range(0, max(total, 1), _BATCH):
        stop = min(start + _BATCH, total)
        yield gather(found.snapshot, found.selection, names, slice(start, stop))


def _sorted(
    found: Dataset, names: list[str], order: list[tuple[Column, str]], limit: int | None
) -> Iterator[pa.Table]:
    """Yield the files in the requested order."""
    wanted = [find_countable(name, found.snapshot.derived) for name in names]
    keys = [f"{column.key} {direction} NULLS LAST" for column, direction in order]
    derived = derived_tables([*wanted, *(column for column, _ in order)])
    selected = ", ".join(
        f'{column.key} AS "{name}"' for column, name in zip(wanted, names, strict=True)
    )
    query = (
        f"SELECT {selected} FROM selected AS files JOIN all_records AS records "  # noqa: S608
        f"USING (record_id){join_derived(found.snapshot, derived)} "
        f"ORDER BY {', '.join(keys)}, files.file_id" + ("" if limit is None else f" LIMIT {limit}")
    )
    columns = {"file_id", "record_id", *(c.name for c in wanted if c.level == "files")}
    columns |= {column.name for column, _ in order if column.level == "files"}
    with open_selected(found, columns, ("records", *map(derived_table, derived))) as database:
        for batch in database.batches(query):
            yield pa.Table.from_batches([batch])


@click.command("sql")
@click.argument("dataset", type=click.Path())
@click.argument("query")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Give up after this many seconds."
)
@output_options
def sql_command(
    dataset: str,
    query: str,
    timeout: float | None,
    limit: int | None,
    form: str | None,
    output: str | None,
) -> None:
    """Answer QUERY, a SELECT over the tables of DATASET.

    The tables are files, records and failures: "select language, count(*) from files
    group by all". QUERY can do nothing but read them.
    """
    opened = open_dataset(dataset)
    batches = opened.ask(query, timeout=timeout)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    shown = write_rows(tables, form, output, limit=limit)
    shown.say(number_of(row=shown.rows) + (" shown, there are more" if shown.cut else ""))


@click.command("similar")
@click.argument("dataset", type=click.Path())
@click.argument("what")
@click.option(
    "--by",
    type=click.Choice(["content", "tree"]),
    default="content",
    show_default=True,
    help="Compare records by the words of their files, or by the names of these.",
)
@click.option("--where", metavar="SQL", help="Find only files that fulfil a condition.")
@output_options
def similar_command(
    dataset: str,
    what: str,
    by: str,
    where: str | None,
    output: str | None,
    form: str | None,
    limit: int | None,
) -> None:
    """List what is most similar to WHAT in DATASET, the most similar first.

    WHAT is the number or DOI of a record, which finds records; or a file on this machine, '-' for
    standard input, or the path of a file in DATASET, which find files. The tables
    'record_embedding' and 'embedding' have to be derived: zml-dask derive DATASET
    record_embedding.
    """
    view = open_dataset(dataset).select(where)
    given: dict[str, Any] = {"k": 10 if limit is None else max(1, limit), "by": by}
    # A DOI has a slash behind its digits: 10.1-basics.py is a file.
    if re.match(r"\d+$|(doi:)?10\.\d{4,9}/|https?://", what):
        given["record"] = what
    elif what == "-" or Path(what).is_file():
        try:
            with click.open_file(what, encoding="utf-8", errors="replace") as stream:
                given["text"] = stream.read()
        except OSError as error:
            raise UsageError(f"{what} cannot be read: {error.strerror}") from error
    else:
        given["file"] = what
    found = view.similar(**given)
    found["similarity"] = found["similarity"].astype(float).round(4)
    write_rows(iter([pa.Table.from_pandas(found, preserve_index=False)]), form, output, limit=limit)


@click.command("cite")
@click.argument("dataset", type=click.Path())
@click.option("--where", metavar="SQL", help="Cite the records with files that fulfil a condition.")
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
def cite_command(
    dataset: str, where: str | None, records: bool, form: CitationFormat, output: Path | None
) -> None:
    """Print how to cite DATASET, and with --where or --records the records in it."""
    view = open_dataset(dataset).select(where)
    text = view.cite(form, records=records or where is not None)
    if not view.counted["files"] and (advice := nearest_values(view)) is not None:
        click.echo(f"no record is cited: {escape_text(advice)}", err=True)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{output}: written")
