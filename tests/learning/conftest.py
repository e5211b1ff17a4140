"""A small dataset of four languages in 24 records, whose names are each record's own."""

from __future__ import annotations

import random

import pytest

from tests.analysis.conftest import add
from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging.stager import RecordStager
from zml_dask.store.storage import Storage

LINES = {
    "py": ["def {a}({b}):", "    return {b}[{n}]", "for {a} in range({n}):", "import {a}"],
    "c": ["int {a}(int {b}) {{", "  return {b}[{n}];", "}}", "#include <{a}.h>"],
    "js": ["const {a} = ({b}) => {{", "  return {b}[{n}];", "}};", "let {a} = {n};"],
    "md": ["# {a} and {b}", "Some words about {a}.", "- {b}", "See {a} and {n} more."],
}


def text_of(kind: str, seed: int, n_lines: int = 60) -> str:
    draw = random.Random(seed)
    names = [f"{draw.choice('abcdefgh')}{draw.randrange(999)}" for _ in range(6)]
    lines = [
        draw.choice(LINES[kind]).format(a=draw.choice(names), b=draw.choice(names), n=number)
        for number in range(n_lines)
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("taught")
    storage = Storage.open(folder / "ds")
    for number in range(24):
        record_id = 1_000 + number
        with RecordStager(folder, record_id, ImageShape()) as stager:
            for kind in LINES:
                for k in range(3):
                    text = text_of(kind, 100 * number + 10 * k + len(kind), 60 + 40 * k)
                    add(stager, f"r/{number}_{k}.{kind}", text.encode())
            add(stager, "r/LICENSE.md", b"# You may.\n\nShared by all.\n" * 30)
            row = {
                "concept_id": 2_000 + number // 2,
                "license": ["mit", "gpl-3.0"][number // 2 % 2],
                "publication_date": f"20{10 + number // 2}-05-06",
                "keywords": [["physics", "biology"][number % 2]],
                "doi": f"10.5072/zenodo.{record_id}",
                "title": "A record",
                "origin": "zenodo",
                "creators": ["Doe, J."],
                "metadata": "{}",
            }
            stager.finish(storage, row)
    commit(storage)
    return open_dataset(str(folder / "ds"))
