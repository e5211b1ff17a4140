"""The build: what a catalogue names and a dataset lacks is built by a cluster and committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TypeAlias

import distributed
import numpy as np

from zml_dask.engine.clusters import open_cluster
from zml_dask.pipeline.bag import Condemned, LiveCounts, live_counts, run_partitions
from zml_dask.pipeline.committing import commit_staged, software_versions
from zml_dask.pipeline.isolation import watch_deaths
from zml_dask.pipeline.ledger import Ledger, load_ledger, staged_outcomes
from zml_dask.pipeline.lock import DatasetLock, dataset_lock
from zml_dask.pipeline.log import BuildLog, build_log
from zml_dask.pipeline.memory import memory_need, memory_warning
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.outcome import Outcome, failure_row
from zml_dask.pipeline.partition import Job, PartitionResult
from zml_dask.pipeline.partitioning import plan_partitions
from zml_dask.pipeline.progress import BuildProgress, Counts, SilentProgress
from zml_dask.pipeline.result import BuildResult, Tally
from zml_dask.pipeline.sources import Records, is_made_here, open_records, remove_shared, shared
from zml_dask.pipeline.target import check_target
from zml_dask.pipeline.throttle import throttle_waiting
from zml_dask.pipeline.workbench import Source
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.refs import RefTable
from zml_dask.store.commit.planning import check_shape
from zml_dask.store.info import DatasetInfo
from zml_dask.store.layout import ImageShape
from zml_dask.store.staging import stage_failure
from zml_dask.store.storage import Storage
from zml_dask.text_safety import escape_text

OpenClient: TypeAlias = Callable[[], AbstractContextManager[distributed.Client]]
"""Opens a cluster when there is something for it to do."""

_TICK = 1.0
"""Seconds between two looks at how far the workers are."""


def build(
    records: Records,
    dataset: str | Path | Storage,
    *,
    client: distributed.Client | None = None,
    options: BuildOptions | None = None,
    progress: BuildProgress | None = None,
) -> BuildResult:
    """Build what `records` names and `dataset` lacks, and commit it.

    May be interrupted at any moment; the same call goes on where it stopped, and
    does nothing where there is nothing left to do.

    Parameters
    ----------
    records : path, Catalogue or iterable of Record
        A catalogue (JSON Lines, or ``records.pkl`` of 2018), or records.
    dataset : str, path or Storage
        Folder or fsspec URL; made where it does not exist.
    client : distributed.Client, optional
        Of any Dask cluster. Default: one on this machine for the time being.
    options : BuildOptions, optional
    progress : BuildProgress, optional
        Told of everything; by default nobody is.

    Returns
    -------
    BuildResult

    Raises
    ------
    UsageError
        If the catalogue or the dataset is not what it should be, or images of
        another size are in it.
    LockedError
        If another build of the dataset is at work.
    BuildError, StorageError
        If the cluster or the storage fails; what is staged is kept.
    """
    open_client: OpenClient = open_cluster if client is None else lambda: nullcontext(client)
    return build_on(records, dataset, open_client, options=options, progress=progress)


def build_on(
    records: Records,
    dataset: str | Path | Storage,
    open_client: OpenClient,
    *,
    options: BuildOptions | None = None,
    limit: int | None = None,
    where: str | None = None,
    progress: BuildProgress | None = None,
) -> BuildResult:
    """Do as :func:`build` on a cluster that is opened only if there is work for it.

    Parameters
    ----------
    records, dataset, options, progress
        As of :func:`build`.
    open_client : callable
        Returns a context manager that yields a client.
    limit : int, optional
        Look at the first so many records of the catalogue, by id, only: the same
        call with the same limit finds nothing left to do.
    where : str, optional
        Look only at records that this SQL condition over the catalogue is true for.
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
            options = _with_shape_of(info, options)
            named = None if is_made_here(catalogue) else catalogue.path
            catalogue = shared(catalogue, storage)
            run = _Run(storage, catalogue, named, options, lock, log, progress)
            result = _build_and_commit(run, info, open_client, limit)
    return replace(result, seconds=time.monotonic() - started)


@dataclass(frozen=True)
class _Run:
    """What all steps of one build need."""

    storage: Storage
    catalogue: Catalogue
    named: str | None
    options: BuildOptions
    lock: DatasetLock
    log: BuildLog
    progress: BuildProgress


