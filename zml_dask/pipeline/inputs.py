"""The input and target of a build: a catalogue that workers can read, and a dataset's folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import UsageError
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.parse import canonical_json, record_name
from zml_dask.records.record import Record, RecordFile
from zml_dask.store.info import DatasetInfo, ensure_ours, read_info
from zml_dask.store.layout import STAGING
from zml_dask.store.storage import Storage
from zml_dask.text_safety import brief_repr

Records: TypeAlias = str | Path | Catalogue | Iterable[Record]
"""A catalogue's path (JSON Lines, or ``records.pkl`` of 2018), an open one, or records."""

TEMPORARY = "catalogue"
"""Begins the name of a temporary folder, for a catalogue that is removed after its build."""

_SHARED = f"{STAGING}/catalogue"


@contextmanager
def open_records(
    records: Records, options: BuildOptions, *, where: str | None = None
) -> Iterator[Catalogue]:
    """Open what is to be built as a catalogue; `where` is a SQL condition, see `Catalogue.where`.

    What was no catalogue before is one in a temporary file; see :func:`publish_to_workers`. Raises
    `UsageError` if it does not exist, cannot be read, or names no record.
    """
    with temporary_folder(TEMPORARY) as folder:
        converted = folder / "catalogue.jsonl"
        if isinstance(records, Catalogue):
            catalogue = records
        elif isinstance(records, str | Path):
            path = _absolute(records)
            catalogue = Catalogue.open(path, api_url=options.api_url, into=converted)
        else:
            catalogue = _written(records, converted, options.api_url)
        if where is not None:
            catalogue = catalogue.where(where)
        if not len(catalogue.refs):
            raise UsageError(
                f"{records if isinstance(records, str | Path) else 'the catalogue'} names no "
                "record: harvest some first, or check the harvest's query and the condition"
            )
        yield catalogue


def name_of(records: Records) -> str | None:
    """Return the path of the catalogue as it was given; None for one that is removed afterwards."""
    if isinstance(records, Catalogue):
        return None if _is_temporary(records) else records.path
    return _absolute(records) if isinstance(records, str | Path) else None


def _absolute(path: str | Path) -> str:
    """Return a path for workers, which may have another working directory; a URL as it is."""
    if "://" in str(path):
        return str(path)
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - as Storage


def publish_to_workers(catalogue: Catalogue, storage: Storage) -> Catalogue:
    """Return the catalogue where every worker can read it.

    One that was made for this build is put into the dataset's staging; one that
    the user named is read where it is, which must be a place that workers see.
    """
    if not _is_temporary(catalogue):
        return catalogue
    content = Path(catalogue.path).read_bytes()
    name = f"{_SHARED}/{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    storage.write(name, content)
    return replace(catalogue, path=f"{storage.url}/{name}")


def _is_temporary(catalogue: Catalogue) -> bool:
    """Whether a catalogue was written for one build, and is removed after it."""
    return Path(catalogue.path).parent.name.startswith(f"zml-{TEMPORARY}-")


def remove_published(storage: Storage) -> None:
    """Remove what :func:`publish_to_workers` left, once everything is committed."""
    storage.remove(storage.list(_SHARED))
    storage.prune(STAGING)


def _written(records: Iterable[Record], path: Path, api_url: str | None) -> Catalogue:
    """Write records as a catalogue."""
    roots: set[str] = set()
    with path.open("w", encoding="ascii") as stream:
        for record in records:
            if not isinstance(record, Record):
                raise UsageError(
                    f"records are a catalogue or zml_dask.Record objects, not {brief_repr(record)}"
                )
            roots.update(_root_of(record, file) for file in record.files)
            stream.write(f"{canonical_json(record.metadata)}\n")
    if len(roots) > 1 or "" in roots:
        raise UsageError(
            "the records' files are not all under one API's address; write a catalogue of your "
            'own, whose file entries name their "url", and build that'
        )
    catalogue = Catalogue.open(path, api_url=api_url or (roots.pop() if roots else None))
    # Their URLs follow from the API's address, so nothing else need be trusted.
    return replace(catalogue, trusted=False)


def _root_of(record: Record, file: RecordFile) -> str:
    """Return the address of the API that a file's URL was built on; empty for any other URL."""
    root, found, _ = file.url.partition(f"/records/{record_name(record.record_id)}/files/")
    return root if found and root.startswith(("http://", "https://")) else ""


def check_target(storage: Storage) -> DatasetInfo | None:
    """Check that a dataset is or may be made there, without writing anything.

    Returns None where nothing is committed yet. Raises `UsageError` if it is a file, a folder that
    holds something else, or another's ``dataset.json``.
    """
    if storage.is_local and Path(storage.url).exists() and not Path(storage.url).is_dir():
        raise UsageError(f"{storage.url} is a file; give a folder for the dataset")
    info = read_info(storage)
    if info is None:
        ensure_ours(storage)
    return info
