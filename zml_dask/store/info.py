"""``dataset.json``: what is committed. It is replaced last, atomically, by every commit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, TypeAlias

import msgspec
import pyarrow as pa

from zml_dask.errors import DatasetDamagedError, ObjectMissingError, StorageError, UsageError
from zml_dask.store.layout import (
    COLUMN_TYPES,
    DATASET_JSON,
    DERIVED,
    DERIVED_KEYS,
    IMAGES_ZARR,
    LEGACY,
    LOCK,
    LOG,
    PLAN,
    SCHEMA_VERSION,
    STAGING,
    TABLES,
    ArraySpec,
    ImageShape,
    check_arrays,
    derived_schema,
    derived_table,
    image_arrays,
)
from zml_dask.store.storage import Storage

FORMAT = "zml-dask"

_RESTORE = "restore it from a backup, or build again into a new folder"

_MOST_IMAGES = 2**33
"""Twenty times all of Zenodo; a reader needs one bit of memory per image."""


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable object of the dataset: a part of a table.

    `path` is within DATASET, `size` in bytes, `sha256` in hex.
    """

    path: str
    rows: Count
    size: Count
    sha256: str


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """One object of ``images.zarr`` as it was written: a row of the manifest.

    `size` and `sha256` are of its bytes; `rows` are the committed rows of the array that it holds,
    0 for metadata. `rows_sha256` is of those rows decoded (C order, little-endian), where the shard
    is not full: a later commit rewrites it, and this still proves the rows if that commit dies.
    `last_rows_sha256` is of those of these rows that are in the shard's last chunk, where the shard
    is not full or was not full once.
    """

    path: str
    size: int
    sha256: str
    rows: int = 0
    rows_sha256: str | None = None
    last_rows_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is committed."""

    images: Count = 0
    files: Count = 0
    records: Count = 0
    failures: Count = 0


@dataclass(frozen=True, slots=True)
class DerivedTable:
    """How a derived table was computed; its parts are listed with those of the other tables.

    Attributes
    ----------
    columns : tuple of (str, str)
        Names, and types as keys of `layout.COLUMN_TYPES`.
    function : str
        Module and name.
    fingerprint : str
        Hash of the function's code, hex: if it changes, all rows are computed again.
    software : mapping of str to str
        Versions of what the last rows were computed with.
    errors : int
        Rows for which the function failed; they say why.
    of : str
        A key of `layout.DERIVED_KEYS`. Not written where it is files.
    """

    columns: tuple[tuple[str, str], ...]
    function: str
    fingerprint: str
    software: Mapping[str, str]
    errors: Count = 0
    of: str = "files"

    @property
    def schema(self) -> pa.Schema:
        """The columns as they are stored."""
        return derived_schema(self.columns, self.of)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Everything ``dataset.json`` says.

    Attributes
    ----------
    counts : Counts
        Rows of `images.zarr` and of the tables that count; arrays may be
        longer while a commit is under way, and end here for a reader.
    tables : mapping of str to tuple of Part
        Parts of each of `layout.TABLES`, and of derived tables, in row order.
    arrays : tuple of ArraySpec
        Each array, ``images`` first. A level of compression of 1 is not written.
    boundary_shards : tuple of WrittenObject
        The shards that the end of a commit lies in, of every array, as they are
        now. By their `rows` and `last_rows_sha256` a reader detects an older state
        of one, from a cache or a copy.
    manifest : tuple of Part
        Lists all other objects with size and checksum; for a path that
        occurs twice the later row counts.
    commits : tuple of Counts
        What was committed after each commit.
    options, software, harvest : mapping
        How the dataset was made; not interpreted by the store.
    derived : mapping of str to DerivedTable
        By name. Not written where there are none.
    generation : int
        How often ``dataset.json`` was replaced; `replace_info` detects other writers by it.
    next_part : mapping of str to int
        Number of the next part of each table, so that none is ever reused.
    """

    shape: ImageShape = field(default_factory=ImageShape)
    counts: Counts = field(default_factory=Counts)
    tables: Mapping[str, tuple[Part, ...]] = field(
        default_factory=lambda: dict.fromkeys(TABLES, ())
    )
    arrays: tuple[ArraySpec, ...] = ()
    boundary_shards: tuple[WrittenObject, ...] = ()
    manifest: tuple[Part, ...] = ()
    commits: tuple[Counts, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    harvest: Mapping[str, Any] | None = None
    next_part: Mapping[str, Count] = field(default_factory=dict)
    derived: Mapping[str, DerivedTable] = field(default_factory=dict)
    generation: Count = 0
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.arrays:
            object.__setattr__(self, "arrays", image_arrays(self.shape))

    def array(self, name: str) -> ArraySpec:
        """Return the description of an array.

        Examples
        --------
        >>> DatasetInfo().array("images").shard
        4096
        """
        return next(spec for spec in self.arrays if spec.name == name)

    def table_schema(self, table: str) -> pa.Schema:
        """Return the columns of a table: one of `layout.TABLES`, or ``derived/<name>``.

        Examples
        --------
        >>> DatasetInfo().table_schema("withdrawn").names
        ['record_id', 'reason']
        """
        derived = {derived_table(name): one for name, one in self.derived.items()}
        return TABLES[table] if table in TABLES else derived[table].schema

    def to_bytes(self) -> bytes:
        """Encode as JSON that contains a checksum of itself.

        Examples
        --------
        >>> DatasetInfo.from_bytes(DatasetInfo().to_bytes()) == DatasetInfo()
        True
        """
        plain = {"format": FORMAT, **asdict(self)}
        if not self.derived:
            del plain["derived"]
        for name, table in self.derived.items():
            if table.of == "files":
                del plain["derived"][name]["of"]
        for spec in plain["arrays"]:
            if spec["level"] == 1:
                del spec["level"]
        plain["sha256"] = _digest(plain)
        return json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str = DATASET_JSON) -> DatasetInfo:
        """Decode what `to_bytes` returned.

        `UsageError` if it is of something else, or of another schema version;
        `DatasetDamagedError` if it is not what was written.
        """
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError) as error:
            if data.lstrip()[:1] == b"<":
                raise UsageError(
                    f"the server sent a web page in place of {where}; check the address"
                ) from error
            raise DatasetDamagedError(f"{where} is not JSON ({error}); {_RESTORE}") from error
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise UsageError(f"{where} is not of a zml-dask dataset; choose another folder")
        if isinstance(plain.get("schema_version"), int):
            version = plain["schema_version"]
            if version != SCHEMA_VERSION:
                what_to_do = (
                    "install a later zml-dask"
                    if version > SCHEMA_VERSION
                    else "build it again into a new folder, from its catalogue"
                )
                raise UsageError(
                    f"{where} has schema version {version} and this release reads version "
                    f"{SCHEMA_VERSION}; {what_to_do}"
                )
        # Of the bytes below, not only of the values here: white space counts too.
        digest = plain.pop("sha256", None)
        if digest != _digest(plain):
            raise DatasetDamagedError(f"{where} does not fit its own checksum; {_RESTORE}")
        try:
            info = _from_plain(plain)
            again = info.to_bytes()
            if json.loads(again)["sha256"] != digest:
                raise ValueError("a key is unknown or missing")  # noqa: TRY301
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetDamagedError(
                f"{where} has invalid content ({error!r}); {_RESTORE}"
            ) from error
        if again != data:
            raise DatasetDamagedError(f"{where} was changed by hand; {_RESTORE}")
        return info


