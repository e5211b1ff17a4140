"""One record from its catalogue entry to staging: fetched, read, staged. No Dask is needed.

`stage_records` is what a build runs on every worker, and `process` runs it for one record.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import gethostname
from types import MappingProxyType
from typing import Any

from zml_dask.arguments import checked
from zml_dask.engine.activity import active, check_staying, dask_worker
from zml_dask.errors import RecordError, StorageError, UsageError, ZmlError
from zml_dask.fetch.fetched import FetchedRecord, FetchOptions
from zml_dask.fetch.member import Member
from zml_dask.fetch.origins import open_record
from zml_dask.net.client import HttpClient, Token
from zml_dask.net.throttle import LocalThrottle, Throttle
from zml_dask.pipeline.build_options import BuildOptions
from zml_dask.pipeline.outcome import Outcome, Timings, failure_row
from zml_dask.raster.language import HEAD_BYTES, IDENTIFIERS, Identifier
from zml_dask.raster.language import identify as identify_by_rules
from zml_dask.raster.text import BinaryFileError, normalize_text
from zml_dask.records.catalogue import Catalogue, RecordRef
from zml_dask.records.parse import RecordParseError, canonical_json, parse_record
from zml_dask.records.record import Record
from zml_dask.records.spdx import spdx_ids
from zml_dask.store.layout import FileStatus, extension_of
from zml_dask.store.staging import StagedFile, stage_failure
from zml_dask.store.staging.frames import StagedLocation, StagedReader
from zml_dask.store.staging.packs import staged_trailer
from zml_dask.store.staging.stager import STAGED_RECORDS, RecordStager
from zml_dask.store.storage import Storage

_EMPTY = "the file holds no line"

_PROCESS_THROTTLE = LocalThrottle()
"""Shared by all records of a process: a throttle for each would limit nothing."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker holds while it builds records into the dataset's storage.

    The scratch folder is this worker's alone, and removed when it is done.
    """

    storage: Storage
    client: HttpClient
    scratch: Path
    options: BuildOptions
    catalogue: Catalogue

    @property
    def fetch_options(self) -> FetchOptions:
        """The options for fetching."""
        return FetchOptions(
            limits=self.options.limits,
            github_url=self.options.github_url,
            cache=self.options.cache,
            offline=self.options.offline,
            trusted=self.catalogue.trusted,
        )


@contextmanager
def open_context(
    storage: Storage,
    options: BuildOptions,
    catalogue: Catalogue | None = None,
    *,
    client: HttpClient | None = None,
) -> Iterator[WorkerContext]:
    """Open what building records needs, and close it in every case.

    Records come from the catalogue; without one, none is trusted. The default client has the token
    of the options and, in a Dask task, the cluster's throttle. Raises `UsageError` if no scratch
    folder can be made on this machine.
    """
    catalogue = catalogue or Catalogue("")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(_scratch_folder(options.scratch)))
        if client is None:
            token = Token.load(options.token_file, options.api_url or catalogue.token_url)
            client = stack.enter_context(HttpClient(throttle=default_throttle(), token=token))
        yield WorkerContext(storage, client, scratch, options, catalogue)


def _scratch_folder(parent: str | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="zml-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            f"no folder for downloaded archives can be made in {parent or tempfile.gettempdir()!r} "
            f"of {gethostname()}: {error.strerror}; name another with --scratch"
        ) from error


def default_throttle() -> Throttle:
    """Return the throttle of this task's cluster, or that of the process."""
    worker = dask_worker()
    if worker is None:
        return _PROCESS_THROTTLE
    from zml_dask.engine.cluster_throttle import ClusterThrottle

    return ClusterThrottle(worker)


