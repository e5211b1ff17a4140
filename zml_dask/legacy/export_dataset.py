"""A committed dataset in the 2018 formats, record by record over a Dask bag."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from zml_dask.legacy.bags import Compute, in_this_process, map_partitions
from zml_dask.legacy.committed import CommittedRecords
from zml_dask.legacy.export import export_record, is_exported
from zml_dask.legacy.record import LegacyFormat
from zml_dask.store.storage import Storage

Progress: TypeAlias = Callable[[int, int], None]

_PARTITION = 8


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes
    ----------
    records : int
        Written now.
    already : int
        Records whose files were all there.
    images : int
        Of the records written now.
    """

    records: int
    already: int
    images: int


def export_dataset(
    dataset: str | Path | Storage,
    target: str | Path | Storage,
    formats: Collection[LegacyFormat],
    *,
    scratch: Path | None = None,
    compute: Compute = in_this_process,
    progress: Progress | None = None,
) -> ExportResult:
    """Write ``TARGET/<id>/...`` for every record of a dataset.

    A record whose files are there already is passed over, so that an export
    that was cut short goes on where it stopped.

    Parameters
    ----------
    dataset : str, path or Storage
    target : str, path or Storage
        A folder or any fsspec URL.
    formats : collection of {"pickle", "hdf5", "tree"}
    scratch : pathlib.Path, optional
        A local folder for files under way.
    compute : callable
        Computes a Dask bag; its workers must see both places.
    progress : callable, optional
        Told records done and records to do.

    Returns
    -------
    ExportResult
    """
    committed, place = CommittedRecords.open(dataset), Storage.open(target)
    task = _Partition(committed, place, tuple(formats), scratch)
    record_ids = committed.record_ids()
    written = images = done = 0
    for counts in map_partitions(task, record_ids, _PARTITION, compute):
        new = [count for count in counts if count is not None]
        written, images, done = written + len(new), images + sum(new), done + len(counts)
        if progress is not None:
            progress(done, len(record_ids))
    return ExportResult(written, len(record_ids) - written, images)


@dataclass(frozen=True, slots=True)
class _Partition:
    """Exports the records of one partition; gives the images of each, None for one passed over."""

    committed: CommittedRecords
    target: Storage
    formats: tuple[LegacyFormat, ...]
    scratch: Path | None

    def __call__(self, record_ids: Iterable[int]) -> list[int | None]:
        numbers = list(record_ids)
        missing = [
            number for number in numbers if not is_exported(self.target, number, self.formats, "")
        ]
        written = [
            export_record(record, self.target, self.formats, folder="", scratch=self.scratch)
            for record in self.committed.records(missing)
        ]
        return [*written, *[None] * (len(numbers) - len(missing))]
