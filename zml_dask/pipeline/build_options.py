"""The options of a build: one frozen dataclass, from keywords or from a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from zml_dask.arguments import checked
from zml_dask.decoding import decode
from zml_dask.errors import UsageError, require
from zml_dask.fetch.foreign import FOREIGN_MEMORY
from zml_dask.fetch.member import FetchLimits
from zml_dask.legacy.legacy_record import LegacyFormat
from zml_dask.raster.language import IDENTIFIERS
from zml_dask.store.layout import IMAGES, ImageShape, check_level

EXPORT_FORMATS: tuple[str, ...] = get_args(LegacyFormat)
"""The legacy per-record files (2018), which a build may write beside the dataset."""

_CONTENT = (
    "about",
    "image",
    "limits",
    "keep_binary",
    "language",
    "export",
    "api_url",
    "github_url",
)
"""What ``dataset.json`` records: what decides the dataset's content, and what it is called.

Neither paths of this machine nor anything secret is among them.
"""

_INTERPRETER = 260 * 2**20
"""Python with NumPy, Numba, Arrow, Zarr and Dask, as measured on a worker at rest."""

_SPOOLS = 2 * 16 * 2**20
"""Text of a record and its compressed form, before either goes to scratch."""

_FETCH = 8 * 2**20
"""A download's pieces and a decompressor's window; archives themselves are on disk."""

_ROW = 1_500
"""Bytes that one file's row takes in memory while its record is sorted, at most."""

_PIXEL = 4


@checked
@dataclass(frozen=True, slots=True)
class About:
    """A dataset's description in citations, Croissant, RO-Crate and its card.

    Attributes
    ----------
    title : str or None
    creators : tuple of str
        Each ``"Family, Given"``, or the name of an organisation.
    license : str or None
        SPDX identifier or URL, of the collection; every record keeps its own.
    doi : str or None
        As ``10.5072/zenodo.7``.

    Examples
    --------
    >>> About(doi="https://example.org/7")
    Traceback (most recent call last):
    zml_dask.errors.UsageError: about.doi: 'https://example.org/7' is no DOI; write 10.5072/zenodo.7
    """

    title: str | None = None
    creators: tuple[str, ...] = ()
    license: str | None = None
    doi: str | None = None

    def __post_init__(self) -> None:
        if self.doi is not None and not re.fullmatch(r"10\.\d{4,9}/[^\s\"<>]+", self.doi):
            raise UsageError(f"about.doi: {self.doi!r} is no DOI; write 10.5072/zenodo.7")


@checked
@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of a build, apart from its records, its dataset and its cluster.

    Attributes
    ----------
    about : About
        Title, creators, licence and DOI of the dataset.
    image : ImageShape
        Lines and characters of an image.
    level : int or None
        Compression level of a new dataset, 1 (fast) to 9 (small); None for the default.
    limits : FetchLimits
        Limits of a record: bytes, members, depth, seconds.
    keep_binary : bool
        Also rasterise files with NUL bytes, as in 2018.
    language : str
        How the languages of files are detected: ``"linguist"`` or ``"magika"`` (its extra).
    export : tuple of str
        Legacy (2018) files to write during the build: ``"pickle"``, ``"hdf5"``, ``"tree"``.
    api_url : str or None
        Server of the records' files; by default the one from which the catalogue was harvested.
    github_url : str
        Base URL of the repositories that replace unavailable archives.
    token_file : str or None
        File with the access token, read on the worker; the token itself is never stored.
    cache : str or None
        Folder or URL of archives fetched beforehand (``zml-dask fetch``).
    offline : bool
        Use only the cache: a record that is not in it fails.
    retry_failed : bool
        Try permanent failures again.
    scratch : str or None
        Node-local folder for archives while they are read; by default the system's.
    partition_records : int
        Maximum number of records in a task.
    partition_bytes : int
        Archive bytes after which a task is full, so that long archives are alone.
    prefetch : int
        Archives that a worker downloads ahead of the one it reads.

    Examples
    --------
    >>> BuildOptions(export=("pickle",)).export
    ('pickle',)
    """

    about: About = field(default_factory=About)
    image: ImageShape = field(default_factory=ImageShape)
    level: int | None = None
    limits: FetchLimits = field(default_factory=FetchLimits)
    keep_binary: bool = False
    language: str = "linguist"
    export: tuple[str, ...] = ()
    api_url: str | None = None
    github_url: str = "https://github.com"
    token_file: str | None = None
    cache: str | None = None
    offline: bool = False
    retry_failed: bool = False
    scratch: str | None = None
    partition_records: int = 64
    partition_bytes: int = 256 * 2**20
    prefetch: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.export if name not in EXPORT_FORMATS]
        if unknown:
            raise UsageError(
                f"export: unknown format {unknown[0]!r}; choose from {', '.join(EXPORT_FORMATS)}"
            )
        if self.language not in IDENTIFIERS:
            known = ", ".join(IDENTIFIERS)
            raise UsageError(f"language: unknown identifier {self.language!r}; choose from {known}")
        if self.language == "magika":
            require("magika", "magika", "language: magika, here and on the workers,")
        if self.offline and not self.cache:
            raise UsageError("offline: needs a cache to build from; name it with --cache")
        if self.level is not None:
            check_level(self.level)
        for name in ("partition_records", "partition_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: must be 1 or more, not {getattr(self, name)}")
        if self.prefetch < 0:
            raise UsageError(f"prefetch: must be 0 or more, not {self.prefetch}")
        if not (1 <= self.image.height <= 65_535 and 1 <= self.image.width <= 65_535):
            size = f"{self.image.height} lines by {self.image.width} characters"
            raise UsageError(f"image: {size} is invalid: both must lie between 1 and 65,535")

    def recorded(self) -> dict[str, Any]:
        """Return what ``dataset.json`` keeps of the options: what decides the content, no secret.

        Examples
        --------
        >>> sorted(BuildOptions(token_file="/home/me/token").recorded())
        ['about', 'api_url', 'export', 'github_url', 'image', 'keep_binary', 'language', 'limits']
        """
        known = asdict(self)
        about = known["about"] | {"creators": list(self.about.creators)}
        known["about"] = {name: value for name, value in about.items() if value}
        return {name: known[name] for name in _CONTENT}


def read_options(
    path: Path | str,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> BuildOptions:
    """Read options from a TOML file.

    Top-level keys are the fields of :class:`BuildOptions`; tables ``[image]`` (``height``,
    ``width``), ``[limits]`` and ``[about]`` hold those of theirs. `overrides` take precedence over
    the file, and `defaults` fill what it leaves out; both are shaped like it.

    Raises `UsageError` if the file cannot be read, or names an option that does not exist or a
    value of the wrong type.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{path}: the options cannot be read: {reason}") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    try:
        return options_from(merged(merged(defaults, content), overrides))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def options_from(content: Mapping[str, Any]) -> BuildOptions:
    """Build options from a mapping shaped like the TOML file.

    Raises `UsageError` if a name is unknown or a value of the wrong type.

    Examples
    --------
    >>> options_from({"keep_binary": True, "image": {"height": 40}}).image.height
    40
    """
    return decode(content, BuildOptions)


