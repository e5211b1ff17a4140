"""A small dataset of three languages, four records of three concepts, in two commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_builders import sources, staged_file

from zml_dask.store.commit import commit
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import RecordStager
from zml_dask.store.storage import Storage

LANGUAGES = {"py": "Python", "c": "C", "f90": "Fortran"}
LICENCE = "Permission is hereby granted\n" * 20

RECORDS: dict[int, dict[str, Any]] = {
    10: {"license": "mit", "keywords": ["astronomy", "fits"], "concept_id": 9},
    20: {"license": "apache-2.0", "keywords": [], "concept_id": 19},
    30: {"license": None, "keywords": ["biology"], "concept_id": 29},
    40: {"license": "mit", "keywords": ["astronomy"], "concept_id": 9},
}


def files_of(record_id: int) -> list[tuple[str, str | None]]:
    """Paths and texts of a record; None stands for a binary file."""
    texts: list[tuple[str, str | None]] = [
        (path.replace(".py", f".{extension}"), text)
        for extension in LANGUAGES
        for path, text in sources(12, seed=record_id * 10 + len(extension))
    ]
    unicode = "naïve = '\N{SNOWMAN}'\n" * 90
    return [*texts, ("LICENSE", LICENCE), ("logo.gif", None), ("empty.py", ""), ("é/u.py", unicode)]


def stage_record(
    storage: Storage,
    scratch: Path,
    record_id: int,
    files: list[tuple[str, str | None]],
    row: Mapping[str, Any],
) -> None:
    """Stage a record whose files have a language by their extension."""
    with RecordStager(scratch, record_id, ImageShape()) as stager:
        for path, text in files:
            file, normalized = staged_file(path, text)
            stager.add(replace(file, language=LANGUAGES.get(file.extension)), normalized)
        stager.finish(
            storage,
            {
                "title": f"record <{record_id}>",
                "doi": f"10.5281/zenodo.{record_id}",
                "publication_date": f"{2000 + record_id // 2}-05-01",
                "metadata": f'{{"id": {record_id}}}',
                **row,
            },
        )


def write_dataset(storage: Storage, scratch: Path) -> Storage:
    """Write the records above; the last one as a commit of its own."""
    for batch in ([10, 20, 30], [40]):
        for record_id in batch:
            row = RECORDS[record_id]
            stage_record(storage, scratch, record_id, files_of(record_id), row)
        commit(storage)
    return storage
