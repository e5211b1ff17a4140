"""The catalogue: one file of harvested records, read by offset.

It is JSON Lines, one hit per line as harvested, or any other JSON that holds records: an array,
whole search answers, pretty-printed objects. Large ones are Parquet (`zml_dask.records.table`). A
catalogue needs no other file: a copy or a subset builds from the server that its records name. The
state that a harvest leaves beside JSON Lines says where to continue, and proves that no byte of the
file has changed since.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, overload

import fsspec
import numpy as np
from numpy.typing import NDArray

from zml_dask.arguments import checked
from zml_dask.errors import UsageError, ZmlError
from zml_dask.records.journal import (
    HarvestOptions,
    HarvestState,
    add_line,
    check_uncompressed,
    state_path,
    write_lines,
)
from zml_dask.records.parse import (
    ZENODO_API,
    RecordParseError,
    api_root_of,
    archive_bytes_of,
    brief_hit,
    canonical_json,
    parse_record,
    record_id_of,
)
from zml_dask.records.record import Record
from zml_dask.records.table import (
    PARQUET_MAGIC,
    ParquetHits,
    read_parquet_index,
    select_ids,
    table_of,
    write_parquet,
)
from zml_dask.remote import explain_fsspec
from zml_dask.safe_pickle import load, within
from zml_dask.text_safety import escape_text

logger = logging.getLogger(__name__)

_COMPRESSIONS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"\xfd7": "xz", b"BZ": "bz2"}
"""First bytes of compressed files, and fsspec's names of what compressed them."""

_BOM: Final = b"\xef\xbb\xbf"
# The most bytes that the values of a records.pkl may take when they are written out: a pickle
# holds each value once, and may name it any number of times.
_LEAST_UNPICKLED: Final = 1 << 20
_MOST_UNPICKLED: Final = 64
_SPACE: Final = re.compile(r"[ \t\r\n\ufeff]*")


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where one record is in its catalogue; 32 bytes in a `RefTable`."""

    record_id: int
    # Of its JSON in the catalogue, bytes; in a Parquet catalogue, the number of its row.
    offset: int
    length: int  # of its JSON, bytes
    archive_bytes: int  # sum of the sizes that the record states for its files


class RefTable(Sequence[RecordRef]):
    """An immutable sequence of references, unique and in record-id order.

    `rows` is int64 (n, 4), with columns as in `RecordRef`; of several rows with one id the last
    counts. `is_sorted` says that the ids are unique and ascending already.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: NDArray[np.int64], *, is_sorted: bool = False) -> None:
        if not is_sorted:
            # Of equal ids np.unique keeps the first, hence the reversal.
            backwards = rows.reshape(-1, 4)[::-1]
            _, first = np.unique(backwards[:, 0], return_index=True)
            rows = backwards[first]
        self._rows = rows
        self._rows.setflags(write=False)

    @classmethod
    def of(cls, refs: Iterable[RecordRef]) -> Self:
        """Make a table from references."""
        rows = [(ref.record_id, ref.offset, ref.length, ref.archive_bytes) for ref in refs]
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 4))

    def take(self, positions: Sequence[int] | NDArray[np.int64 | np.bool_]) -> RefTable:
        """Return the references at some positions (in any order), or those where a mask is true.

        Examples
        --------
        >>> table = RefTable.of(RecordRef(i, 0, 0, 0) for i in (7, 8, 9))
        >>> table.take([2, 0]).record_ids.tolist()
        [7, 9]
        """
        chosen = np.asarray(positions)
        if chosen.dtype != np.bool_:
            chosen = np.unique(chosen.astype(np.int64))
        return RefTable(self._rows[chosen], is_sorted=True)

    @property
    def record_ids(self) -> NDArray[np.int64]:
        """Ids, ascending: int64 (n,)."""
        return self._rows[:, 0]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each record begins in its catalogue: int64 (n,)."""
        return self._rows[:, 1]

    @property
    def archive_bytes(self) -> NDArray[np.int64]:
        """Bytes of each record's files: int64 (n,)."""
        return self._rows[:, 3]

    def find(self, record_id: int) -> RecordRef | None:
        """Return the reference of one record, or None."""
        place = int(np.searchsorted(self.record_ids, record_id))
        if place < len(self) and self.record_ids[place] == record_id:
            return self[place]
        return None

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RecordRef: ...
    @overload
    def __getitem__(self, index: slice) -> RefTable: ...
    def __getitem__(self, index: int | slice) -> RecordRef | RefTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return RecordRef(*self._rows[index].tolist())


