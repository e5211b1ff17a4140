"""The report's one drawing: counts by rank on two logarithmic axes, as SVG.

Drawn here in a few lines rather than by a plotting library: the report stays one
small file, its text is text (selectable, in the reader's font and colours), and
a dependency of fifty megabytes stays out of the install.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 380, 70, 50, 15
_LABELLED = 12
_CLEAR = 34

Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Ranked:
    """What the plot shows.

    Attributes
    ----------
    names : sequence of str
        Most frequent first.
    counts : sequence of int
        Greater than zero, one a name.
    slope, intercept : float
        Of the fitted line, log10(count) over log10(rank).
    """

    names: Sequence[str]
    counts: Sequence[int]
    slope: float
    intercept: float


def rank_plot(ranked: Ranked) -> Markup:
    """Draw counts over ranks, with the fitted line, as an SVG element.

    Examples
    --------
    >>> "<svg" in rank_plot(Ranked(["py", "c"], [10, 5], -1.0, 1.0))
    True
    """
    if not ranked.counts:
        return Markup("")
    x_span = max(math.log10(len(ranked.counts)), 0.1) * 1.02
    y_span = max(math.log10(ranked.counts[0]), 0.1) * 1.08

    def place(rank: float, count: float) -> tuple[float, float]:
        x = _LEFT + math.log10(rank) / x_span * (_WIDTH - _LEFT - 20)
        y = _HEIGHT - _BOTTOM - math.log10(count) / y_span * (_HEIGHT - _BOTTOM - _TOP)
        return round(x, 1), round(y, 1)

    parts = [*_axes(place, x_span, y_span)]
    last = len(ranked.counts)
    labelled = -math.inf
    if ranked.slope < 0:
        # Only where the line lies within the plot: above one image, below its top.
        start = max(1.0, 10 ** ((y_span - ranked.intercept) / ranked.slope))
        stop = min(last, 10 ** (-ranked.intercept / ranked.slope))
        (x1, y1), (x2, y2) = (
            place(rank, 10 ** (ranked.intercept + ranked.slope * math.log10(rank)))
            for rank in (start, max(stop, start))
        )
        parts.append(
            Markup('<line class="fit" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, y1, x2, y2)
        )
    for rank, (name, count) in enumerate(zip(ranked.names, ranked.counts, strict=True), 1):
        x, y = place(rank, count)
        shown = Markup("<title>{}: {:,} (rank {})</title>").format(name, count, rank)
        parts.append(Markup('<circle cx="{}" cy="{}" r="3">{}</circle>').format(x, y, shown))
        if rank <= _LABELLED and x - labelled > _CLEAR:
            labelled = x
            label = escape(name if len(name) <= 12 else name[:11] + "…")
            parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 6, y - 4, label))
    label = Markup("Images by extension and rank, on logarithmic axes: slope {:.2f}").format(
        ranked.slope
    )
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, label, Markup("").join(parts)
    )


def _axes(place: Place, x_span: float, y_span: float) -> list[Markup]:
    parts = []
    for power in range(math.floor(x_span) + 1):
        x, y = place(10**power, 1)
        parts.append(
            Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, _TOP, y)
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{:,}</text>').format(
                x, y + 18, 10**power
            )
        )
    for power in range(math.floor(y_span) + 1):
        x, y = place(1, 10**power)
        parts.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
                x, _WIDTH - 20, y
            )
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{:,}</text>').format(
                x - 6, y + 4, 10**power
            )
        )
    middle = (_HEIGHT - _BOTTOM) / 2
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">rank of the extension</text>').format(
            _WIDTH / 2, _HEIGHT - 8
        )
    )
    parts.append(
        Markup(
            '<text x="14" y="{0}" text-anchor="middle" transform="rotate(-90 14 {0})">images</text>'
        ).format(middle)
    )
    return parts
