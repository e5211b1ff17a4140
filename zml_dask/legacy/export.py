"""The legacy (2018) files of a record: ``<id>/images_<id>.pkl``, ``.h5``, ``metadata_<id>.pkl``.

The same function serves a build, which has the staged record at hand, and an
export from the committed dataset; content and bytes are the same.
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from zml_dask.engine.activity import active, note_done
from zml_dask.engine.job import Executor, Report, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError
from zml_dask.legacy.committed import legacy_records
from zml_dask.legacy.hdf5 import Hdf5Writer
from zml_dask.legacy.pickle_writer import PickleWriter
from zml_dask.legacy.record import LegacyFormat, LegacyRecord
from zml_dask.query.portions import Portion, PortionJob, cut
from zml_dask.query.tree import Tree, build_tree
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_HDF5_HEAD = 52
_HDF5_VERSION = 8
_HDF5_END = {0: slice(40, 48), 1: slice(44, 52)}
"""Where an HDF5 file says at what byte it ends, by the version of its superblock (HDF5 File
Format Specification 3.0, II.A): 1 is ours, 0 stood in files exported before it."""

RECORDS_PER_TASK = 8
_METADATA_PROTOCOL = 3
"""As in 2018, and read by every Python 3."""


def parse_formats(names: Collection[str]) -> tuple[LegacyFormat, ...]:
    """Check names of formats, as in ``--export pickle,hdf5``.

    Raises
    ------
    UsageError
        If one is not known.

    Examples
    --------
    >>> parse_formats(["pickle", "hdf5"])
    ('pickle', 'hdf5')
    """
    known = get_args(LegacyFormat)
    for name in names:
        if name not in known:
            raise UsageError(f"no 2018 format is called {name!r}; there are {', '.join(known)}")
    return tuple(name for name in known if name in names)


def legacy_paths(
    record_id: int, formats: Collection[LegacyFormat], folder: str = ""
) -> dict[str, str]:
    """Paths of a record's files by format; ``metadata``, the last one written, is always there.

    Examples
    --------
    >>> legacy_paths(7, ["pickle"], "legacy")
    {'pickle': 'legacy/7/images_7.pkl', 'metadata': 'legacy/7/metadata_7.pkl'}
    """
    names = {
        "pickle": f"images_{record_id}.pkl",
        "hdf5": f"images_{record_id}.h5",
        "tree": f"tree_{record_id}.json",
    }
    stem = f"{folder}/{record_id}" if folder else str(record_id)
    chosen = [name for name in names if name in formats]
    return {
        **{name: f"{stem}/{names[name]}" for name in chosen},
        "metadata": f"{stem}/metadata_{record_id}.pkl",
    }


def is_exported(
    storage: Storage, record_id: int, formats: Collection[LegacyFormat], folder: str = "legacy"
) -> bool:
    """Whether all of a record's files are there and whole; a power cut may tear one.

    Parameters
    ----------
    folder : str
        Within `storage`.
    """
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
    """Write one record in the legacy formats.

    One file's arrays are in memory at a time. The files are made under
    `scratch` and moved into place whole, the metadata last.

    Parameters
    ----------
    storage : Storage
        The dataset, or wherever the files shall go.
    folder : str
        Where in `storage` the record's folder is made.
    scratch : pathlib.Path, optional
        A local folder.

    Returns
    -------
    int
        Images written (to each of the formats that hold images).
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
            local["tree"].write_text(tree_json(tree), encoding="ascii")
        local["metadata"].write_bytes(metadata_pickle(tree, record.metadata))
        for name, path in paths.items():
            # Not durable: waiting for the disk would take longer than all the rest, and
            # a torn file is seen and made again.
            storage.publish(local[name], path, durable=False)
    return n_images


def tree_json(tree: Tree) -> str:
    r"""Return a tree as JSON text, folders as objects and files as their sizes.

    Examples
    --------
    >>> tree_json({"src": {"a.py": 12}})
    '{"src":{"a.py":12}}\n'
    """
    return json.dumps(tree, separators=(",", ":")) + "\n"


def metadata_pickle(tree: Tree, metadata: str | None) -> bytes:
    """Pickle ``{"tree": tree, "hit": hit}``; the bytes depend on the content alone."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, _METADATA_PROTOCOL)
    # A memo would make the bytes depend on which equal strings are one object.
    pickler.fast = True
    pickler.dump({"tree": tree, "hit": None if metadata is None else json.loads(metadata)})
    return stream.getvalue()


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

    records: int = 0
    already: int = 0
    images: int = 0


@dataclass(frozen=True)
class ExportLegacy(PortionJob[ExportResult, ExportResult]):
    """Writes ``TARGET/<id>/...`` for every record of a view.

    Of a whole dataset, a record whose files are there already is left as it is, so that an
    export that was cut short goes on where it stopped. Of a selection all are written: what
    is there may be another one's.

    Attributes
    ----------
    scratch : pathlib.Path or None
        A local folder for files at work.
    keep : bool
        Whether files that are there are right.
    """

    formats: tuple[LegacyFormat, ...] = ()
    scratch: Path | None = None
    keep: bool = False

    def run(self, task: Portion, context: None) -> ExportResult:
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
        return ExportResult(len(task.record_ids) - len(done), len(done), images)

    def finish(self, results: Iterator[ExportResult]) -> ExportResult:
        """Add up what was written."""
        total = ExportResult()
        for each in results:
            total = ExportResult(
                total.records + each.records,
                total.already + each.already,
                total.images + each.images,
            )
        return total

    def report(self, result: ExportResult) -> Report:
        """Count records."""
        return Report(done=result.records + result.already)


def export_dataset(
    dataset: str | Path | Storage | Dataset,
    target: str | Path | Storage,
    formats: Collection[LegacyFormat],
    *,
    scratch: Path | None = None,
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> ExportResult:
    """Write ``TARGET/<id>/...`` for every record of a dataset or view; see `ExportLegacy`.

    Parameters
    ----------
    target : str, path or Storage
        A folder or any fsspec URL.
    scratch : pathlib.Path, optional
        A local folder for files at work.
    executor : Executor, optional
        By default one record after the other in this process; else workers must see both places.
    """
    # Here, for the time they take to import: a build's workers need neither.
    from zml_dask.engine.executors import SerialExecutor
    from zml_dask.query.dataset import Dataset

    view = dataset if isinstance(dataset, Dataset) else Dataset(Snapshot.open(dataset))
    portions = tuple(cut(view, records=RECORDS_PER_TASK))
    target, keep = Storage.open(target), view.is_unselected
    job = ExportLegacy(view.snapshot, target, portions, tuple(formats), scratch, keep)
    return run_job(job, executor or SerialExecutor(), progress=progress)