@checked
@dataclass(frozen=True)
class Catalogue:
    """An open catalogue.

    Attributes
    ----------
    path : str
        Of the file; a path or any fsspec URL.
    refs : RefTable
        One reference per record, in record-id order; the last entry of an id counts.
        Empty on a worker, whose tasks bring their own.
    harvest : HarvestState or None
        The state of the harvest that wrote it; None for a copy, a subset, or the
        user's own.
    api_url : str
        Root of the API that the files' URLs are built on.
    trusted : bool
        Whether its records may name file systems. Those that name a server as
        their origin (``links.self``) never may.
    token_url : str
        Root of the API that may see an access token: the harvest's, or the one that
        the user named. What the records of a copy name is not enough to send it there.
    """

    path: str
    refs: RefTable = field(default_factory=lambda: RefTable.of(()))
    harvest: HarvestState | None = None
    api_url: str = ZENODO_API
    trusted: bool = False
    token_url: str = ZENODO_API

    @classmethod
    def open(
        cls, path: str | Path, *, api_url: str | None = None, into: str | Path | None = None
    ) -> Self:
        """Open a catalogue and index its records.

        Parameters
        ----------
        path : str or Path
            JSON Lines, other JSON of records, Parquet, or a ``records.pkl`` of 2018; each of
            them may be compressed (gzip, zstd, xz, bzip2).
        api_url : str, optional
            Default: the harvest's own, else that of the server which the records
            name, else Zenodo's.
        into : path, optional
            Where a ``records.pkl`` is converted to, and what is compressed is unpacked.

        Raises
        ------
        UsageError
            If it is not there, a part of it is not a record, it is not what its
            harvest wrote, or its records come from several servers. A last line that
            breaks off, as an interrupted harvest or copy leaves it, is not read; the
            log says so (a warning).
        ForbiddenPickleError, DamagedPickleError
            If a pickle holds more than plain containers.
        """
        name = str(path)
        head = _head(name)
        if (compression := _COMPRESSIONS.get(head[:2])) is not None:
            if into is None:
                raise UsageError(f"{name} is compressed: unpack it first")
            unpacked = Path(f"{into}.unpacked")
            if name == str(unpacked):
                raise UsageError(f"{name} is compressed twice: unpack it first")
            _unpack(name, compression, unpacked)
            try:
                return cls.open(unpacked, api_url=api_url, into=into)
            except UsageError as error:
                raise UsageError(str(error).replace(str(unpacked), name)) from error
        if head == PARQUET_MAGIC:
            with _reading(name):
                index = read_parquet_index(name)
            return cls._made(name, index.rows, set(index.roots), index.harvest, api_url)
        if head[:1] == b"\x80" or name.endswith((".pkl", ".pickle")):
            if into is None:
                raise UsageError(f"{name} is a pickle: say where to convert it to")
            _convert_pickle(name, Path(into))
            name = str(into)
        harvest = _harvest_of(name)
        rows, roots = _index(name, harvest)
        return cls._made(name, rows, roots, harvest, api_url)

    @classmethod
    def _made(
        cls,
        name: str,
        rows: NDArray[np.int64],
        roots: set[str],
        harvest: HarvestState | None,
        api_url: str | None,
    ) -> Self:
        if api_url is None and harvest is not None:
            api_url = harvest.options.api_url
        token_url = (api_url or ZENODO_API).rstrip("/")
        if api_url is None and len(roots) > 1:
            raise UsageError(
                f"the records of {name} are from several servers ({', '.join(sorted(roots)[:3])}): "
                "make one catalogue for each, or name one with --api-url"
            )
        root = api_url or next(iter(roots), ZENODO_API)
        return cls(
            name,
            RefTable(rows),
            harvest,
            root.rstrip("/"),
            trusted=harvest is None,
            token_url=token_url,
        )

    def read(self, ref: RecordRef) -> Record:
        """Read one record.

        Raises
        ------
        ZmlError
            If that record is no longer where it was.
        """
        return read_record(self.path, ref, api_url=self.api_url, trusted=self.trusted)

    def hits(self) -> Iterator[bytes]:
        """Yield the JSON of every record, in the order of the file; in bounded memory."""
        order = np.argsort(self.refs.offsets, kind="stable").tolist()
        if _head(self.path) == PARQUET_MAGIC:
            read = _reader(self.path)
            for position in order:
                yield read(self.refs[position])
            return
        with fsspec.open(self.path, "rb") as stream:
            for position in order:
                ref = self.refs[position]
                stream.seek(ref.offset)
                yield stream.read(ref.length)

    def write(self, path: Path) -> int:
        """Write its records into another catalogue; return their number.

        Parameters
        ----------
        path : Path
            Parquet where it ends in ``.parquet``, else JSON Lines.

        Raises
        ------
        UsageError
            If it is there already, or cannot be written.
        """
        check_uncompressed(path)
        if path.exists():
            raise UsageError(f"{path} is there already: write to a new file")
        try:
            if path.suffix == ".parquet":
                return write_parquet(path, self.hits(), self.harvest)
            write_lines(path, map(_one_line, self.hits()), self.harvest)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        return len(self.refs)

    def where(self, condition: str) -> Catalogue:
        """Return the catalogue with only the records that a SQL condition is true for.

        Parameters
        ----------
        condition : str
            Over the columns of a Parquet catalogue (``zml_dask.records.table.COLUMNS``),
            in DuckDB's SQL: ``"license = 'mit' and archive_bytes < 1e6"``.

        Returns
        -------
        Catalogue
            Of the same file. It is no harvest's: an update would not keep to the condition.

        Raises
        ------
        UsageError
            If it is not a condition over those columns.
        """
        try:
            ids = select_ids(table_of(self.path, self.hits), condition)
        except ValueError as error:
            raise UsageError(str(error)) from None
        mask = np.isin(self.refs.record_ids, ids)
        return replace(self, refs=self.refs.take(mask), harvest=None)


