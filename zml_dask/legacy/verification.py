"""The first edition's files beside a dataset, held to the dataset they were made from.

An export has no checksum of its own and needs none: it follows from the dataset,
byte for byte, so it is simply made again and compared.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from zml_dask.legacy.committed import CommittedRecords
from zml_dask.legacy.export import export_record, legacy_paths
from zml_dask.legacy.record import LegacyFormat
from zml_dask.store.layout import LEGACY
from zml_dask.store.storage import Storage
from zml_dask.store.verify.report import Report


def verify_exports(dataset: Storage, *, mend: bool = False, scratch: Path | None = None) -> Report:
    """Compare ``legacy/`` with what the dataset gives.

    Parameters
    ----------
    dataset : Storage
        Verified already: what is damaged itself proves nothing.
    mend : bool
        Put the right bytes where others are.
    scratch : Path, optional
        A local folder.

    Returns
    -------
    Report
        ``damaged`` and ``missing`` files; ``notes`` name what belongs to no committed record.
    """
    report = Report(dataset.url)
    found: dict[str, list[str]] = defaultdict(list)
    for path in dataset.list(LEGACY):
        found[path.split("/")[1]].append(path)
    if not found:
        return report
    committed = CommittedRecords.open(dataset)
    known = {str(number) for number in committed.record_ids()}
    for name in sorted(found):
        if name not in known:
            report.notes.append(f"{LEGACY}/{name} is of no record that is to be seen")
            continue
        formats = _formats_of(int(name), found[name])
        with tempfile.TemporaryDirectory(prefix="zml-exports-", dir=scratch) as folder:
            made = Storage.open(folder)
            record = next(committed.records([int(name)]))
            export_record(record, made, formats, folder=LEGACY, scratch=scratch)
            for path in made.list():
                _compare(report, dataset, made, path, mend=mend)
            report.notes += [
                f"{path} is no export of its record"
                for path in found[name]
                if not made.exists(path)
            ]
    return report


def _formats_of(record_id: int, paths: list[str]) -> tuple[LegacyFormat, ...]:
    """Which formats a record was exported in, by the files there are."""

    def wanted() -> Iterator[LegacyFormat]:
        for name in get_args(LegacyFormat):
            if legacy_paths(record_id, [name], LEGACY)[name] in paths:
                yield name

    return tuple(wanted())


def _compare(report: Report, dataset: Storage, made: Storage, path: str, *, mend: bool) -> None:
    report.count("exports")
    if dataset.exists(path) and _same(dataset, made, path):
        return
    if mend:
        dataset.publish(Path(made.url, path), path)
        report.notes.append(f"made again: {path}")
    elif dataset.exists(path):
        report.add("damaged", path, "not what the dataset gives for this record")
    else:
        report.add("missing", path, "an export of this record lacks it")


def _same(dataset: Storage, made: Storage, path: str) -> bool:
    """Compare block by block: a record of 20,000 images is two gigabytes as pickle and HDF5."""
    with dataset.open_reader(path) as ours, made.open_reader(path) as theirs:
        while True:
            block = ours.read(_BLOCK)
            if block != theirs.read(_BLOCK):
                return False
            if not block:
                return True


_BLOCK = 4 * 2**20