def recorded_options(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``dataset.json`` keeps of the options, shaped like the TOML file.

    Examples
    --------
    >>> recorded_options({"image": {"height": 40}, "api_url": None, "saved_from": {}})
    {'image': {'height': 40}}
    """
    return {name: recorded[name] for name in _CONTENT if recorded.get(name) is not None}


def merged(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with `overrides` put over it, table by table.

    Examples
    --------
    >>> merged({"image": {"height": 40}}, {"image": {"width": 60}})
    {'image': {'height': 40, 'width': 60}}
    """
    result = dict(content)
    for name, override in overrides.items():
        below = result.get(name)
        if isinstance(override, Mapping) and isinstance(below, Mapping):
            result[name] = {**below, **override}
        else:
            result[name] = override
    return result


def memory_need(options: BuildOptions, shard: int = IMAGES.shard) -> tuple[int, int]:
    """Return the most bytes that a worker holds to stage a record, and to commit a shard of images.

    It does one or the other at a time. A record takes the text of its largest file in several
    forms, what waits in memory before it goes to scratch, and the process beside the worker that
    reads 7z, RAR and the like.

    Examples
    --------
    >>> max(memory_need(BuildOptions())) < 2**30
    True
    """
    # A file's bytes, decoded (up to four bytes a character), normalised (a tab
    # becomes four spaces), and as images: one line of one character fills 320 bytes.
    lines = options.image.width * _PIXEL if options.export else 0
    file = options.limits.max_file_bytes * (1 + 4 + 4 + lines)
    record = file + FOREIGN_MEMORY + _SPOOLS + (1 + options.prefetch) * _FETCH + 65_536 * _ROW
    image = options.image.height * options.image.width * _PIXEL
    # One shard drawn, and its chunks encoded: source and codes barely shrink in
    # the worst case, which the quarter stands for.
    return _INTERPRETER + record, _INTERPRETER + shard * image * 5 // 4


def memory_warning(options: BuildOptions, shard: int, limits: list[int]) -> str | None:
    """Say in one line where workers have less memory than they may need; None where it is enough.

    `shard` is the number of images in one, `limits` the bytes of each worker (0 for no limit).

    Examples
    --------
    >>> memory_warning(BuildOptions(), 4096, [2**32]) is None
    True
    """
    from dask.utils import format_bytes  # here, since a record is processed without Dask

    of_record, of_shard = memory_need(options, shard)
    smallest = min([limit for limit in limits if limit], default=None)
    if smallest is None or smallest >= max(of_record, of_shard):
        return None
    return (
        f"a worker may need {format_bytes(of_shard)} for a shard and {format_bytes(of_record)} for "
        f"a record, and the smallest has {format_bytes(smallest)}: "
        "records that do not fit will fail; use fewer, larger workers"
    )