def _build_and_commit(
    run: _Run, info: DatasetInfo | None, open_client: OpenClient, limit: int | None
) -> BuildResult:
    # What could not be committed is found before anything is downloaded.
    ledger = load_ledger(run.storage, info, shape=run.options.shape)
    refs = run.catalogue.refs if limit is None else run.catalogue.refs[:limit]
    todo = ledger.todo(refs, retry_failed=run.options.retry_failed)
    run.progress.say(_plan_line(refs, ledger, todo))
    run.log.write(
        "start",
        catalogue=run.named,
        todo=len(todo),
        staged=len(ledger.staged),
        options=run.options.recorded(),
        software=software_versions(),
    )
    tally = Tally()
    if not len(todo) and not len(ledger.staged) and not ledger.uncommitted_failures:
        run.log.write("end", committed=False)
        return _result(run, info, tally, committed=False)
    with open_client() as client:
        if len(todo):
            _build_records(run, client, todo, ledger, tally)
        run.lock.check()
        info = commit_staged(
            client, run.storage, run.options, run.catalogue.harvest, run.lock, run.progress
        )
        remove_shared(run.storage)
    run.log.write("end", committed=True, images=info.counts.images)
    return _result(run, info, tally, committed=True)


def _build_records(
    run: _Run, client: distributed.Client, todo: RefTable, ledger: Ledger, tally: Tally
) -> None:
    """Build records into staging."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    limits = [worker["memory_limit"] for worker in workers.values()]
    warning = memory_warning(memory_need(run.options), limits)
    if warning is not None:
        run.progress.say(f"warning: {warning}")
    watch_deaths(client)
    partitions = plan_partitions(
        todo, run.options, workers=len(workers), attempts=ledger.attempts()
    )
    job = Job(run.storage, Source.of(run.catalogue), run.options)
    settled = partial(staged_outcomes, run.storage)
    with live_counts(client) as live, _ticking(run, client, live, tally, len(todo)):
        for done in run_partitions(client, partitions, job, settled):
            run.lock.check(max_age=_TICK)
            if isinstance(done, Condemned):
                _note_condemned(run, done, tally)
                continue
            live.finish(done.partition.name)
            _note_result(run, done, tally)
    run.progress.update("records", _counts(tally, len(todo)))


def _note_result(run: _Run, result: PartitionResult, tally: Tally) -> None:
    for outcome in result.outcomes:
        tally.add(outcome)
        _note_outcome(run, outcome, result.worker)


def _note_condemned(run: _Run, condemned: Condemned, tally: Tally) -> None:
    row = failure_row(condemned.record_id, condemned.error, condemned.attempts)
    stage_failure(run.storage, row)
    outcome = Outcome(condemned.record_id, "failed", failure=row)
    tally.add(outcome)
    _note_outcome(run, outcome, None)


def _note_outcome(run: _Run, outcome: Outcome, worker: str | None) -> None:
    run.log.write("record", worker=worker, **outcome.to_json())
    if outcome.failure is not None:
        # A server's or an archive's own words may be in it.
        message = escape_text(outcome.failure.message)
        run.progress.say(f"record {outcome.record_id} failed: {outcome.failure.kind}: {message}")


@contextmanager
def _ticking(
    run: _Run, client: distributed.Client, live: LiveCounts, tally: Tally, total: int
) -> Iterator[None]:
    """Show progress while partitions run, for the result of one may be long in coming."""
    stopped = Event()

    def tick() -> None:
        while not stopped.wait(_TICK):
            try:
                waiting = throttle_waiting(client)
            except OSError:  # the cluster is lost: the build itself is about to say so
                return
            counts = _counts(tally, total)
            done = min(total, counts.done + live.total())
            run.progress.update("records", replace(counts, done=done, waiting=waiting))

    thread = Thread(target=tick, name="zml-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _counts(tally: Tally, total: int) -> Counts:
    return Counts(tally.done, total, tally.n_failed, tally.n_files, tally.n_images)


def _with_shape_of(info: DatasetInfo | None, options: BuildOptions) -> BuildOptions:
    """Return the options with the image size that the dataset has, where it has one."""
    if info is None:
        return options
    if options.shape != ImageShape():  # the user named a size
        check_shape(info, options.shape)
    return replace(options, shape=info.shape)


def _plan_line(refs: RefTable, ledger: Ledger, todo: RefTable) -> str:
    """Say in one line what there is and what is left to do."""
    committed, staged, failed = (
        int(np.isin(refs.record_ids, ids).sum())
        for ids in (ledger.committed, ledger.staged, ledger.failed_for_good)
    )
    words = [f"{len(refs):,} records in the catalogue"]
    words += [f"{committed:,} committed"] if committed else []
    words += [f"{staged:,} staged"] if staged else []
    words += [f"{failed:,} failed for good"] if failed else []
    words.append(f"{len(todo):,} to build" if len(todo) else "none to build")
    return ", ".join(words)


def _result(run: _Run, info: DatasetInfo | None, tally: Tally, *, committed: bool) -> BuildResult:
    counts = (info or DatasetInfo()).counts
    return BuildResult(
        run.storage.url,
        tally.n_staged,
        tally.n_failed,
        dict(sorted(tally.failures.items())),
        counts.records,
        counts.files,
        counts.images,
        committed,
    )
