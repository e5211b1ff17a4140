"""A view saved as a dataset of its own: staged from what is committed, and committed as a build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zml_dask.arguments import checked
from zml_dask.engine.activity import active, check_staying, worker_folder
from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Executor, TaskReport, run_job
from zml_dask.engine.lock import dataset_lock
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.engine.temporary import temporary_folder
from zml_dask.errors import UsageError
from zml_dask.query.file_images import FileImages
from zml_dask.query.portions import Portion, PortionJob, check_whole_files, cut, fingerprint
from zml_dask.store.commit import CommitOptions, CommitStaged, software_versions
from zml_dask.store.info import DatasetInfo, ensure_ours, read_info
from zml_dask.store.layout import STAGING
from zml_dask.store.staging import RecordStager, StagedFile, StagedRecord, pack_records
from zml_dask.store.staging.packs import STAGED_PACKS
from zml_dask.store.storage import Storage

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_MARK = f"{STAGING}/saving"
"""Names the view that is being saved, while it is."""

_COLUMNS = tuple(column.name for column in fields(StagedFile))


@dataclass(frozen=True)
class SaveView(PortionJob[list[StagedRecord], int]):
    """Stages the records of a view in another dataset.

    `key` identifies the view, in the names of what is staged; `scratch` is a local folder.
    """

    key: str = ""
    scratch: Path | None = None

    def plan(self, workers: int) -> list[Portion]:
        """Leave out the portions that are staged."""
        staged = {path.rpartition("-")[0] for path in self.target.list(STAGED_PACKS)}
        return [each for each in self.portions if self._pack(each) not in staged]

    def run(self, task: Portion, context: None) -> list[StagedRecord]:
        """Stage a portion's records and pack them."""
        rows = task.records(self.snapshot)
        staged = []
        with temporary_folder("save", self.scratch or worker_folder()) as scratch:
            for record_id, files in task.read(self.snapshot):
                staged.append(self._stage(rows.pop(record_id), files, scratch))
            staged += [self._stage(row, (), scratch) for row in rows.values()]
            pack = self._pack(task).rpartition("/")[2]
            pack_records(self.target, pack, task.record_ids, scratch=scratch)
        return staged

    def _stage(
        self, row: dict[str, Any], files: Iterable[FileImages], scratch: Path
    ) -> StagedRecord:
        check_staying()
        record_id = row["record_id"]
        with (
            active(record_id),
            RecordStager(scratch, record_id, self.snapshot.info.shape) as stager,
        ):
            for each in files:
                file = StagedFile(**{name: getattr(each.file, name) for name in _COLUMNS})
                # The text of the images, without what they do not show.
                text = each.text.encode("utf-8", "surrogatepass") if len(each.images) else None
                stager.add(file, text)
            return stager.finish(self.target, row)

    def _pack(self, portion: Portion) -> str:
        return f"{STAGED_PACKS}/save-{self.key}-{portion.number:06d}"

    def finish(self, results: Iterator[list[StagedRecord]]) -> int:
        """Count what was staged."""
        return sum(len(result) for result in results)

    def report(self, result: list[StagedRecord]) -> TaskReport:
        """Count records, files and images."""
        return TaskReport(
            done=len(result),
            n_files=sum(each.n_files for each in result),
            n_images=sum(each.n_images for each in result),
        )


@checked
def save_view(
    view: Dataset,
    target: str | Path | Storage,
    *,
    scratch: Path | None = None,
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> DatasetInfo:
    """Write a view as a dataset of its own; see `zml_dask.query.dataset.Dataset.save`."""
    storage = Storage.open(target)
    if storage.url == view.url:
        raise UsageError(f"{storage.url} is the dataset itself; give another folder to save into")
    check_whole_files(view, "a dataset")
    executor, progress = executor or SerialExecutor(), progress or SilentProgress()
    key = fingerprint(view)
    origin = {
        "url": view.url,
        "about": view.info.options.get("about") or {},
        "where": _condition(view),
        "generation": view.info.generation,
        **view.counted,
        "fingerprint": key,
    }
    with dataset_lock(storage, on_wait=progress.say) as lock:
        ensure_ours(storage)
        info = read_info(storage)
        if info is not None:
            if info.options.get("saved_from") == origin:
                return info
            raise UsageError(
                f"{storage.url} holds another dataset already; give a new folder to save into"
            )
        _begin(storage, key)
        portions = tuple(cut(view))
        job = SaveView(view.snapshot, storage, portions, key, scratch)
        run_job(job, executor, lock=lock, progress=progress)

        notes = CommitOptions(
            shape=view.info.shape,
            level=view.info.arrays[0].level,
            # Title and DOI are those of the whole dataset.
            options={**view.info.options, "about": {}, "saved_from": origin},
            software=software_versions(),
        )
        info = run_job(CommitStaged(storage, notes), executor, lock=lock, progress=progress)
        storage.remove([_MARK])
        storage.prune(STAGING)
        return info


def _condition(view: Dataset) -> str | None:
    """Return the view's conditions as SQL; None if it was made by more than conditions."""
    if view.base is not None:
        return None
    return " AND ".join(f"({condition.text})" for condition in view.conditions) or "true"


def _begin(storage: Storage, key: str) -> None:
    """Continue saving this view; remove what saving another one has left."""
    left = storage.list(STAGING)
    if left and not storage.exists(_MARK):
        raise UsageError(
            f"{storage.url} holds records that a build has staged; give a new folder to save into"
        )
    if left and storage.read(_MARK) != key.encode():
        storage.remove([path for path in left if path != _MARK])
    storage.write(_MARK, key.encode())
