"""The legacy (2018) files of a record: ``<id>/images_<id>.pkl``, ``.h5``, ``metadata_<id>.pkl``.

A build writes them from the staged record, and an export from the committed dataset, by the same
function and with the same bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pyarrow.compute as pc

from zml_dask.engine.activity import active, note_done
from zml_dask.errors import UsageError
from zml_dask.legacy.hdf5 import Hdf5Writer
from zml_dask.legacy.legacy_record import LegacyFile, LegacyFormat, LegacyRecord
from zml_dask.legacy.pickles import PickleWriter
from zml_dask.query.describe import Tree, build_tree
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.portions import CountingJob, Portion, cut
from zml_dask.query.selection import Selection, image_lines
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_HDF5_HEAD = 52
_HDF5_VERSION = 8
_HDF5_END = {0: slice(40, 48), 1: slice(44, 52)}
"""Position of the end-of-file address in an HDF5 file, by the version of its superblock (HDF5 File
Format Specification 3.0, II.A): 1 is written now, 0 in earlier versions of zml-dask."""

RECORDS_PER_TASK = 8
_METADATA_PROTOCOL = 3
"""That of 2018, which every Python 3 reads."""

_OF_SELECTION = ".of-selection"
"""An empty object where a selection was exported to: its files look like those of the whole."""


def legacy_record(snapshot: Snapshot, record_id: int) -> LegacyRecord:
    """Return a record, whose images are read when needed.

    `UsageError` if there is none, or it was withdrawn.
    """
    metadata = snapshot.record(record_id, ["metadata"])["metadata"]
    its_own = pc.field("record_id") == record_id
    file_id = snapshot.scan("files", ["file_id"], its_own)["file_id"].to_numpy()
    files = iterate_files(snapshot, Selection.of_files(snapshot, file_id))
    return LegacyRecord(record_id, metadata, map(legacy_file, files))


def legacy_records(
    snapshot: Snapshot, portion: Portion, leave_out: Collection[int] = frozenset()
) -> Iterator[LegacyRecord]:
    """Yield the records of a portion of a view, except those in `leave_out`."""
    rows = portion.records(snapshot, ["record_id", "metadata"])
    metadata = {number: row["metadata"] for number, row in rows.items() if number not in leave_out}
    file_id = portion.files.positions()
    if leave_out:
        owners = snapshot.take("files", file_id, ["record_id"])["record_id"].to_numpy()
        file_id = file_id[~np.isin(owners, [*leave_out])]
    files = iterate_files(snapshot, Selection.of_files(snapshot, file_id))
    for record_id, group in groupby(files, attrgetter("file.record_id")):
        yield LegacyRecord(record_id, metadata.pop(record_id), map(legacy_file, group))
    for record_id, text in sorted(metadata.items()):  # without files
        yield LegacyRecord(record_id, text, ())


def legacy_file(found: FileImages) -> LegacyFile:
    """Return a file for the legacy writers, without images if it is not text."""
    file = found.file
    if file.status not in ("ok", "empty"):
        return LegacyFile(file.path, file.size)
    n_lines = image_lines(file.n_lines, found.segment, found.images.shape[1])
    return LegacyFile(file.path, file.size, found.images, n_lines)


def parse_formats(names: Collection[str]) -> tuple[LegacyFormat, ...]:
    """Check names of formats, as in ``--export pickle,hdf5``; `UsageError` if one is unknown."""
    known = get_args(LegacyFormat)
    for name in names:
        if name not in known:
            raise UsageError(f"there is no 2018 format {name!r}; choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def legacy_paths(
    record_id: int, formats: Collection[LegacyFormat], folder: str = ""
) -> dict[str, str]:
    """Return the paths of a record's files by format; ``metadata`` is always the last.

    Examples
    --------
    >>> legacy_paths(7, ["pickle"], "legacy")
    {'pickle': 'legacy/7/images_7.pkl', 'metadata': 'legacy/7/metadata_7.pkl'}
    """
    names = {
        "pickle": f"images_{record_id}.pkl",
        "hdf5": f"images_{record_id}.h5",
        "tree": f"tree_{record_id}.json",
        "metadata": f"metadata_{record_id}.pkl",
    }
    stem = f"{folder}/{record_id}" if folder else str(record_id)
    return {
        kind: f"{stem}/{name}" for kind, name in names.items() if kind in (*formats, "metadata")
    }


def is_exported(
    storage: Storage, record_id: int, formats: Collection[LegacyFormat], folder: str = "legacy"
) -> bool:
    """Whether all of a record's files exist and are complete, even after a power failure."""
    paths = legacy_paths(record_id, formats, folder)
    return all(_is_whole(storage, name, path) for name, path in paths.items())