@checked
def process(
    record: Record | RecordRef | int,
    dataset: str | Path | Storage,
    *,
    catalogue: str | Path | Catalogue | None = None,
    options: BuildOptions | None = None,
    client: HttpClient | None = None,
) -> Outcome:
    """Build one record into the dataset's staging; a failed record is a failed outcome, no error.

    Parameters
    ----------
    record : Record, RecordRef or int
        A record, or its reference in `catalogue`, or its id there.
    dataset : str, path or Storage
        The dataset's folder or URL.
    catalogue : path or Catalogue, optional
        Where references and ids are looked up. Finding an id reads the
        whole catalogue, so pass references for many records.
    options : BuildOptions, optional
    client : HttpClient, optional
        Pass the same client to several calls to share its connections and throttle.

    Returns
    -------
    Outcome

    Raises
    ------
    UsageError
        If the catalogue has no such record.
    StorageError
        If the dataset cannot be written; the record is not at fault.

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
    options = replace(options or BuildOptions(), prefetch=0)  # nothing comes after it
    if isinstance(catalogue, str | Path):
        catalogue = Catalogue.open(catalogue, api_url=options.api_url)
    if not isinstance(record, Record):
        number = record if isinstance(record, int) else record.record_id
        if catalogue is None:
            raise UsageError(f"record {number}: name the catalogue that it is in")
        found = catalogue.refs.find(number) if isinstance(record, int) else record
        if found is None:
            raise UsageError(f"record {number} is not in the catalogue {catalogue.path}")
        record = found
    with open_context(storage, options, catalogue, client=client) as context:
        (outcome,) = stage_records([record], context)
    return outcome


def stage_records(
    records: Iterable[Record | RecordRef],
    context: WorkerContext,
    attempts: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[Outcome]:
    """Build records into staging; while one is read, the next is fetched by another thread.

    So neither network nor processor waits for the other. ``context.options.prefetch`` says how many
    are fetched ahead, and `attempts` how often records failed before. Yields the outcome of each
    record in turn. Raises `StorageError` if the dataset cannot be written; what was staged before
    stays.
    """
    ahead: deque[tuple[FetchAttempt, Future[None] | None]] = deque()
    waiting = deque(records)
    with ExitStack() as stack:
        # Left in this order: no fetch may outlive the scratch folder it writes to.
        pool: ThreadPoolExecutor | None = None
        if context.options.prefetch and len(waiting) > 1:
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="zml-fetch"))
        stack.callback(_discard, ahead)
        while waiting or ahead:
            while waiting and len(ahead) <= context.options.prefetch:
                attempt = FetchAttempt(waiting.popleft(), context)
                ahead.append((attempt, None if pool is None else pool.submit(attempt.fetch)))
            attempt, future = ahead.popleft()
            with closing(attempt):
                if future is None:
                    attempt.fetch()
                else:
                    future.result()
                # A worker that leaves would stage what another one builds as well.
                check_staying()
                record_id = attempt.record.record_id
                if attempt.is_staged:
                    outcome = Outcome(record_id, "already")
                else:
                    tried = attempts.get(record_id, 0) + 1
                    outcome = process_fetched(attempt, context, attempts=tried)
            yield outcome


def _discard(ahead: Iterable[tuple[FetchAttempt, Future[None] | None]]) -> None:
    """Discard what was fetched ahead and will not be read."""
    wait([future for _, future in ahead if future is not None and not future.cancel()])
    for attempt, _ in ahead:
        with suppress(Exception):  # the task fails for a reason of its own
            attempt.close()


class FetchAttempt:
    """The fetching of one record: its archives, or why there are none, and the seconds it took.

    Until it is closed, the record is active on this worker: one may kill it while it is fetched.
    It may have been staged before, perhaps by a worker that was lost.
    """

    def __init__(self, record: Record | RecordRef, context: WorkerContext) -> None:
        self.record = record
        self.is_staged = False
        self.seconds = 0.0
        self._context = context
        self._found: tuple[Record, FetchedRecord] | Exception = RuntimeError("nothing was fetched")
        self._stack = ExitStack()
        self._stack.enter_context(active(record.record_id))

    def fetch(self) -> None:
        """Fetch the record; an error of its own is raised by `result`, any other here."""
        context, started = self._context, time.perf_counter()
        if staged_trailer(context.storage, self.record.record_id) is not None:
            self.is_staged = True
            return
        try:
            record = self.record
            if isinstance(record, RecordRef):
                record = context.catalogue.read(record)
            opened = open_record(record, context.client, context.scratch, context.fetch_options)
            self._found = record, self._stack.enter_context(opened)
        except RecordError as error:
            self._found = error
        except ZmlError:
            raise  # the cluster or a setting of ours failed, not the record
        except Exception as error:  # noqa: BLE001 - becomes the record's row; the build goes on
            self._found = error
        self.seconds = time.perf_counter() - started

    def result(self) -> tuple[Record, FetchedRecord]:
        """Return the record and what was fetched of it, or raise the error of the fetch."""
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def close(self) -> None:
        """Remove what was fetched."""
        self._stack.close()


def process_fetched(attempt: FetchAttempt, context: WorkerContext, *, attempts: int = 1) -> Outcome:
    """Read what was fetched of a record and stage it, or stage its failure.

    `attempts` includes this one. Raises `StorageError` if the dataset cannot be written.
    """
    record_id, options = attempt.record.record_id, context.options
    # An export reads what is staged before anyone else may see it: a record
    # that counts as staged has its export, whenever the worker dies.
    hidden = context.scratch / f"staged-{record_id}"
    target = Storage.open(hidden) if options.export else context.storage
    width, keep_binary = options.image.width, options.keep_binary
    identifier = IDENTIFIERS[options.language]
    timings = Timings(attempt.seconds)
    try:
        record, fetched = attempt.result()
        started = time.perf_counter()
        with RecordStager(context.scratch, record_id, options.image) as stager:
            for member in fetched.members():
                stager.add(
                    *read_member(member, width=width, keep_binary=keep_binary, identify=identifier)
                )
            timings = replace(timings, read=time.perf_counter() - started)
            started = time.perf_counter()
            row = record_row(record, fetched)
            staged = stager.finish(target, row)
        if options.export:
            _export_staged(record_id, target, context)
    except StorageError:
        raise  # the dataset's storage failed, not the record
    except Exception as error:  # noqa: BLE001 - becomes the record's row; the build goes on
        failure = failure_row(record_id, error, attempts)
        stage_failure(context.storage, failure)
        return Outcome(record_id, "failed", timings=timings, failure=failure)
    return Outcome(
        record_id,
        "staged",
        staged.n_files,
        staged.n_images,
        row["archive_bytes"],
        replace(timings, stage=time.perf_counter() - started),
        fetched.origin,
    )


def _export_staged(record_id: int, target: Storage, context: WorkerContext) -> None:
    """Write the legacy files of a record staged in scratch, then publish the record."""
    # Imported here: most builds export nothing, and h5py takes its time.
    from zml_dask.legacy.legacy_record import staged_record
    from zml_dask.legacy.record_files import export_record, parse_formats

    path = f"{STAGED_RECORDS}/{record_id}"
    staged = StagedReader(target, StagedLocation(path, 0, target.size(path)))
    formats = parse_formats(context.options.export)
    export_record(staged_record(staged), context.storage, formats, scratch=context.scratch)
    context.storage.publish(Path(target.url, path), path)


def record_row(record: Record, fetched: FetchedRecord) -> dict[str, Any]:
    """Return a record's row of the records table, but for the counts."""
    checksums = [archive.checksum for archive in fetched.archives if archive.checksum]
    return _described(record) | {
        "record_id": record.record_id,
        "origin": fetched.origin,
        "archive_bytes": sum(archive.bytes for archive in fetched.archives),
        "archive_checksum": " ".join(checksums) or None,
    }