def read_record(
    path: str, ref: RecordRef, *, api_url: str = ZENODO_API, trusted: bool = False
) -> Record:
    """Read the record that `ref` points to, without opening the whole catalogue.

    `trusted` is whether its files may be on any file system. Raises `UsageError` if the catalogue
    is missing, `ZmlError` if it has changed under the reference, and `RecordParseError` if the
    record is nested too deeply to be read here.
    """
    with _reading(path):
        line = _reader(path)(ref)
    try:
        hit = json.loads(line)
        if record_id_of(hit) == ref.record_id:
            return parse_record(hit, api_url=api_url, trusted=trusted)
    except RecursionError as error:
        # The record has not changed: the stack is deeper here than when it was indexed.
        raise RecordParseError(
            "bad_metadata", f"record {ref.record_id} is nested too deeply: {error}"
        ) from error
    except UnicodeDecodeError as error:
        raise RecordParseError(
            "bad_metadata", f"record {ref.record_id} in {path} is not UTF-8: convert the catalogue"
        ) from error
    except (ValueError, RecordParseError):
        pass  # cut out of the middle of another line
    raise ZmlError(
        f"record {ref.record_id} is not where it was in {path}: "
        "the catalogue changed; start the command again"
    )


def _reader(path: str) -> Callable[[RecordRef], bytes]:
    """Return a function that reads the JSON at a reference."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    if filesystem.cat_file(inner, start=0, end=len(PARQUET_MAGIC)) == PARQUET_MAGIC:
        rows = _parquet_hits(path, str(filesystem.ukey(inner)))
        return lambda ref: rows.read(ref.offset)
    return lambda ref: bytes(
        filesystem.cat_file(inner, start=ref.offset, end=ref.offset + ref.length)
    )


def _unpack(name: str, compression: str, into: Path) -> None:
    with _reading(name), into.open("wb") as target:
        try:
            with fsspec.open(name, "rb", compression=compression) as source:
                shutil.copyfileobj(source, target)
        except EOFError:
            raise UsageError(f"the catalogue {name} breaks off: copy it again") from None


def _convert_pickle(name: str, into: Path) -> None:
    """Write the records of a ``records.pkl`` of 2018 as JSON Lines, in id order.

    Its records came from a server, so the new catalogue gets the state of a harvest,
    and its records may not name file systems.
    """
    with fsspec.open(name, "rb") as stream:
        content = load(stream, name=name)
        limit = max(_LEAST_UNPICKLED, _MOST_UNPICKLED * stream.tell())
    if not within(content, limit):
        raise UsageError(f"{name} repeats the same values again and again: it is not a harvest's")
    hits = list(content.values()) if isinstance(content, Mapping) else content
    if not isinstance(hits, list | tuple):
        raise UsageError(f"{name} holds no records, but a {type(content).__name__}")
    lines: dict[int, str] = {}
    newest: str | None = None
    for hit in hits:
        try:
            lines[record_id_of(hit)] = canonical_json(hit)
        except (RecordParseError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{name} holds more than records: {error}") from None
        created = hit.get("created")
        if isinstance(created, str):
            newest = max(newest or created, created)
    state = HarvestState(
        options=HarvestOptions(exclude=""),
        total=len(lines),
        found=len(lines),
        complete_until=newest,
        finished=True,
    )
    into.parent.mkdir(parents=True, exist_ok=True)
    write_lines(into, (f"{lines[number]}\n".encode() for number in sorted(lines)), state)


def _one_line(hit: bytes) -> bytes:
    """Write a hit on one line; unchanged if it is on one already."""
    hit = hit.strip()
    return (hit if b"\n" not in hit else canonical_json(json.loads(hit)).encode()) + b"\n"


@lru_cache(maxsize=4)
def _parquet_hits(path: str, _version: str) -> ParquetHits:
    """Keep a Parquet catalogue open; `_version` changes when the file does."""
    return ParquetHits(path)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise `UsageError` if a catalogue cannot be read."""
    try:
        yield
    except ZmlError:
        raise
    except Exception as error:
        failure = explain_fsspec(error)
        if not failure.is_missing:
            raise UsageError(f"the catalogue {name} cannot be read: {failure.reason}") from error
        advice = "" if "://" in name else f": make one with 'zml-dask harvest {name}'"
        raise UsageError(f"there is no catalogue {name}{advice}") from None


