"""Run every benchmark, one after another, and put their figures into ``docs/performance.md``.

``--render`` only writes the page from the figures of the last runs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from comparison import RESULTS
from page import render

SCRIPTS = (
    "rasterise.py",
    "inflate.py",
    "density.py",
    "archive_to_commit.py",
    "exports.py",
    "memory.py",
    "throttle.py",
    "reading.py",
    "batches.py",
    "query.py",
    "use.py",
    "scale.py",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="do not run anything")
    if not parser.parse_args().render:
        # Nothing of an earlier run is to stand beside the figures of this one.
        shutil.rmtree(RESULTS, ignore_errors=True)
        for script in SCRIPTS:
            print(f"\n=== {script}", flush=True)
            subprocess.run([sys.executable, Path(__file__).parent / script], check=True)
    render()


if __name__ == "__main__":
    main()