def _is_whole(storage: Storage, name: str, path: str) -> bool:
    if not storage.exists(path) or not storage.size(path):
        return False
    if name == "hdf5":
        return _is_whole_hdf5(storage, path)
    return storage.read_tail(path, 1) == (b"\n" if name == "tree" else pickle.STOP)


def _is_whole_hdf5(storage: Storage, path: str) -> bool:
    size = storage.size(path)
    head = storage.read_range(path, 0, min(size, _HDF5_HEAD))
    if len(head) < _HDF5_HEAD or head[_HDF5_VERSION] not in _HDF5_END:
        return False
    return int.from_bytes(head[_HDF5_END[head[_HDF5_VERSION]]], "little") == size


def export_record(
    record: LegacyRecord,
    storage: Storage,
    formats: Collection[LegacyFormat],
    *,
    folder: str = "legacy",
    scratch: Path | None = None,
) -> int:
    """Write a record in the legacy formats, and return the number of its images.

    Only one file's arrays are in memory at a time. The files are made in the local folder
    `scratch` and then published in `folder` of `storage`, the metadata last.
    """
    paths = legacy_paths(record.record_id, formats, folder)
    sizes: list[tuple[str, int | None]] = []
    n_images = 0
    with tempfile.TemporaryDirectory(dir=scratch, prefix="legacy-") as made:
        local = {name: Path(made) / Path(path).name for name, path in paths.items()}
        with ExitStack() as stack:
            writers: list[PickleWriter | Hdf5Writer] = []
            if "pickle" in paths:
                writers.append(stack.enter_context(PickleWriter(local["pickle"])))
            if "hdf5" in paths:
                writers.append(stack.enter_context(Hdf5Writer(local["hdf5"])))
            for file in record.files:
                sizes.append((file.path, file.size))
                n_images += 0 if file.images is None else len(file.images)
                for open_writer in writers:
                    open_writer.add(file)
        tree = build_tree(sizes)
        if "tree" in paths:
            text = json.dumps(tree, separators=(",", ":"))
            local["tree"].write_text(f"{text}\n", encoding="ascii")
        local["metadata"].write_bytes(metadata_pickle(tree, record.metadata))
        for name, path in paths.items():
            # Not durable: a sync would take longer than everything else, and an incomplete file
            # is recognised and made again.
            storage.publish(local[name], path, durable=False)
    return n_images


def metadata_pickle(tree: Tree, metadata: str | None) -> bytes:
    """Pickle ``{"tree": tree, "hit": hit}``; the bytes depend only on the content."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, _METADATA_PROTOCOL)
    # With a memo, the bytes would depend on which equal strings are the same object.
    pickler.fast = True
    pickler.dump({"tree": tree, "hit": None if metadata is None else json.loads(metadata)})
    return stream.getvalue()


@dataclass(frozen=True)
class ExportLegacy(CountingJob):
    """Writes ``TARGET/<id>/...`` for every record of a view.

    With `keep`, for a whole dataset, records whose files exist are skipped, so that an interrupted
    export can be continued. All are written for a selection, and where one was ever exported to:
    existing files may be those of another selection.
    """

    formats: tuple[LegacyFormat, ...] = ()
    scratch: Path | None = None
    keep: bool = False

    @classmethod
    def of(
        cls,
        view: Dataset,
        target: Storage,
        formats: Collection[LegacyFormat],
        scratch: Path | None = None,
    ) -> ExportLegacy:
        """Plan an export of a view of whole files."""
        portions = tuple(cut(view, records=RECORDS_PER_TASK))
        if not view.is_unselected:
            target.write(_OF_SELECTION, b"")
        keep = view.is_unselected and not target.exists(_OF_SELECTION)
        return cls(view.snapshot, target, portions, tuple(formats), scratch, keep)

    def run(self, task: Portion, context: None) -> Counter[str]:
        """Write the files of some records."""
        done = {
            number
            for number in task.record_ids
            if self.keep and is_exported(self.target, number, self.formats, "")
        }
        images = 0
        for record in legacy_records(self.snapshot, task, leave_out=done):
            with active(record.record_id):
                images += export_record(
                    record, self.target, self.formats, folder="", scratch=self.scratch
                )
            note_done(record.record_id)
        written = len(task.record_ids) - len(done)
        return Counter(records=written, already=len(done), images=images)
