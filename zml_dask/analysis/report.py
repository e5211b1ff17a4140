"""The report: one self-contained page about a dataset, safe for any names of files."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zml_dask.analysis.counts import LONG_LINES, UNNAMED, Numbers
from zml_dask.errors import UsageError
from zml_dask.query.describe import png_url
from zml_dask.store.snapshot import Snapshot
from zml_dask.text_safety import escape_text

_LONGEST = 120
_LARGEST = 10
_SHOWN = 25
_OF_YEARS = {"by_language": ("language", "images"), "by_extension": ("extension", "long_images")}
_LABELLED = 12
_LABEL_WIDTH = 34
"""Points of the plot that may have a label, and the pixels between two labels."""
_NONE = "(none)"
"""Stands for a missing value in the viewer's address."""


def render(dataset: str, numbers: Numbers, viewer: str | None = None) -> str:
    """Return the report as an HTML page that loads nothing from elsewhere.

    Some images of the dataset are read for the mosaic. With the address of the viewer's page,
    absolute or relative to the report, languages, licences, years and records become links to their
    images. `UsageError` if `viewer` is not an address of a web page.
    """
    if viewer is not None and urlsplit(viewer).scheme not in ("", "http", "https"):
        raise UsageError(
            f"{viewer!r} is not an address of the viewer; give one like viewer/index.html"
        )
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
            title=snapshot.storage.name,
            height=info.shape.height,
            width=info.shape.width,
            software=info.software.get("zml-dask", info.software.get("zml_dask", "")),
            long_lines=LONG_LINES,
            totals=numbers.totals,
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
            plot=_rank_plot(
                [visible(name) for name in extensions["extension"]],
                extensions["long_images"].tolist(),
                numbers.totals["slope"],
                numbers.totals["intercept"],
            ),
            tiles=_tiles(
                snapshot,
                numbers.examples,
                numbers.tables["by_language"]["language"].head(_SHOWN).tolist(),
            ),
        )
    )


def _rank_plot(
    names: Sequence[str], counts: Sequence[int], slope: float, intercept: float
) -> dict[str, Any] | None:
    """Place what ``rank_plot.svg`` draws: counts, the greatest first, over ranks, both logarithmic.

    `slope` and `intercept` are of the fitted line, log10(count) over log10(rank). The template
    draws this rather than a plotting library, which would be a dependency of fifty megabytes and
    whose text would not be text (selectable, in the reader's font and colours).
    """
    if not counts:
        return None
    width, height, left, right, top, bottom = 640, 380, 70.0, 620, 15, 330.0
    x_span = max(math.log10(len(counts)), 0.1) * 1.02
    y_span = max(math.log10(counts[0]), 0.1) * 1.08

    def place(rank: float, count: float) -> tuple[float, float]:
        x = left + math.log10(rank) / x_span * (right - left)
        y = bottom - math.log10(count) / y_span * (bottom - top)
        return round(x, 1), round(y, 1)

    line: tuple[float, ...] | None = None
    if slope < 0:
        # Only the part of the line that is within the plot: above one image and below its top.
        start = max(1.0, 10 ** ((y_span - intercept) / slope))
        stop = max(start, min(len(counts), 10 ** (-intercept / slope)))
        ends = [place(rank, 10 ** (intercept + slope * math.log10(rank))) for rank in (start, stop)]
        line = (*ends[0], *ends[1])
    points = []
    last_label = -math.inf
    for rank, (name, count) in enumerate(zip(names, counts, strict=True), 1):
        x, y = place(rank, count)
        label = None
        if rank <= _LABELLED and x - last_label > _LABEL_WIDTH:
            last_label = x
            label = name if len(name) <= 12 else name[:11] + "…"
        points.append((x, y, rank, count, name, label))
    return {
        "width": width, "height": height, "left": left, "right": right, "top": top,
        "bottom": bottom, "line": line, "points": points,
        "columns": [(place(10**k, 1)[0], 10**k) for k in range(math.floor(x_span) + 1)],
        "rows": [(place(1, 10**k)[1], 10**k) for k in range(math.floor(y_span) + 1)],
    }  # fmt: skip


def _tiles(
    snapshot: Snapshot, examples: pd.DataFrame, languages: Sequence[str], n: int = 64
) -> list[dict[str, Any]]:
    """Read the first images of up to `n` files, evenly over some languages, for the mosaic.

    `examples` are rows of the files table whose first image is full. Each tile is such a row with a
    ``data:`` URL of its PNG.
    """
    examples = examples[examples["language"].isin(languages)]
    if not len(examples):
        return []
    turn = examples.sort_values("file_id").groupby("language").cumcount()
    chosen = examples.assign(turn=turn).sort_values(["turn", "language", "file_id"]).head(n)
    chosen = chosen.sort_values("first_image")
    images = snapshot.images.read(chosen["first_image"].to_numpy(np.int64))
    urls = [png_url(image) for image in images]
    return _rows(chosen.assign(url=urls).sort_values(["language", "file_id"]))


def _by_year(
    table: pd.DataFrame, key: str, measure: str, address: Callable[[str, object], str | None]
) -> dict[str, list[tuple[str, str, int]]]:
    """Return the most frequent values of each year: the text, its link, and the count."""
    return {
        str(year): [
            (visible(value), address(key, value) or "", int(n))
            for value, n in zip(rows[key].head(_SHOWN), rows[measure].head(_SHOWN), strict=True)
        ]
        for year, rows in table.groupby("year")
    }


def visible(text: object) -> str:
    r"""Shorten a name, and escape what would be invisible or reverse the text.

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
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else visible(value)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zml_dask.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["shown"] = visible
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment
