"""The catalogue while a harvest appends to it, locked, with its state beside it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import google_crc32c
import msgspec

from zml_dask.errors import UsageError, ZmlError
from zml_dask.records.instants import parse_bound
from zml_dask.records.parse import ZENODO_API, RecordParseError, brief_hit, record_id_of

STATE_SUFFIX: Final = ".state.json"
DEFAULT_EXCLUDE: Final = "gcube"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class HarvestOptions:
    """Which records are asked for.

    Attributes
    ----------
    api_url : str
        Root of the API.
    query : str
        In Zenodo's query syntax; all software where empty.
    since, until : str or None
        Bounds of the record's creation: a date (``until`` includes that day) or
        an ISO 8601 instant, UTC.
    exclude : str
        Regular expression, case ignored; a record whose title or a file's name
        it is found in is left out. Nothing is where empty.
    limit : int or None
        At most so many records in the catalogue.
    all_versions : bool
        Superseded versions, too.
    """

    api_url: str = ZENODO_API
    query: str = ""
    since: str | None = None
    until: str | None = None
    exclude: str = DEFAULT_EXCLUDE
    limit: int | None = None
    all_versions: bool = False

    def bounds(self) -> tuple[str | None, str | None]:
        """Return the first and the last instant of creation; None is an open end.

        Raises `UsageError` if a bound is no date, or the first is after the last.
        """
        begin = parse_bound(self.since, option="--since") if self.since is not None else None
        end = None
        if self.until is not None:
            end = parse_bound(self.until, option="--until", is_end=True)
        if begin and end and begin > end:
            raise UsageError(f"--since {self.since} is after --until {self.until}")
        return begin, end


@dataclass(frozen=True, slots=True)
class DumpState:
    """Which dump a harvest reads, and how far it has come."""

    path: str  # on this machine; of a dump that is downloaded, where it is put
    version_id: str | None = None  # of a version to download; None for a file that the user named
    created: str | None = None  # as the server lists it, as are `checksum` and `size`
    checksum: str | None = None
    size: int | None = None
    is_read: bool = False  # all of it is in the catalogue
    newest: str | None = None  # creation of the newest record that was seen in it
    # Records that were asked for by number and are not in the catalogue.
    passed: tuple[int, ...] = ()
    entries: int = 0  # records of all types in it, as far as it was read


@dataclass(frozen=True, slots=True)
class HarvestState:
    """The state of a harvest."""

    options: HarvestOptions = field(default_factory=HarvestOptions)
    # Slices of creation time still to be asked for, the current one first; None is an open end.
    pending: tuple[tuple[str | None, str | None], ...] = ()
    offset: int = 0  # hits of the current slice that are in the catalogue
    slice_total: int = 0  # least number of hits that the server stated for the current slice
    total: int = 0  # hits that the server stated when the round began
    found: int = 0  # records of type software seen in this round
    excluded: int = 0  # those of them that were left out
    slices_total: int = 0  # sum of the totals of this round's finished slices
    missing: int = 0  # hits that the server stated in this round and did not return
    started: str | None = None  # the server's clock when the round began
    # Everything created before this instant was seen by the last finished round.
    complete_until: str | None = None
    catalogue_bytes: int = 0  # length of the catalogue when this was written
    # Sum of the checksums of its lines (`add_line`): a changed byte is noticed, another order of
    # the lines is not.
    checksum: int | None = None
    finished: bool = False
    # While the harvest is one from a dump: its lines are in the dump's order until the end.
    dump: DumpState | None = None

    def to_json(self) -> str:
        """Return the sidecar's text."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> Self:
        """Parse a sidecar's text; `name` is for the error message.

        Raises `UsageError` if it is none, or was written by a later version.
        """
        try:
            content = json.loads(text)
            version = content.pop("format")
            # The name of `slices_total` in earlier versions.
            if "told" in content:
                content["slices_total"] = content.pop("told")
            unknown = set(content) - {one.name for one in dataclasses.fields(cls)}
            if version == _FORMAT and not unknown:
                return msgspec.convert(content, cls)
        except (ValueError, TypeError, KeyError, AttributeError, msgspec.MsgspecError):
            raise UsageError(
                f"{name} is damaged: remove it together with its catalogue and harvest again"
            ) from None
        raise UsageError(
            f"{name} was written by another version of zml-dask: harvest into a new file"
        )


def add_line(checksum: int, line: bytes) -> int:
    """Add a line, with its end, to the checksum of a catalogue."""
    return (checksum + int(google_crc32c.value(line))) % 2**63


def check_uncompressed(path: Path) -> None:
    """Raise `UsageError` for a catalogue to be written that has the name of a compressed file."""
    if path.suffix.lower() in {".gz", ".zst", ".xz", ".bz2"}:
        raise UsageError(
            f"{path}: a catalogue is written as JSON Lines or Parquet; name it {path.stem}, and "
            "compress it afterwards"
        )


def state_path(catalogue: str) -> str:
    """Return the path of the sidecar of a catalogue."""
    return catalogue + STATE_SUFFIX


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a local file whole or not at all: a scratch file beside it takes its place."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)


def save_state(catalogue: Path, state: HarvestState) -> None:
    """Write the sidecar of a local catalogue, whole or not at all."""
    with replacing(Path(state_path(str(catalogue)))) as stream:
        stream.write(state.to_json().encode())


