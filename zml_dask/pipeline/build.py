"""The build: stage the catalogue's records that a dataset lacks, and commit them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import distributed
import numpy as np
from distributed.deploy import Cluster

from zml_dask.arguments import checked
from zml_dask.decoding import decode
from zml_dask.engine.clusters import check_client, open_cluster, use_client
from zml_dask.engine.executors import DaskExecutor
from zml_dask.engine.job import Executor, OpenExecutor, run_job
from zml_dask.engine.lock import DatasetLock, dataset_lock
from zml_dask.engine.log import BuildLog, build_log
from zml_dask.engine.progress import BuildProgress, SilentProgress
from zml_dask.errors import DatasetDamagedError, UsageError
from zml_dask.fetch.member import FetchLimits
from zml_dask.pipeline.build_options import About, BuildOptions, memory_warning
from zml_dask.pipeline.inputs import (
    Records,
    check_target,
    name_of,
    open_records,
    publish_to_workers,
    remove_published,
)
from zml_dask.pipeline.ledger import Ledger, load_ledger, remove_damaged
from zml_dask.pipeline.outcome import BuildResult
from zml_dask.pipeline.stage import Staged, StageRecords
from zml_dask.records.catalogue import Catalogue, RefTable
from zml_dask.records.journal import HarvestState
from zml_dask.store.commit import CommitOptions, CommitStaged, software_versions
from zml_dask.store.commit.plan import check_shape
from zml_dask.store.info import DatasetInfo, replace_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.snapshot import Snapshot
from zml_dask.store.storage import Storage
from zml_dask.store.summary import LeftOut, recorded_limit
from zml_dask.text_safety import number_of

OpenClient: TypeAlias = Callable[[], AbstractContextManager[distributed.Client]]
"""Opens a cluster when there is something for it to do."""


@checked
def build(
    records: Records,
    dataset: str | Path | Storage,
    *,
    client: distributed.Client | Cluster | str | None = None,
    options: BuildOptions | None = None,
    progress: BuildProgress | None = None,
) -> BuildResult:
    """Build the records that `dataset` lacks, and commit them.

    An interrupted build can be resumed by the same call, which does nothing if nothing
    is left to do.

    Parameters
    ----------
    records : path, Catalogue or iterable of Record
        A catalogue (JSON Lines, or ``records.pkl`` of 2018), or records.
    dataset : str, path or Storage
        Folder or fsspec URL; created if it does not exist.
    client : distributed.Client, distributed cluster or str, optional
        A client of any Dask cluster, the cluster itself, or its address. Default: a
        temporary cluster on this machine.
    options : BuildOptions, optional
    progress : BuildProgress, optional
        Receives messages and counts; by default they are dropped.

    Returns
    -------
    BuildResult

    Raises
    ------
    UsageError
        If the catalogue, the dataset or the client is invalid, or the dataset has images of
        another size.
    ZmlError
        If another build of the dataset is running.
    ClusterError, StorageError
        If the cluster or the storage fails; staged records are kept.
    """
    if client is not None:
        check_client(client)
    open_client = open_cluster if client is None else partial(use_client, client)
    return build_on(records, dataset, on_cluster(open_client), options=options, progress=progress)


def on_cluster(open_client: OpenClient) -> OpenExecutor:
    """Return a function that opens an executor on the cluster that `open_client` opens."""

    @contextmanager
    def opened() -> Iterator[Executor]:
        with open_client() as client:
            yield DaskExecutor(client)

    return opened


def build_on(
    records: Records,
    dataset: str | Path | Storage,
    open_executor: OpenExecutor,
    *,
    options: BuildOptions | None = None,
    limit: int | None = None,
    where: str | None = None,
    progress: BuildProgress | None = None,
) -> BuildResult:
    """Do as :func:`build` on an executor that is opened only if there is work for it.

    Only the first `limit` records of the catalogue, by id, are looked at (the same call with the
    same limit finds nothing left to do), and those that the SQL condition `where` over the
    catalogue is true for.
    """
    started = time.monotonic()
    options = options or BuildOptions()
    progress = progress or SilentProgress()
    storage = Storage.open(dataset)
    with open_records(records, options, where=where) as catalogue:
        check_target(storage)
        with dataset_lock(storage, on_wait=progress.say) as lock, build_log(storage) as log:
            # Read again now that nobody else can change it.
            info = check_target(storage)
            options = _as_built(info, options, progress)
            named = name_of(records)
            catalogue = publish_to_workers(catalogue, storage)
            run = _Run(storage, catalogue, named, where, options, lock, log, progress)
            try:
                result = _build_and_commit(run, info, open_executor, limit)
            except DatasetDamagedError as error:
                removed = remove_damaged(storage)
                if not removed:
                    raise
                progress.say(
                    f"{error}; {len(removed):,} damaged objects, such as {removed[0]}, are "
                    "removed from staging, and their records built again"
                )
                result = _build_and_commit(run, check_target(storage), open_executor, limit)
    return replace(result, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Run:
    """What all steps of a build share."""

    storage: Storage
    catalogue: Catalogue
    named: str | None
    where: str | None
    options: BuildOptions
    lock: DatasetLock
    log: BuildLog
    progress: BuildProgress


def _build_and_commit(
    run: _Run, info: DatasetInfo | None, open_executor: OpenExecutor, limit: int | None
) -> BuildResult:
    # What could not be committed is found before anything is downloaded.
    ledger = load_ledger(run.storage, info, shape=run.options.image)
    refs = run.catalogue.refs if limit is None else run.catalogue.refs[:limit]
    todo = ledger.todo(refs, retry_failed=run.options.retry_failed)
    run.progress.say(_plan_line(refs, ledger, todo))
    if len(todo) and run.named and (info is None or info.harvest is None):
        _warn_of_unfinished_harvest(run, run.named)
    run.log.write(
        "start",
        catalogue=run.named,
        where=run.where,
        todo=len(todo),
        staged=len(ledger.staged),
        options=run.options.recorded(),
        software=software_versions(),
    )
    if not len(todo) and not len(ledger.staged) and not ledger.uncommitted_failures:
        about = run.options.recorded()["about"]
        if info is not None and about != (info.options.get("about") or {}):
            recorded = {**info.options, "about": about}
            info = replace_info(run.storage, info, replace(info, options=recorded))
        run.log.write("end", committed=False)
        return _result(run, info, Staged(), committed=False)
    with open_executor() as executor:
        staged = Staged()
        if len(todo):
            staged = _stage(run, info or DatasetInfo(), executor, todo, ledger)
        commit = CommitStaged(
            run.storage,
            CommitOptions(
                run.options.image,
                run.options.level,
                run.options.recorded(),
                software_versions(),
                _recorded_harvest(run.catalogue.harvest),
            ),
            staged.record_ids,
        )
        info = run_job(commit, executor, lock=run.lock, progress=run.progress)
        remove_published(run.storage)
    run.log.write("end", committed=True, images=info.counts.images)
    return _result(run, info, staged, committed=True)


def _stage(
    run: _Run, info: DatasetInfo, executor: Executor, todo: RefTable, ledger: Ledger
) -> Staged:
    """Build records into staging."""
    if isinstance(executor, DaskExecutor):
        shard = info.array("images").shard
        warning = memory_warning(run.options, shard, executor.memory_limits)
        if warning is not None:
            run.progress.say(f"warning: {warning}")
    job = StageRecords(run.storage, run.options, todo, ledger, run.catalogue)
    return run_job(job, executor, lock=run.lock, log=run.log, progress=run.progress)


def _as_built(
    info: DatasetInfo | None, options: BuildOptions, progress: BuildProgress
) -> BuildOptions:
    """Return the options with the dataset's own image size, size limit and title."""
    if info is None:
        return options
    if options.image != ImageShape():  # the user named a size
        check_shape(info, options.image)
    level = info.arrays[0].level
    if options.level not in (None, level):
        raise UsageError(
            f"the dataset is compressed at level {level}; what is appended is too. Rewrite it with "
            f"'zml-dask repack DATASET --level {options.level}'"
        )
    before, now = recorded_limit(info.options), options.limits.max_file_bytes
    limits = options.limits
    if now == FetchLimits().max_file_bytes:  # the user named none
        limits = replace(limits, max_file_bytes=before)
    elif now != before and info.counts.records:
        progress.say(
            f"note: files of up to {now:,} bytes are read of new records only; of the "
            f"{info.counts.records:,} that are committed, of up to {before:,}"
        )
    about = options.about
    if about == About():  # the user named none
        about = decode(info.options.get("about") or {}, About)
    return replace(options, image=info.shape, limits=limits, about=about)


