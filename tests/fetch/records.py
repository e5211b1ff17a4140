"""Records, and the files of their repositories, made by hand."""

from __future__ import annotations

from typing import Any

from zml_dask.records.record import Record, RelatedIdentifier

FILES = {"src/a.py": "print('a')\n", "README": "a readme\n"}


def bare_record(**fields: Any) -> Record:
    empty: dict[str, Any] = dict.fromkeys(
        ["concept_id", "doi", "title", "version", "publication_date", "created", "license",
         "repository", "resource_type"]
    )  # fmt: skip
    full = empty | {"record_id": 7, "keywords": (), "creators": (), "access": "open"}
    full |= {"related": (), "files": (), "metadata": {}}
    return Record(**(full | fields))


def links(*identifiers: str) -> tuple[RelatedIdentifier, ...]:
    return tuple(RelatedIdentifier(one, "isSupplementTo", "url") for one in identifiers)
