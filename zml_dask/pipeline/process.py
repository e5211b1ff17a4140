"""One record from its catalogue entry to staging: plain functions, no Dask."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from zml_dask.errors import RecordError, ZmlError
from zml_dask.fetch.origins import FetchedRecord, FetchOptions, open_record
from zml_dask.net.client import HttpClient
from zml_dask.pipeline.errors import UnknownRecordError
from zml_dask.pipeline.options import BuildOptions
from zml_dask.pipeline.outcome import Outcome, Timings, failure_row
from zml_dask.pipeline.reading import read_into
from zml_dask.pipeline.record_row import record_row
from zml_dask.pipeline.workbench import Source, Workbench, workbench
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.record import Record
from zml_dask.records.refs import RecordRef
from zml_dask.store.staging import stage_failure
from zml_dask.store.staging.frames import BLOB_TRAILER_BYTES, BlobTrailer, StagingDamagedError
from zml_dask.store.staging.staged import StagedLocation, read_staged
from zml_dask.store.staging.stager import STAGED_RECORDS, RecordStager
from zml_dask.store.storage import ObjectMissingError, Storage, StorageError


class FetchAttempt:
    """The fetching of one record: its archives, or why there are none.

    Parameters
    ----------
    record : Record
    bench : Workbench
    """

    def __init__(self, record: Record, bench: Workbench) -> None:
        self.record = record
        self.fetched: FetchedRecord | None = None
        self.error: Exception | None = None
        self._stack = ExitStack()
        options = bench.options
        started = time.perf_counter()
        try:
            fetch_options = FetchOptions(
                limits=options.limits,
                github_url=options.github_url,
                cache=options.cache,
                offline=options.offline,
                trusted=bench.trusted,
            )
            self.fetched = self._stack.enter_context(
                open_record(record, bench.client, bench.scratch, fetch_options)
            )
        except RecordError as error:
            self.error = error
        except ZmlError:
            self._stack.close()
            raise  # the cluster or a setting of ours failed, not the record
        except Exception as error:  # noqa: BLE001 - becomes the record's row; the build goes on
            self.error = error
        self.seconds = time.perf_counter() - started

    def close(self) -> None:
        """Remove what was fetched."""
        self._stack.close()


def is_staged(storage: Storage, record_id: int) -> bool:
    """Whether a record is staged on its own, and whole: a power cut may tear what was written."""
    path = f"{STAGED_RECORDS}/{record_id}"
    try:
        BlobTrailer.from_bytes(storage.read_tail(path, BLOB_TRAILER_BYTES), path)
    except (ObjectMissingError, StagingDamagedError):
        return False
    return True


def process(
    record: Record | RecordRef | int,
    dataset: str | Path | Storage,
    *,
    catalogue: str | Path | Catalogue | Source | None = None,
    options: BuildOptions | None = None,
    client: HttpClient | None = None,
) -> Outcome:
    """Build one record into the dataset's staging. What goes wrong with it is its outcome.

    Parameters
    ----------
    record : Record, RecordRef or int
        A record, or where it is in `catalogue`, or its number there.
    dataset : str, path or Storage
        The dataset's folder or URL.
    catalogue : path, Catalogue or Source, optional
        Where references and numbers are looked up. Finding a number reads the
        whole catalogue: pass references where there are many.
    options : BuildOptions, optional
    client : HttpClient, optional
        Shared between calls, it keeps its connections and its throttle.

    Returns
    -------
    Outcome

    Raises
    ------
    UnknownRecordError
        If the catalogue holds no such record.
    StorageError
        If the dataset cannot be written: no fault of the record.

    Examples
    --------
    >>> import tempfile
    >>> from zml_dask import parse_record
    >>> nothing = parse_record({"id": 7, "metadata": {"title": "No files"}, "files": []})
    >>> outcome = process(nothing, tempfile.mkdtemp())
    >>> outcome.status, outcome.failure.kind
    ('failed', 'no_files')
    """
    storage = Storage.open(dataset)
    options = options or BuildOptions()
    source = _source(catalogue, options)
    if is_staged(storage, record if isinstance(record, int) else record.record_id):
        return Outcome(record if isinstance(record, int) else record.record_id, "already")
    if not isinstance(record, Record):
        record = _look_up(record, catalogue, source)
    with workbench(storage, options, source, client=client) as bench:
        return process_fetched(FetchAttempt(record, bench), bench)


def process_fetched(attempt: FetchAttempt, bench: Workbench, *, attempts: int = 1) -> Outcome:
    """Read what was fetched of a record and stage it, or stage its failure.

    Parameters
    ----------
    attempt : FetchAttempt
        Closed when this returns or raises.
    bench : Workbench
    attempts : int
        How often the record was tried, this time included.

    Raises
    ------
    StorageError
        If the dataset cannot be written.
    """
    record_id = attempt.record.record_id
    try:
        if attempt.fetched is None:
            error = attempt.error or RuntimeError("nothing was fetched, and no reason given")
            return record_failure(record_id, error, bench, attempts, Timings(attempt.seconds))
        return _stage(attempt, attempt.fetched, bench, attempts)
    finally:
        attempt.close()


def _stage(
    attempt: FetchAttempt, fetched: FetchedRecord, bench: Workbench, attempts: int
) -> Outcome:
    """Read the fetched archives into staging."""
    record, options = attempt.record, bench.options
    row = record_row(record, fetched)
    # An export reads what is staged before anyone else may see it: a record
    # that counts as staged has its export, whenever the worker dies.
    hidden = bench.scratch / f"staged-{record.record_id}"
    target = Storage.open(hidden) if options.export else bench.storage
    timings = Timings(attempt.seconds)
    started = time.perf_counter()
    try:
        with RecordStager(bench.scratch, record.record_id, options.shape) as stager:
            read_into(fetched.members(), stager, options)
            timings = replace(timings, read=time.perf_counter() - started)
            started = time.perf_counter()
            staged = stager.finish(target, row)
        if options.export:
            export_staged(record.record_id, target, bench)
    except StorageError:
        raise  # the dataset's storage failed, not the record
    except Exception as error:  # noqa: BLE001 - becomes the record's row; the build goes on
        return record_failure(record.record_id, error, bench, attempts, timings)
    return Outcome(
        record.record_id,
        "staged",
        staged.n_files,
        staged.n_images,
        row["archive_bytes"],
        replace(timings, stage=time.perf_counter() - started),
        fetched.origin,
    )


def export_staged(record_id: int, target: Storage, bench: Workbench) -> None:
    """Write the first edition's files of a record staged in scratch, then publish the record."""
    # Imported here: most builds export nothing, and h5py takes its time.
    from zml_dask.legacy.export import export_record, parse_formats
    from zml_dask.legacy.staged import staged_record

    path = f"{STAGED_RECORDS}/{record_id}"
    staged = read_staged(target, StagedLocation(path, 0, target.size(path)))
    formats = parse_formats(bench.options.export)
    export_record(staged_record(staged), bench.storage, formats, scratch=bench.scratch)
    bench.storage.publish(Path(target.url, path), path)