def _head(name: str) -> bytes:
    with _reading(name), fsspec.open(name, "rb") as stream:
        head: bytes = stream.read(len(PARQUET_MAGIC))
    return head


def _harvest_of(name: str) -> HarvestState | None:
    sidecar = state_path(name)
    try:
        with fsspec.open(sidecar, "rb") as stream:
            content = stream.read()
    except Exception as error:
        # Without permission to list, a server may refuse a file that does not exist.
        failure = explain_fsspec(error)
        if failure.is_missing or failure.is_denied:
            return None
        raise UsageError(f"{sidecar} cannot be read: {failure.reason}") from error
    return HarvestState.from_json(content, sidecar)


class _Rows:
    """Collects the index: one row per record, and the servers that the records name."""

    def __init__(self) -> None:
        self._rows = array("q")
        self.roots: set[str] = set()

    def add(self, hit: Any, offset: int, length: int) -> None:
        self._rows.extend((record_id_of(hit), offset, length, archive_bytes_of(hit)))
        root = api_root_of(hit)
        if root is not None:
            self.roots.add(root)

    def __len__(self) -> int:
        return len(self._rows) // 4

    def table(self) -> NDArray[np.int64]:
        """Return the rows: int64 (n, 4), columns as in `RecordRef`."""
        return np.frombuffer(self._rows, dtype=np.int64).reshape(-1, 4)


