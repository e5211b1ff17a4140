"""The page of all figures: ``docs/performance.md`` from what the benchmarks left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comparison import kept_figures

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MIB = 2**20

AIMS = """\
| what | 2018 | aim | reached | by |
|---|--:|--:|--:|---|
| rasterising, one core | 1.04 MB/s | 300 MB/s | {rasterising} | `rasterise.py` |
| archive to committed Zarr, one core, level 1 | 220 to 250 images/s | 15,000 images/s | {commit} \
| `archive_to_commit.py` |
| the same with pickles and HDF5 beside it | 220 to 250 images/s | 5,000 images/s | {exports} | \
`archive_to_commit.py` |
| bytes per image on disk | 51,262 and 51,618 | under 550 | {size}; {python_size} for Python \
wheels alone, level 1 | `density.py` |
| bytes read for a selection, of those of its chunks | everything | under 1.1 times | {read} times \
| `query.py` |
| memory of a worker, a record of {images:,} images | grows with the record | under 1 GiB | \
{peak:,.0f} MiB | `memory.py` |
| permitted requests used; refused | - | over 95 %; under 1 % | {used}; {refused} | `throttle.py` |
| two workers against one | - | over 1.8 times | {workers:.2f} times; two processes without Dask \
{processes:.2f} | `archive_to_commit.py` |
| 500,000 records: scheduler and driver | 500,000 job files | under 2 GiB, under 1 ms a record | \
{rss} MiB, {milliseconds:.2f} ms a record | `scale.py` |"""

Kept = dict[str, dict[str, Any]]
"""Title of a table -> what a benchmark kept for it."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def comparison(kept: dict[str, Any]) -> str:
    """Return the table of one comparison."""
    figures = kept["figures"]
    base = figures[0]["median"]
    digits = 0 if base >= 100 else 1
    rows = [
        [
            figure["variant"],
            f"{figure['median']:,.{digits}f} {figure['unit']}",
            f"{figure['low']:,.{digits}f} to {figure['high']:,.{digits}f}",
            f"{figure['median'] / base:.2f}",
        ]
        for figure in figures
    ]
    return f"### {kept['title']}\n\n" + table(["variant", "median", "range", "ratio"], rows)


def memory(kept: dict[str, Any]) -> str:
    """Return the table of peak memory by stage."""
    rows = [
        [
            row["stage"],
            f"{row['images']:,}",
            f"{row['archive_bytes'] / MIB:,.0f} MiB",
            f"{row['bytes'] / MIB:,.0f} MiB",
        ]
        for row in kept["rows"]
    ]
    head = ["stage", "images of the one record", "its archive", "peak memory"]
    return f"### {kept['title']}\n\n" + table(head, rows)


def use(kept: dict[str, Any]) -> str:
    """Return the tables of what questions to a large dataset cost."""

    def spent(row: dict[str, Any]) -> list[str]:
        return [f"{row[clock]:.2f} s" if clock in row else "" for clock in ("seconds", "cpu")]

    local = [
        [
            row["question"].replace("|", "\\|"),
            *spent(row),
            f"{row['memory'] / MIB:,.0f} MiB" if "memory" in row else "",
            ", ".join(
                [
                    f"{row['peer']['name']}: {spent(row['peer'])[0]}",
                    f"{spent(row['peer'])[1]} CPU",
                    f"{row['peer']['memory'] / MIB:,.0f} MiB",
                ]
            )
            if "peer" in row
            else "",
        ]
        for row in kept["local"]
    ]
    remote = [
        [
            row["question"],
            *spent(row),
            f"{row['memory'] / MIB:,.0f} MiB",
            f"{row['requests']:,}",
            f"{row['bytes'] / 1e6:.1f} MB",
        ]
        for row in kept["remote"]
    ]
    return "\n\n".join(
        [
            f"### {kept['title']}",
            table(
                ["from the disk", "time", "CPU", "peak memory", "a peer, in the same run"], local
            ),
            table(
                ["over HTTP, 30 ms away", "time", "CPU", "peak memory", "requests", "bytes"], remote
            ),
        ]
    )


def plain(kept: dict[str, Any]) -> str:
    """Return the table of figures that compare nothing."""
    rows = [[name, str(value)] for name, value in kept["values"].items()]
    return f"### {kept['title']}\n\n" + table(["figure", "value"], rows)


def rate(kept: Kept, title: str, variant: str) -> str:
    """Return a variant's median."""
    figure = _figure(kept, title, variant)
    return f"{figure['median']:,.0f} {figure['unit']}"


def ratio(kept: Kept, title: str, variant: str, other: str) -> float:
    """Return how many times another variant's median one is."""
    medians = (_figure(kept, title, name)["median"] for name in (variant, other))
    return next(medians) / next(medians)


def _figure(kept: Kept, title: str, variant: str) -> dict[str, Any]:
    return next(each for each in kept[title]["figures"] if each["variant"] == variant)


def value(kept: Kept, title: str, start: str) -> Any:
    """Return the first plain figure whose name begins so."""
    values = kept[title]["values"]
    return next(each for name, each in values.items() if name.startswith(start))


def aims(kept: Kept) -> str:
    """Return the table of what was aimed at and what is reached."""
    commit = "Archive to commit, one core"
    cores = "The build on one worker and on two"
    size = "Bytes per image"
    throttle = "The shared throttle against Zenodo's limits"
    scheduler = "The scheduler with 500,000 records"
    records = kept["Peak memory by stage"]["rows"]
    return AIMS.format(
        rasterising=rate(kept, "Rasterising, the whole corpus", "zml_dask, into a chunk"),
        commit=rate(kept, commit, "committed Zarr"),
        exports=rate(kept, commit, "with pickle and HDF5"),
        size=value(kept, size, "packages of fifteen languages"),
        python_size=value(kept, size, "level 1, chunks of 64"),
        read=value(kept, "Asking a million images", "bytes read for them"),
        images=max(row["images"] for row in records),
        peak=max(row["bytes"] for row in records) / MIB,
        used=value(kept, throttle, "share of the permitted"),
        refused=value(kept, throttle, "share of requests refused"),
        workers=ratio(kept, cores, "2 workers", "1 worker"),
        processes=ratio(kept, cores, "2 processes without Dask", "1 process without Dask"),
        rss=value(kept, scheduler, "peak_rss_mib"),
        milliseconds=value(kept, scheduler, "ms_a_record_wall"),
    )


def render() -> None:
    """Put the figures of the last runs into the page."""
    kept = kept_figures()
    text = _between(PAGE.read_text(), "aims", aims(kept))
    PAGE.write_text(_between(text, "figures", "\n\n".join(map(_section, kept.values()))))


def _section(kept: dict[str, Any]) -> str:
    if "figures" in kept:
        return comparison(kept)
    if "remote" in kept:
        return use(kept)
    return memory(kept) if "rows" in kept else plain(kept)


def _between(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks of a name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