def _from_plain(plain: Mapping[str, Any]) -> DatasetInfo:
    """Decode and check: it may have been written by anybody."""
    info = msgspec.convert(plain, DatasetInfo)
    counts = info.counts
    if not min(info.shape.height, info.shape.width) >= 1:
        raise ValueError(f"its images have {info.shape}")
    check_arrays(info.arrays, info.shape)
    if counts.images > _MOST_IMAGES:
        raise ValueError(f"it counts {counts.images} images")
    for table, rows in ("files", counts.files), ("records", counts.records):
        if sum(part.rows for part in info.tables[table]) != rows:
            raise ValueError(f"its parts of {table} do not have the {rows} rows that it counts")
    for name in info.tables.keys() - TABLES.keys():
        if name.removeprefix(f"{DERIVED}/") not in info.derived:
            raise ValueError(f"there is a table {name!r}")
        of = info.derived[name.removeprefix(f"{DERIVED}/")].of
        rows = sum(part.rows for part in info.tables[name])
        if of not in DERIVED_KEYS or rows > getattr(counts, of, rows):
            raise ValueError(f"{name} has {rows} rows of {of}, more than there are")
    for name, table_parts in (*info.tables.items(), ("manifest", info.manifest)):
        _check_parts(name, table_parts)
    for name, derived in info.derived.items():
        _check_derived(name, derived)
    return info


DERIVED_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
"""What a derived table, and a column of one, may be called."""


def _check_derived(name: str, table: DerivedTable) -> None:
    if not {kind for _, kind in table.columns} <= COLUMN_TYPES.keys():
        raise ValueError(f"the types of derived table {name!r} are {table.columns!r}")
    if len(set(table.schema.names)) < len(table.schema):
        raise ValueError(f"derived table {name!r} has a column twice: {table.columns!r}")
    for known in (name, *dict(table.columns)):
        if not DERIVED_NAME.fullmatch(known):
            raise ValueError(f"there is a derived table or column {known!r}")


