"""The corpus that all benchmarks share: pinned wheels from PyPI, zip archives of real source.

Fetched once with pip into a cache, without dependencies and without running anything of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("ZML_BENCHMARKS", Path.home() / ".cache" / "zml-dask" / "benchmarks"))

PINNED = (
    "babel==2.16.0",
    "botocore==1.35.0",
    "dask==2025.1.0",
    "distributed==2025.1.0",
    "django==5.1.4",
    "docutils==0.21.2",
    "faker==33.1.0",
    "jinja2==3.1.4",
    "networkx==3.4.2",
    "nltk==3.9.1",
    "pygments==2.18.0",
    "setuptools==75.6.0",
    "sqlalchemy==2.0.36",
    "sympy==1.13.3",
    "werkzeug==3.1.3",
)

MAX_SOURCE_BYTES = 100_000


def archives() -> list[Path]:
    """Return the corpus's archives in name order, fetching what is missing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if len(list(CACHE.glob("*.whl"))) < len(PINNED):
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary", ":all:", "--python-version", "3.11", "--dest", str(CACHE)),
                *PINNED,
            ],
            check=True,
        )
    return sorted(CACHE.glob("*.whl"))


def sources() -> list[bytes]:
    """Return the bytes of every text file of the corpus that the rules read."""
    found = []
    for path in archives():
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and member.file_size <= MAX_SOURCE_BYTES:
                    data = archive.read(member)
                    if b"\0" not in data:
                        found.append(data)
    return found
