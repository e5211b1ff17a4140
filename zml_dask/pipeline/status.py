"""The state of a dataset: committed, staged and failed records, what is left, and its size."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from zml_dask.engine.lock import holder
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import ObjectMissingError, UsageError, ZmlError
from zml_dask.failures import advice_for
from zml_dask.pipeline.inputs import check_target
from zml_dask.pipeline.ledger import Ledger, load_ledger
from zml_dask.records.catalogue import Catalogue
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import IMAGES_ZARR, LOG, STAGING, row_shape
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.staging import FailureRow
from zml_dask.store.storage import Storage
from zml_dask.store.summary import LeftOut
from zml_dask.store.tables import read_manifest

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What an array or a table takes: bytes on disk (`stored`) and uncompressed (`size`).

    The chunks and shards of a table are its row groups and its parts.
    """

    name: str
    rows: int
    stored: int
    size: int
    ratio: float
    chunks: int
    shards: int
    codec: str


def array_costs(storage: Storage, info: DatasetInfo) -> list[Cost]:
    """Return the sizes of the arrays of ``images.zarr``."""
    if not info.commits:
        return []
    stored: Counter[str] = Counter()
    # What the manifest says: asking the storage takes a request per shard.
    for path, written in read_manifest(storage, info).items():
        stored[path.removeprefix(f"{IMAGES_ZARR}/").partition("/")[0]] += written.size
    costs = []
    for spec in info.arrays:
        rows, on_disk = info.counts.images, stored[spec.name]
        codec = f"blosc zstd-{spec.level} shuffle"
        size = rows * math.prod(row_shape(spec, info.shape)) * np.dtype(spec.dtype).itemsize
        chunks, shards = (-(-rows // per) for per in (spec.chunk, spec.shard))
        costs.append(
            Cost(spec.name, rows, on_disk, size, _ratio(size, on_disk), chunks, shards, codec)
        )
    return sorted(costs, key=lambda cost: -cost.size)


def table_costs(storage: Storage, info: DatasetInfo) -> list[Cost]:
    """Return the sizes of the tables."""
    costs = []
    for name, parts in info.tables.items():
        size = groups = 0
        codecs = set()
        for part in parts:
            with storage.open_reader(part.path) as stream:
                metadata = pq.read_metadata(stream)
            groups += metadata.num_row_groups
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                size += group.total_byte_size
                codecs |= {group.column(i).compression for i in range(group.num_columns)}
        stored = sum(part.size for part in parts)
        rows = sum(part.rows for part in parts)
        codec = f"parquet {'/'.join(sorted(codecs)).lower()}".strip()
        costs.append(
            Cost(name, rows, stored, size, _ratio(size, stored), groups, len(parts), codec)
        )
    return costs


def _ratio(size: int, stored: int) -> float:
    return round(size / stored, 2) if stored else 0.0


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of records, files and images."""

    records: int = 0
    files: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one kind, what to do about them, and how many no build tries again by itself."""

    kind: str
    records: int
    permanent: int
    advice: str
    examples: tuple[FailureRow, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a dataset.

    Attributes
    ----------
    failed : mapping of str to int
        Kind -> records.
    to_do : int or None
        Records of the catalogue that a build would take up; None where the
        catalogue is not known or no longer exists. Of the last build's own
        catalogue those that its ``--where`` chose.
    catalogue : str or None
        The one that was built last, or that was named.
    running : str or None
        Who holds the lock, while a build is running.
    left_out : LeftOut
        Files that are listed and not held, for their size.
    without_images : int
        Committed records that hold no text.
    failures : tuple of FailureGroup
        The most frequent kind first.
    """

    dataset: str
    committed: Amount
    staged: Amount
    failed: dict[str, int]
    to_do: int | None
    catalogue: str | None
    running: str | None
    commits: int
    left_out: LeftOut
    without_images: int = 0
    arrays: tuple[Cost, ...] = ()
    tables: tuple[Cost, ...] = ()
    failures: tuple[FailureGroup, ...] = field(default=())


def read_status(dataset: str | Storage, catalogue: str | None = None) -> Status:
    """Look at a dataset without changing it.

    What is left to do is told by the catalogue, by default the one that was built last. Raises
    `UsageError` if there is no dataset, nor the beginning of one.
    """
    storage = Storage.open(dataset)
    info = check_target(storage)
    # An import has no log, but it may have been interrupted with records staged.
    if info is None and not storage.exists(LOG) and not storage.list(STAGING):
        raise UsageError(
            f"{storage.url} holds no dataset; make one with 'zml-dask build CATALOGUE "
            f"{storage.url}'"
        )
    ledger = load_ledger(storage, info)
    info = info or DatasetInfo()
    groups = failure_groups(FailureRow(**row) for row in ledger.failures.to_pylist())
    chosen = _last_choice(storage) if catalogue is None else {"catalogue": catalogue}
    counts = info.counts
    snapshot = Snapshot.open(storage) if info.commits else None
    return Status(
        storage.url,
        Amount(counts.records, counts.files, counts.images),
        _staged(ledger),
        {group.kind: group.records for group in groups},
        _to_do(ledger, chosen, strict=catalogue is not None),
        chosen.get("catalogue"),
        holder(storage),
        len(info.commits),
        LeftOut() if snapshot is None else snapshot.left_out(),
        0 if snapshot is None else snapshot.records_without_images(),
        tuple(array_costs(storage, info)),
        tuple(table_costs(storage, info)),
        tuple(groups),
    )


def failure_groups(rows: Iterable[FailureRow]) -> list[FailureGroup]:
    """Group failures by kind, the most frequent first."""
    by_kind: dict[str, list[FailureRow]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    groups = [
        FailureGroup(
            kind,
            len(found),
            sum(row.permanent for row in found),
            advice_for(kind, permanent=all(row.permanent for row in found)),
            tuple(_examples(found)),
        )
        for kind, found in by_kind.items()
    ]
    return sorted(groups, key=lambda group: (-group.records, group.kind))


def _examples(rows: list[FailureRow]) -> list[FailureRow]:
    """Return a few failures, of different messages where there are such."""
    first: dict[str, FailureRow] = {}
    for row in rows:
        first.setdefault(row.message, row)
    return list(first.values())[:_EXAMPLES]


def _staged(ledger: Ledger) -> Amount:
    index = ledger.index
    new = ~np.isin(index.record_id, ledger.committed)
    return Amount(int(new.sum()), int(index.n_files[new].sum()), int(index.n_images[new].sum()))


def _to_do(ledger: Ledger, chosen: dict[str, Any], *, strict: bool) -> int | None:
    if not chosen:
        return None
    try:
        with temporary_folder("status") as folder:
            catalogue = Catalogue.open(chosen["catalogue"], into=folder / "catalogue.jsonl")
            if chosen.get("where"):
                catalogue = catalogue.where(chosen["where"])
            return len(ledger.todo(catalogue.refs))
    except ZmlError:
        if strict:
            raise
        return None  # it was moved or removed since, which is no concern of the dataset


def _last_choice(storage: Storage) -> dict[str, Any]:
    """Return the catalogue of the last build and which of its records were asked for."""
    try:
        lines = storage.read(LOG).splitlines()
    except ObjectMissingError:
        return {}
    for line in reversed(lines):
        if b'"start"' not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a crash
        if isinstance(event, dict) and event.get("event") == "start":
            return event if event.get("catalogue") else {}
    return {}