def _check_parts(table: str, parts: Iterable[Part]) -> None:
    pattern = rf"{table}\.parquet/part-\d{{5,}}-[0-9a-f]{{12}}\.parquet"
    for part in parts:
        if not re.fullmatch(pattern, part.path, re.ASCII):
            raise ValueError(f"a part of {table} is {part.path!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", part.sha256):
            raise ValueError(f"the SHA-256 of {part.path} is {part.sha256!r}")


def _digest(plain: Mapping[str, Any]) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def ensure_ours(storage: Storage) -> None:
    """Raise `UsageError` for a folder that holds anything but a dataset, complete or not."""
    foreign = [name for name in storage.names() if name not in _NAMES]
    if foreign and not storage.exists(DATASET_JSON):
        raise UsageError(
            f"{storage.url} holds {foreign[0]!r} and no dataset; check the path, or "
            "choose an empty or a new folder"
        )


_NAMES = {
    DATASET_JSON,
    DERIVED,
    IMAGES_ZARR,
    LEGACY,
    LOCK,
    LOG,
    STAGING,
    "manifest.parquet",
    *(f"{table}.parquet" for table in TABLES),
}


def read_info(storage: Storage) -> DatasetInfo | None:
    """Read ``dataset.json``; None where nothing is committed yet.

    `UsageError` if there is a ``dataset.json`` of something else; `DatasetDamagedError` if it is
    not what was written, or has disappeared.
    """
    try:
        data = storage.read(DATASET_JSON)
    except ObjectMissingError as error:
        if storage.list("manifest.parquet") and not storage.exists(PLAN):
            # A build would start again, and overwrite what is committed.
            raise DatasetDamagedError(
                f"{storage.url}/{DATASET_JSON} is missing, but its tables exist; it alone lists "
                "the parts that count and how they were made, so it cannot be repaired: restore a "
                "copy as of the last commit, or build again into a new folder (archives "
                "in a --cache are not fetched again); until then Zarr and Parquet readers can "
                "open images.zarr and the tables"
            ) from error
        return None
    return DatasetInfo.from_bytes(data, f"{storage.url}/{DATASET_JSON}")


def committed_info(storage: Storage) -> DatasetInfo:
    """Read ``dataset.json``; `UsageError` where nothing is committed. See `read_info`."""
    info = read_info(storage)
    if info is None:
        folder, _, name = storage.url.rpartition("/")
        is_part = name == DATASET_JSON or name.endswith((".zarr", ".parquet"))
        build = "check the path, or build one with 'zml-dask build' or 'zml-dask demo'"
        advice = f"give the dataset's folder, {folder}" if is_part else build
        raise UsageError(f"{storage.url} holds no committed dataset; {advice}")
    return info


def ensure_same(storage: Storage, opened: DatasetInfo, data: bytes | None = None) -> None:
    """Raise `StorageError` if another dataset is now where `opened` was read.

    Rows of the tables are never rewritten, and the names of their parts contain hashes of
    their content. So before and after any commit to one dataset, the parts of the tables are
    the same as far as both states have any. `data`, if given, is ``dataset.json`` as of now.
    """
    try:
        now = DatasetInfo.from_bytes(storage.read(DATASET_JSON) if data is None else data)
        pairs = (zip(opened.tables[name], now.tables[name], strict=False) for name in _GROWING)
        if now.shape == opened.shape and all(a == b for pair in pairs for a, b in pair):
            return
    except (ObjectMissingError, UsageError):
        pass  # it was removed, or something else is there
    raise StorageError(
        f"{storage.url} was replaced or removed since it was opened; open it again, once it is "
        "complete"
    )


_GROWING = ("files", "records")
"""Tables whose parts stay as they are."""


def replace_info(storage: Storage, base: DatasetInfo | None, changed: DatasetInfo) -> DatasetInfo:
    """Replace ``dataset.json``, atomically, if it is still `base`, what a change began from.

    `base` is None for a new dataset. Returns `changed`, of the next generation. `StorageError` if
    ``dataset.json`` is another one by now; nothing is written then.
    """
    changed = replace(changed, generation=base.generation + 1 if base else 0)
    expected = base.to_bytes() if base else None
    if not storage.replace(DATASET_JSON, changed.to_bytes(), expected=expected):
        raise StorageError(
            f"{storage.url}/{DATASET_JSON} was changed by another process since this one began; "
            "nothing was overwritten; run the command again"
        )
    return changed
