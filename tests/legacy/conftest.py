"""Records of odd and ordinary files for the tests of the 2018 formats."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from zml_dask.legacy.record import Canvas, LegacyFile, LegacyRecord
from zml_dask.raster.text import BinaryFileError, settle_text

DATA = Path(__file__).parent / "data"

HIT = {"id": 7, "metadata": {"title": "Títle", "keywords": ["a", "a"]}, "created": None}

SOURCES: dict[str, bytes] = {
    "top/.gitignore": b"*.pyc\n",
    "top/Makefile": b"all:\n\techo \xe2\x82\xac\n",
    "top/empty": b"",
    "top/logo.gif": b"GIF89a\0\0",
    "top/src/a.py": b"".join(b"x = %d\n" % i for i in range(200)),
    "top/src/emoji.md": "\U0001f600\n".encode() * 81,
    "top/src/full.c": b"int x;\n" * 160,
    "top/src/long.csv": b"1,2,3," * 100 + b"\n",
    "top/src/old.f": b"      END\n" * 31,
}


@pytest.fixture(scope="session")
def old_pickles() -> dict[str, bytes]:
    """Pickles by Python 2.7 and 3.6 with NumPy 1.14 (see data/make_pickles.py)."""
    with zipfile.ZipFile(DATA / "pickles.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def draw_files(sources: Mapping[str, bytes]) -> Iterator[LegacyFile]:
    canvas = Canvas()
    for path in sorted(sources):
        data = sources[path]
        try:
            settled = settle_text(data)
        except BinaryFileError:
            yield canvas.file(path, None, size=len(data))
        else:
            yield canvas.file(path, settled.text, size=len(data), n_lines=settled.n_lines)


@pytest.fixture
def make_record() -> Callable[..., LegacyRecord]:
    def make(sources: Mapping[str, bytes] = SOURCES, record_id: int = 7) -> LegacyRecord:
        return LegacyRecord(record_id, json.dumps(HIT), draw_files(sources))

    return make
