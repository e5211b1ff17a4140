"""The report: one self-contained page about a dataset, safe whatever its files are called."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zml_dask.analysis.charts import Ranked, rank_plot
from zml_dask.analysis.counts import LONG_LINES, UNNAMED, Numbers
from zml_dask.analysis.mosaic import tiles
from zml_dask.errors import UsageError
from zml_dask.store.snapshot import Snapshot
from zml_dask.text_safety import escape_text

_SECTIONS = [
    ("languages", "Languages"),
    ("extensions", "Extensions"),
    ("records", "Records"),
    ("failures", "Failures"),
    ("mosaic", "Mosaic"),
]
_TOTALS = [
    ("records", "records"),
    ("files", "files"),
    ("images", "images"),
    ("lines", "lines"),
    ("bytes", "bytes of files"),
    ("failures", "failed records"),
]
_LONGEST = 120
_LARGEST = 10
_SHOWN = 25
_OF_YEARS = {"by_language": ("language", "images"), "by_extension": ("extension", "long_images")}
_NONE = "(none)"
"""How the viewer's address says that a value is missing."""


def render(dataset: str, numbers: Numbers, viewer: str | None = None) -> str:
    """Write the report as HTML.

    Parameters
    ----------
    dataset : str
        Path or URL; some of its images are read for the mosaic.
    numbers : Numbers
        Of this dataset.
    viewer : str, optional
        Where the viewer's page is, absolute or relative to the report: languages, licences,
        years and records become links to their images.

    Returns
    -------
    str
        A page that loads nothing from elsewhere.

    Raises
    ------
    UsageError
        If `viewer` is no address of a web page.
    """
    if viewer is not None and urlsplit(viewer).scheme not in ("", "http", "https"):
        raise UsageError(f"{viewer!r} is no address of the viewer; give one like viewer/index.html")
    snapshot = Snapshot.open(dataset)
    info = snapshot.info
    near = numbers.tables.get("near_duplicates")
    if near is not None:
        near = near.assign(percent=100.0 * near["superfluous"] / near["files"])
    extensions = numbers.tables["by_extension"]
    extensions = extensions[extensions["long_images"] > 0]

    def address(name: str, value: object) -> str | None:
        if viewer is None:
            return None
        chosen = _NONE if value == UNNAMED else str(value)
        return f"{viewer.partition('#')[0]}#{name}={quote(chosen, errors='replace')}"

    script = (files("zml_dask.analysis") / "templates" / "report.js").read_text("utf-8")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    def top(name: str, n: int) -> list[dict[str, Any]]:
        return _rows(numbers.tables[name].head(n))

    return (
        _environment()
        .get_template("report.html")
        .render(
            title=snapshot.storage.url.rstrip("/").rpartition("/")[2],
            height=info.shape.height,
            width=info.shape.width,
            software=info.software.get("zml-dask", info.software.get("zml_dask", "")),
            long_lines=LONG_LINES,
            sections=_SECTIONS,
            totals=numbers.totals,
            totals_shown=_TOTALS,
            top=top,
            address=address,
            script=Markup(script),  # noqa: S704 - our own
            script_hash=hashed,
            years={
                name: _by_year(numbers.years[name], key, measure, address)
                for name, (key, measure) in _OF_YEARS.items()
            },
            near_duplicates=None if near is None else _rows(near.head(_SHOWN)),
            licenses="license_agreement" in numbers.tables,
            more=lambda name, n: len(numbers.tables[name]) - n,
            ranked_extensions=len(extensions),
            table_rows=lambda name: _rows(numbers.tables[name]),
            largest=[_labelled(row) for row in top("by_record", _LARGEST)],
            plot=rank_plot(
                Ranked(
                    [visible(name) for name in extensions["extension"]],
                    extensions["long_images"].tolist(),
                    numbers.totals["slope"],
                    numbers.totals["intercept"],
                )
            ),
            tiles=tiles(
                snapshot,
                numbers.examples,
                numbers.tables["by_language"]["language"].head(_SHOWN).tolist(),
            ),
        )
    )


def _by_year(
    table: pd.DataFrame, key: str, measure: str, address: Callable[[str, object], str | None]
) -> dict[str, list[tuple[str, str, int]]]:
    """Arrange the most frequent values of each year: what is shown, where it leads, how many."""
    return {
        str(year): [
            (visible(value), address(key, value) or "", int(n))
            for value, n in zip(rows[key].head(_SHOWN), rows[measure].head(_SHOWN), strict=True)
        ]
        for year, rows in table.groupby("year")
    }


def visible(text: object) -> str:
    r"""Shorten a name and show what would be invisible or turn the text around.

    Examples
    --------
    >>> visible("a\u202egpj.exe"), visible("")
    ('a\\u202egpj.exe', '(empty)')
    """
    name = "" if text is None else str(text)
    shown = escape_text(name)
    return (shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…") or "(empty)"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _labelled(row: Mapping[str, Any]) -> dict[str, Any]:
    title = row["title"] if isinstance(row["title"], str) else ""
    return {**row, "label": f"{row['record_id']} {title}", "percent": 100.0 * row["share"]}


def _number(value: object) -> str:
    return (
        f"{value:,.2f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else visible(value)
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zml_dask.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["shown"] = visible
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment
