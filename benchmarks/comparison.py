"""Run variants of one job in turn, several times, and report medians, spreads and ratios."""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One variant's rate: work a second, median and range over the rounds."""

    variant: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes (Linux).

    Not ``ru_maxrss``, which begins with what the process that started this one held.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def keep_values(title: str, name: str, values: dict[str, object]) -> None:
    """Print figures that compare nothing, and keep them for the page as ``results/NAME.json``."""
    for figure, value in values.items():
        print(f"{figure:<60}{value}")
    RESULTS.mkdir(exist_ok=True)
    kept = {"title": title, "values": values}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1))


def kept_figures() -> dict[str, dict[str, Any]]:
    """Return what benchmarks kept, by the title of its table."""
    found = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
    return {kept["title"]: kept for kept in found}


def compare(
    title: str,
    work: float,
    unit: str,
    variants: dict[str, Callable[[], object]],
    rounds: int = 5,
    around: Mapping[str, Callable[[], AbstractContextManager[object]]] = MappingProxyType({}),
) -> list[Figure]:
    """Time each variant once a round, in turn, after one round that is not counted.

    `work` is what one call does, in `unit` (``"MB"``, ``"images"``); a figure is `work` a second.
    `around` says what is opened before a variant runs and closed after it, off the clock.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, job in variants.items():
            with around.get(name, nullcontext)():
                gc.collect()
                start = time.perf_counter()
                job()
                if round_:
                    times[name].append(time.perf_counter() - start)
    figures = [
        Figure(
            name,
            f"{unit}/s",
            work / statistics.median(seconds),
            work / max(seconds),
            work / min(seconds),
            rounds,
        )
        for name, seconds in times.items()
    ]
    report(title, figures)
    return figures


def report(title: str, figures: list[Figure]) -> None:
    """Print the figures, with ratios to the first, and keep them for the documentation."""
    print(f"\n{title}")
    base = figures[0].median
    for figure in figures:
        print(
            f"  {figure.variant:<46}{figure.median:>12,.1f} {figure.unit:<10}"
            f"({figure.low:,.1f} to {figure.high:,.1f})  x {figure.median / base:,.2f}"
        )
    RESULTS.mkdir(exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
    kept = {"title": title, "cores": os.cpu_count(), "figures": [asdict(f) for f in figures]}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1))
