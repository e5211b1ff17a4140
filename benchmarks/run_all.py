"""Run every benchmark, one after another, and put their figures into ``docs/performance.md``.

``--render`` only writes the page from the figures of the last runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
MIB = 2**20

SCRIPTS = (
    "rasterise.py",
    "inflate.py",
    "density.py",
    "archive_to_commit.py",
    "memory.py",
    "throttle.py",
    "reading.py",
    "batches.py",
    "query.py",
    "scale.py",
)


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


def plain(kept: dict[str, Any]) -> str:
    """Return the table of figures that compare nothing."""
    rows = [[name, str(value)] for name, value in kept["values"].items()]
    return f"### {kept['title']}\n\n" + table(["figure", "value"], rows)


def render() -> None:
    """Replace the page's figures by those of the last runs."""
    sections = []
    for path in sorted((HERE / "results").glob("*.json")):
        kept = json.loads(path.read_text())
        if "figures" in kept:
            sections.append(comparison(kept))
        elif "rows" in kept:
            sections.append(memory(kept))
        else:
            sections.append(plain(kept))
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="do not run anything")
    if not parser.parse_args().render:
        for script in SCRIPTS:
            print(f"\n=== {script}", flush=True)
            subprocess.run([sys.executable, HERE / script], check=True)
    render()


if __name__ == "__main__":
    main()