def write_lines(catalogue: Path, lines: Iterable[bytes], state: HarvestState | None) -> None:
    """Write a local catalogue whole, and the sidecar of a harvest's with its length and checksum.

    The sidecar comes first: a crash between the two leaves no catalogue that passes for
    the user's own.
    """
    checksum = size = 0
    with replacing(catalogue) as stream:
        for line in lines:
            checksum, size = add_line(checksum, line), size + len(line)
            stream.write(line)
        if state is not None:
            stream.flush()
            save_state(catalogue, replace(state, catalogue_bytes=size, checksum=checksum))


def load_state(catalogue: Path) -> HarvestState | None:
    """Read the sidecar of a local catalogue; None if there is none.

    Raises `UsageError` if it is damaged.
    """
    path = Path(state_path(str(catalogue)))
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return HarvestState.from_json(text, str(path))


def options_from(content: Mapping[str, Any]) -> HarvestOptions:
    """Make options from a mapping such as ``dataset.json`` keeps; unknown names are ignored."""
    names = {one.name for one in dataclasses.fields(HarvestOptions)}
    return HarvestOptions(**{name: value for name, value in content.items() if name in names})


class Journal:
    """A catalogue opened for appending, and the state beside it.

    However the last harvest ended, its whole lines are kept, and a torn line at the end is removed.
    The state is written after the lines of its page, so that it never claims more than there is.
    `state` is the state that was found, `ids` the records in the catalogue.

    Raises `UsageError` if the catalogue cannot be opened, is open in another harvest, or was not
    written by one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: set[int] = set()
        self._length = 0
        self._checksum = 0
        self._stream = _open_locked(path)
        try:
            self.state = load_state(path)
            self._check_length(self._stream.seek(0, os.SEEK_END))
            self._read_ids()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # If the disk was full, flushing fails once more.
        with suppress(OSError):
            self._stream.close()

    def append(self, lines: Iterable[str]) -> None:
        """Add lines durably; raise `ZmlError` if the disk does not take them."""
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        with self._disk():
            if data:
                self._stream.write(data)
                self._stream.flush()
                os.fsync(self._stream.fileno())
                for line in data.splitlines(keepends=True):
                    self._extend(line)

    def save(self, state: HarvestState) -> HarvestState:
        """Write the state, with the catalogue's length and checksum, and return it.

        Raises `ZmlError` if the disk does not take it.
        """
        state = replace(state, catalogue_bytes=self._length, checksum=self._checksum)
        with self._disk():
            save_state(self.path, state)
        return state

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line, with its end, and where it begins."""
        at = 0
        self._stream.seek(0)
        for line in self._stream:
            yield at, line
            at += len(line)
        self._stream.seek(self._length)

    def rewrite(self, spans: Iterable[tuple[int, int]], state: HarvestState) -> None:
        """Put some of the lines in another order, and drop the others.

        `spans` are where each line begins, and its length. The file before and the file after may
        both be found with `state`. Raises `ZmlError` if the disk does not take it.
        """
        scratch = self.path.with_name(self.path.name + ".new")
        target = _open_locked(scratch)
        with self._disk():
            target.truncate()
            self.ids, self._checksum, length = set(), 0, 0
            for begin, size in spans:
                self._stream.seek(begin)
                line = self._stream.read(size)
                target.write(line)
                self._checksum = add_line(self._checksum, line)
                self.ids.add(record_id_of(brief_hit(line)))
                length += size
            self._length = length
            target.flush()
            os.fsync(target.fileno())
            save_state(self.path, replace(state, catalogue_bytes=0, checksum=None))
            scratch.replace(self.path)
        self._stream.close()
        self._stream = target

    def _extend(self, line: bytes) -> None:
        self._checksum = add_line(self._checksum, line)
        self._length += len(line)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ZmlError(
                f"{self.path} cannot be written: {error.strerror}; free some space and start the "
                "same command again: it continues where it was"
            ) from error

    def _check_length(self, size: int) -> None:
        if self.state is None and size:
            raise UsageError(
                f"{self.path} exists and was not written by a harvest: harvest into a new file"
            )
        if self.state is not None and size < self.state.catalogue_bytes:
            raise UsageError(
                f"{self.path} is shorter than its harvest left it: remove it and "
                f"{state_path(str(self.path))}, and harvest again"
            )

    def _check_bytes(self) -> None:
        if self.state is not None and self.state.checksum not in {None, self._checksum}:
            raise UsageError(
                f"{self.path} is not what its harvest wrote: it was damaged on the disk, or "
                "edited; harvest into a new file"
            )

    def _read_ids(self) -> None:
        """Collect the ids of all whole lines, and cut off a torn line at the end."""
        self._stream.seek(0)
        state = self.state
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                self.ids.add(record_id_of(brief_hit(line)))
            except (ValueError, RecursionError, RecordParseError) as error:
                raise UsageError(
                    f"{self.path}: the line at byte {self._length} is not a record: {error}"
                ) from None
            self._extend(line)
            if self._length == (state.catalogue_bytes if state is not None else 0):
                self._check_bytes()
        self._stream.seek(self._length)
        self._stream.truncate()


def _open_locked(path: Path) -> BinaryIO:
    if "://" in str(path):
        raise UsageError(f"{path} is not a local file: harvest to one, then copy it")
    check_uncompressed(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")  # noqa: PTH123, SIM115 - kept open; no mode of open() creates without truncating
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    try:
        # The kernel releases it when the process ends, however that ends.
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise UsageError(f"{path} is being written by another harvest") from None
    except OSError:
        pass  # a file system without locks, as some clusters have
    return stream
