"""``dataset.json``: what is committed. It is replaced last, atomically, by every commit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zml_dask.errors import UsageError, ZmlError
from zml_dask.store.layout import (
    DATASET_COPY,
    DATASET_JSON,
    IMAGES_ZARR,
    LEGACY,
    LOCK,
    LOG,
    SCHEMA_VERSION,
    STAGING,
    TABLES,
    ImageShape,
)
from zml_dask.store.storage import ObjectMissingError, Storage

FORMAT = "zml-dask"


class NoDatasetError(UsageError):
    """There is no committed dataset at that place."""


class NotADatasetError(UsageError):
    """The folder holds something, but no dataset of this package."""


class DatasetDamagedError(ZmlError):
    """``dataset.json`` is not what was written."""


class DatasetTooNewError(UsageError):
    """The dataset was written by a later release, in a layout this one does not know."""


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable object of the dataset.

    Attributes
    ----------
    path : str
        Within DATASET.
    rows : int
        Rows of the table it holds.
    size : int
        Bytes.
    sha256 : str
        Hex.
    """

    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is committed."""

    images: int = 0
    files: int = 0
    records: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Everything ``dataset.json`` says.

    Attributes
    ----------
    shape : ImageShape
    counts : Counts
        Rows of `images.zarr` and of the tables that count; arrays may be
        longer while a commit is under way, and end here for a reader.
    tables : mapping of str to tuple of Part
        Parts of ``files``, ``records``, ``failures`` and ``withdrawn``, in row order.
    manifest : tuple of Part
        Lists of all other objects with size and checksum; for a path that
        occurs twice the later row counts.
    commits : tuple of Counts
        What was committed after each commit.
    options, software, harvest : mapping
        How the dataset was made; not interpreted by the store.
    next_part : mapping of str to int
        Number of the next part of each table, so that none is ever reused.
    schema_version : int
    """

    shape: ImageShape = field(default_factory=ImageShape)
    counts: Counts = field(default_factory=Counts)
    tables: Mapping[str, tuple[Part, ...]] = field(
        default_factory=lambda: dict.fromkeys(TABLES, ())
    )
    manifest: tuple[Part, ...] = ()
    commits: tuple[Counts, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    harvest: Mapping[str, Any] | None = None
    next_part: Mapping[str, int] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Arrange as JSON that carries a checksum of itself.

        Examples
        --------
        >>> DatasetInfo.from_bytes(DatasetInfo().to_bytes()) == DatasetInfo()
        True
        """
        plain = {"format": FORMAT, **asdict(self)}
        plain["sha256"] = _digest(plain)
        return json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str = DATASET_JSON) -> DatasetInfo:
        """Inverse of `to_bytes`.

        Raises
        ------
        NotADatasetError, DatasetTooNewError, DatasetDamagedError
        """
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DatasetDamagedError(
                f"{where} is not JSON ({error}); run zml-dask verify --repair"
            ) from error
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise NotADatasetError(f"{where} is not of a zml-dask dataset; choose another folder")
        if isinstance(plain.get("schema_version"), int):
            version = plain["schema_version"]
            if version > SCHEMA_VERSION:
                raise DatasetTooNewError(
                    f"{where} has schema version {version}, this release reads up to "
                    f"{SCHEMA_VERSION}; install a later zml-dask"
                )
        # The bytes and not only the values: a flipped byte in white space counts too.
        if plain.pop("sha256", None) != _digest(plain):
            raise DatasetDamagedError(
                f"{where} does not fit its own checksum; run zml-dask verify --repair"
            )
        try:
            info = _from_plain(plain)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DatasetDamagedError(
                f"{where} does not say what it must ({error!r}); run zml-dask verify --repair"
            ) from error
        if info.to_bytes() != data:
            raise DatasetDamagedError(f"{where} was changed by hand; run zml-dask verify --repair")
        return info


def _from_plain(plain: Mapping[str, Any]) -> DatasetInfo:
    """Take over what was read; whoever wrote it, it may name and count only what there can be."""
    if plain["schema_version"].__class__ is not int:
        raise TypeError("schema_version")
    return DatasetInfo(
        shape=ImageShape(**_whole(plain["shape"], least=1)),
        counts=Counts(**_whole(plain["counts"])),
        tables={
            name: tuple(_part(name, part) for part in parts)
            for name, parts in plain["tables"].items()
        },
        manifest=tuple(_part("manifest", part) for part in plain["manifest"]),
        commits=tuple(Counts(**_whole(counts)) for counts in plain["commits"]),
        options={**plain["options"]},
        software={**plain["software"]},
        harvest=None if plain["harvest"] is None else {**plain["harvest"]},
        next_part=_whole(plain["next_part"]),
        schema_version=plain["schema_version"],
    )


def _whole(numbers: Mapping[str, Any], least: int = 0) -> dict[str, int]:
    for name, number in numbers.items():
        if number.__class__ is not int or not least <= number < 2**63:
            raise ValueError(f"{name} is {number!r}")
    return {**numbers}


def _part(table: str, plain: Mapping[str, Any]) -> Part:
    if table not in (*TABLES, "manifest"):
        raise ValueError(f"there is a table {table!r}")
    part = Part(**plain)
    _whole({"rows": part.rows, "size": part.size})
    if not re.fullmatch(rf"{table}\.parquet/part-\d{{5,}}\.parquet", part.path, re.ASCII):
        raise ValueError(f"a part of {table} is {part.path!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", part.sha256):
        raise ValueError(f"the SHA-256 of {part.path} is {part.sha256!r}")
    return part


def _digest(plain: Mapping[str, Any]) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def ensure_ours(storage: Storage) -> None:
    """Refuse a folder that holds anything else than a dataset, or the beginnings of one.

    Raises
    ------
    NotADatasetError
    """
    foreign = [name for name in storage.names() if name not in _NAMES]
    if foreign and not storage.exists(DATASET_JSON):
        raise NotADatasetError(
            f"{storage.url} holds {foreign[0]!r} and no dataset; check the path, or "
            "choose an empty or a new folder"
        )


_NAMES = {
    DATASET_JSON,
    DATASET_COPY,
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

    Raises
    ------
    NotADatasetError
        If there is a ``dataset.json`` of something else.
    DatasetDamagedError
        If it is not what was written, or gone.
    """
    try:
        data = storage.read(DATASET_JSON)
    except ObjectMissingError as error:
        if storage.exists(DATASET_COPY):
            # A build would begin anew, and write over what is committed.
            raise DatasetDamagedError(
                f"{storage.url}/{DATASET_JSON} is gone, but its copy is there; "
                "run zml-dask verify --repair"
            ) from error
        return None
    return DatasetInfo.from_bytes(data, f"{storage.url}/{DATASET_JSON}")


def committed_info(storage: Storage) -> DatasetInfo:
    """Read ``dataset.json`` of a dataset that must be there.

    Raises
    ------
    NoDatasetError
        If nothing is committed there.
    NotADatasetError, DatasetTooNewError, DatasetDamagedError
        As `read_info`.
    """
    info = read_info(storage)
    if info is None:
        raise NoDatasetError(
            f"{storage.url} holds no committed dataset; check the path, or build one with "
            "'zml-dask build' or 'zml-dask demo'"
        )
    return info


def write_info(storage: Storage, info: DatasetInfo) -> None:
    """Replace ``dataset.json``, atomically, then its copy."""
    storage.write(DATASET_JSON, info.to_bytes())
    refresh_copy(storage, info)


def refresh_copy(storage: Storage, info: DatasetInfo) -> None:
    """Bring the copy up to date, where a crash came between the two."""
    data = info.to_bytes()
    if not (storage.exists(DATASET_COPY) and storage.read(DATASET_COPY) == data):
        storage.write(DATASET_COPY, data)