def _plan_line(refs: RefTable, ledger: Ledger, todo: RefTable) -> str:
    """Return a line about what is done and what is left to do."""
    committed, staged, failed = (
        int(np.isin(refs.record_ids, ids).sum())
        for ids in (ledger.committed, ledger.staged, ledger.failed_permanently)
    )
    words = [f"{number_of(record=len(refs))} in the catalogue"]
    words += [f"{committed:,} committed"] if committed else []
    words += [f"{staged:,} staged"] if staged else []
    words += [f"{failed:,} failed permanently"] if failed else []
    words.append(f"{len(todo):,} to build" if len(todo) else "none to build")
    return ", ".join(words)


def _result(run: _Run, info: DatasetInfo | None, staged: Staged, *, committed: bool) -> BuildResult:
    counts = (info or DatasetInfo()).counts
    return BuildResult(
        run.storage.url,
        len(staged.record_ids),
        staged.failures.total(),
        dict(sorted(staged.failures.items())),
        counts.records,
        counts.files,
        counts.images,
        LeftOut() if info is None else Snapshot.open(run.storage).left_out(),
        committed,
    )


def _warn_of_unfinished_harvest(run: _Run, catalogue: str) -> None:
    """Warn of what the dataset will lack if the harvest that wrote its catalogue is not finished.

    Of another catalogue, such as one that was written by hand, nobody expects it.
    """
    harvest = run.catalogue.harvest
    if harvest is not None and _recorded_harvest(harvest) is None:
        run.progress.say(
            f"note: the harvest of {catalogue} is not finished, so {run.storage.url} will not "
            "record what was harvested and when: its citation lacks the date, and 'zml-dask "
            "update' cannot add what is new"
        )


def _recorded_harvest(harvest: HarvestState | None) -> Mapping[str, Any] | None:
    """Return what ``dataset.json`` keeps of a harvest; None where there was no real one."""
    if harvest is None or harvest.complete_until is None:
        return None
    return {**asdict(harvest.options), "complete_until": harvest.complete_until}