def row_of_hit(hit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that a hit of 2018 fills.

    What the archive was when it was read, 2018 did not keep: its size and
    checksum stay null.
    """
    try:
        return _described(parse_record(hit))
    except RecordParseError:
        # Kept unchanged, although it cannot be parsed.
        return {"metadata": canonical_json(hit)}


def _described(record: Record) -> dict[str, Any]:
    """Return the columns that a record's metadata fills."""
    return {
        "concept_id": record.concept_id,
        "doi": record.doi,
        "title": record.title,
        "version": record.version,
        "publication_date": record.publication_date,
        "license": record.license,
        "licenses": spdx_ids(record.license),
        "keywords": list(record.keywords),
        "creators": list(record.creators),
        "repository": record.repository,
        "metadata": canonical_json(record.metadata),
    }


def read_member(
    member: Member, *, width: int, keep_binary: bool, identify: Identifier = identify_by_rules
) -> tuple[StagedFile, bytes | None]:
    r"""Read one member of an archive; return its row, and its normalised text if it has any.

    This runs once for every file there is. Lines longer than `width` characters count as cut; with
    `keep_binary` a file with NUL bytes is text too. `identify` names the language of a path and the
    head of its normalised text.

    Examples
    --------
    >>> member = Member("p/a.py", 6, b"x = 1\r", "ok", None)
    >>> file, text = read_member(member, width=80, keep_binary=False)
    >>> file.language, file.n_lines, text
    ('Python', 1, b'x = 1\n')
    """
    data, size = member.data, member.size
    status: FileStatus = member.status
    reason = member.reason
    sha256 = sha1_git = encoding = text = n_cut = None
    n_lines, head = 0, b""
    name_language: Identifier = identify_by_rules
    if data is not None:
        sha256, sha1_git = hashlib.sha256(data).hexdigest(), _git_id(data)
        try:
            normalized = normalize_text(data, width=width, keep_binary=keep_binary)
        except BinaryFileError as error:
            status, reason = "binary", str(error)
        else:
            encoding, n_lines, n_cut = normalized.encoding, normalized.n_lines, normalized.n_cut
            size, head, name_language = len(data), normalized.text[:HEAD_BYTES], identify
            if n_lines:
                status, text = "ok", normalized.text
                reason = "; ".join(filter(None, (reason, normalized.note))) or None
            else:
                status, reason = "empty", _EMPTY
    identity = name_language(member.path, head)
    name = member.path.rpartition("/")[2]
    file = StagedFile(
        member.path,
        name,
        extension_of(name),
        identity.language,
        identity.kind,
        size,
        sha256,
        encoding,
        status,
        reason,
        n_lines,
        n_cut,
        sha1_git,
    )
    return file, text


def _git_id(data: bytes) -> str:
    """Return the id that git gives a file of these bytes: archives of software know it by that.

    Examples
    --------
    >>> _git_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()