def record_failure(
    record_id: int, error: Exception, bench: Workbench, attempts: int, timings: Timings
) -> Outcome:
    """Stage the failure of a record and return it as an outcome.

    Parameters
    ----------
    record_id : int
    error : Exception
    bench : Workbench
    attempts : int
        How often the record was tried, this time included.
    timings : Timings

    Raises
    ------
    StorageError
        If the dataset cannot be written.
    """
    row = failure_row(record_id, error, attempts)
    stage_failure(bench.storage, row)
    return Outcome(record_id, "failed", timings=timings, failure=row)


def _source(
    catalogue: str | Path | Catalogue | Source | None, options: BuildOptions
) -> Source | None:
    if isinstance(catalogue, Catalogue):
        return Source.of(catalogue)
    if catalogue is None or isinstance(catalogue, Source):
        return catalogue
    return Source.of(Catalogue.open(catalogue, api_url=options.api_url))


def _look_up(
    record: RecordRef | int,
    catalogue: str | Path | Catalogue | Source | None,
    source: Source | None,
) -> Record:
    """Read a record from the catalogue."""
    number = record if isinstance(record, int) else record.record_id
    if source is None:
        raise UnknownRecordError(f"record {number}: name the catalogue that it is in")
    if isinstance(record, RecordRef):
        return source.read(record)
    opened = catalogue if isinstance(catalogue, Catalogue) else Catalogue.open(source.path)
    ref = opened.refs.find(record)
    if ref is None:
        raise UnknownRecordError(f"record {number} is not in the catalogue {source.path}")
    return source.read(ref)
