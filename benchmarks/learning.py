"""Every figure of ``docs/learning.md``, from the pinned packages to the model that ships.

    python benchmarks/learning.py FOLDER [--network]

downloads the packages of ``real_packages.csv`` into FOLDER, builds them and the held-out ones as
two datasets, and runs ``zml-dask learn`` on them: ``FOLDER/learnt/results.json`` has the figures,
``FOLDER/learnt/languages.npz`` is what lies in ``zml_dask/learning``. It says what each step
took. With ``--network`` a network is trained as well. Needs the extras ``licenses``, ``magika``
and ``plot``, and for the network ``ml``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import real_packages
from matplotlib.figure import Figure


def main(folder: Path, *more: str) -> None:
    """Download, build and learn; what is there is not done again."""
    real_packages.main(folder)
    for catalogue, dataset in (("catalogue", "packages"), ("held-out", "held-out")):
        zml("build", folder / f"{catalogue}.jsonl", folder / dataset)
    packages, learnt = folder / "packages", folder / "learnt"
    zml("derive", packages, "license_detected")
    zml("learn", packages, learnt, "--magika", 20, "--held-out", folder / "held-out", *more)
    results = json.loads((learnt / "results.json").read_text())
    models = results["tasks"]["all"]["models"]
    plot(models["words, pairs and patterns"]["by_label"], learnt / "learning-recall.png")


def plot(by_label: dict[str, Any], path: Path) -> None:
    """Draw the recall of each language with its interval, the best above."""
    rows = sorted(by_label.items(), key=lambda item: item[1]["recall"])
    recalls = [100 * scores["recall"] for _, scores in rows]
    ends = [[100 * end for end in scores["interval"]] for _, scores in rows]
    around = [
        [max(0, recall - low) for recall, (low, _) in zip(recalls, ends, strict=True)],
        [max(0, high - recall) for recall, (_, high) in zip(recalls, ends, strict=True)],
    ]
    figure = Figure(figsize=(7, 0.19 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(recalls, range(len(rows)), xerr=around, fmt="o", markersize=3, linewidth=1)
    names = [f"{name} ({scores['families']})" for name, scores in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.grid(axis="x", linewidth=0.3)
    axes.set_xlabel("pages named rightly, %, and 95 % interval; in brackets families")
    figure.savefig(path, dpi=110)


def zml(*words: object) -> None:
    """Run a command of the product, and say what it took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "zml_dask", *map(str, words)], check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{words[0]}: {cpu:.0f} CPU seconds, {wall:.0f} seconds", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