def _index(name: str, harvest: HarvestState | None) -> tuple[NDArray[np.int64], set[str]]:
    """Index JSON Lines or any other JSON; return the rows and the servers that its records name."""
    with _reading(name), fsspec.open(name, "rb") as stream:
        rows = _index_lines(stream, name, harvest)
        if rows is None:
            stream.seek(0)
            rows = _index_values(stream.read(), name)
    return rows.table(), rows.roots


def _index_lines(stream: BinaryIO, name: str, harvest: HarvestState | None) -> _Rows | None:
    """Index one record per line; None if not even the first line is one."""
    rows = _Rows()
    offset = checksum = checked = 0
    is_torn = False
    known = harvest if harvest is not None and harvest.checksum is not None else None
    for number, line in enumerate(stream, start=1):
        if known is not None and offset < known.catalogue_bytes:
            checksum, checked = add_line(checksum, line), offset + len(line)
        content = line if offset else line.removeprefix(_BOM)
        if content.strip():
            try:
                rows.add(brief_hit(content), offset + len(line) - len(content), len(content))
            except (ValueError, RecursionError, RecordParseError) as error:
                if not len(rows) and harvest is None:
                    return None
                is_torn = not line.endswith(b"\n")
                if not is_torn:
                    raise UsageError(f"line {number} of {name} is not a record: {error}") from None
                logger.warning(
                    "%s breaks off in line %d, which is not read: continue its harvest, or copy it "
                    "again",
                    escape_text(name),
                    number,
                )
        offset += len(line)
    # A file that was shortened by whole lines is a subset.
    is_subset = known is None or (checked < known.catalogue_bytes and not is_torn)
    if known is not None and not is_subset and checksum != known.checksum:
        raise UsageError(
            f"{name} is not what its harvest wrote: it was damaged on the disk, or edited; "
            f"harvest again into a new file, or, if you edited it, remove {state_path(name)}"
        )
    return rows


def _index_values(content: bytes, name: str) -> _Rows:
    """Index an array of records, search answers, or records over several lines."""
    rows = _Rows()
    text = content.decode("latin-1")
    try:
        for hit, start, stop in _json_hits(text):
            rows.add(hit, start, stop - start)
    except (ValueError, IndexError, RecursionError, RecordParseError) as error:
        if b"\0" in content[:4]:
            raise UsageError(
                f"{name} is in UTF-16, as PowerShell's > writes it; save it in UTF-8"
            ) from None
        raise UsageError(
            f"{name} is not a catalogue, or is damaged, after {len(rows):,} records: {error}; it "
            "must hold one JSON record per line, an array of records, or the answer of a search"
        ) from None
    return rows


def _json_hits(text: str) -> Iterator[tuple[Any, int, int]]:
    """Yield each record of any JSON, with its span.

    The text holds one character per byte (Latin-1), so that spans are in bytes;
    all that JSON is made of is ASCII.
    """
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, 3 if text.startswith(_BOM.decode("latin-1")) else 0)
    while at < len(text):
        value, end = decode(text, at)
        listed = value.get("hits") if isinstance(value, dict) else None
        if isinstance(value, list):
            yield from _elements(text, at)
        elif isinstance(listed, dict) and isinstance(listed.get("hits"), list):
            inner = _value_of(text, at, "hits")
            yield from _elements(text, _value_of(text, inner, "hits"))
        else:
            yield value, at, end
        # Answers that were saved one after another may be separated by commas.
        at = _skip(text, end)


def _elements(text: str, at: int) -> Iterator[tuple[Any, int, int]]:
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = decode(text, at)
        yield value, at, end
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _value_of(text: str, at: int, wanted: str) -> int:
    """Return where the value of a key begins, in the object at `at`, which has that key."""
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, at + 1)
    found = 0
    while text[at] != "}":
        key, end = decode(text, at)
        value = _skip(text, _skip(text, end) + 1)
        # Of several equal keys the last counts, as for the decoder.
        found = value if key == wanted else found
        _, end = decode(text, value)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
