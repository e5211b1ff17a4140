"""Verification of exported legacy files: they are made again and compared.

An export needs no checksum, since it is determined by the dataset. HDF5 does not prescribe how
content is arranged and compressed, so that other versions of the software write other bytes; for
such files the content is compared.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from typing import get_args

import numpy as np

from zml_dask.legacy.hdf5 import read_images_hdf5
from zml_dask.legacy.legacy_record import LegacyFormat, Segments
from zml_dask.legacy.record_files import export_record, legacy_paths, legacy_record
from zml_dask.legacy.sources import LegacyFileError
from zml_dask.store.layout import LEGACY
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.verify import Report


def verify_exports(dataset: Storage, *, repair: bool = False) -> Report:
    """Compare ``legacy/`` with what is exported from the dataset, which was verified before.

    With `repair`, other files are replaced. ``notes`` of the report name files that belong to no
    visible record.
    """
    report = Report(dataset.url)
    found: dict[str, list[str]] = defaultdict(list)
    for path in dataset.list(LEGACY):
        found[path.split("/")[1]].append(path)
    if not found:
        return report
    snapshot = Snapshot.open(dataset)
    known = {str(number) for number in snapshot.scan("records", ["record_id"])["record_id"]}
    for name in sorted(found):
        if name not in known:
            report.notes.append(f"{LEGACY}/{name} belongs to no visible record")
            continue
        formats: list[LegacyFormat] = [
            each
            for each in get_args(LegacyFormat)
            if legacy_paths(int(name), [each], LEGACY)[each] in found[name]
        ]
        with tempfile.TemporaryDirectory(prefix="zml-exports-") as folder:
            made = Storage.open(folder)
            record = legacy_record(snapshot, int(name))
            export_record(record, made, formats, folder=LEGACY)
            for path in made.list():
                _compare(report, dataset, made, path, repair=repair)
            report.notes += [
                f"{path} is not an export of its record"
                for path in found[name]
                if not made.exists(path)
            ]
    return report


def _compare(report: Report, dataset: Storage, made: Storage, path: str, *, repair: bool) -> None:
    report.count("exports")
    if dataset.exists(path):
        n_other = _n_other(dataset, made, path)
        if n_other == 0:
            return
        if path.endswith(".h5") and n_other > _FLIPPED and _alike(dataset, made, path):
            report.count("HDF5 files of another version")
            return
    if repair:
        dataset.publish(Path(made.url, path), path)
        report.notes.append(f"repaired: {path}")
    elif dataset.exists(path):
        report.add("damaged", path, "not what the dataset gives for this record")
    else:
        report.add("missing", path, "an export of this record lacks it")


def _n_other(dataset: Storage, made: Storage, path: str) -> int:
    """Count the bytes that differ; `_BLOCK` if there are many, or the sizes differ.

    Files are read in blocks, since a record with 20,000 images has two gigabytes.
    """
    if dataset.size(path) != made.size(path):
        return _BLOCK
    n_other = 0
    with dataset.open_reader(path) as ours, made.open_reader(path) as theirs:
        while n_other <= _FLIPPED:
            block, other = ours.read(_BLOCK), theirs.read(_BLOCK)
            if len(block) != len(other):
                return _BLOCK
            if not block:
                break
            if block != other:
                differs = np.frombuffer(block, np.uint8) != np.frombuffer(other, np.uint8)
                n_other += int(np.count_nonzero(differs))
    return n_other


def _alike(dataset: Storage, made: Storage, path: str) -> bool:
    """Compare the content of two HDF5 files, one of the record's files at a time."""
    try:
        with dataset.open_reader(path) as ours, made.open_reader(path) as theirs:
            pairs = zip_longest(
                read_images_hdf5(ours, name=path), read_images_hdf5(theirs, name=path)
            )
            return all(
                one is not None
                and other is not None
                and one[0] == other[0]
                and _equal(one[1], other[1])
                for one, other in pairs
            )
    except LegacyFileError:
        return False


def _equal(ours: Segments, theirs: Segments) -> bool:
    return len(ours) == len(theirs) and all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(ours, theirs, strict=True)
    )


_BLOCK = 4 * 2**20
_FLIPPED = 16
"""Up to so many different bytes are damage, even in unused parts of an HDF5 file: a file by
another version has another size, or differs throughout."""
