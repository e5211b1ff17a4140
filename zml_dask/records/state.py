"""What a harvest was asked for and how far it got: the sidecar of its catalogue."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from zml_dask.errors import UsageError
from zml_dask.records.parse import ZENODO_API

STATE_SUFFIX: Final = ".state.json"
DEFAULT_EXCLUDE: Final = "gcube"
_FORMAT: Final = 1


class HarvestStateError(UsageError):
    """A sidecar that cannot be read, or that belongs to another harvest than the one asked for."""


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


@dataclass(frozen=True, slots=True)
class HarvestState:
    """Where a harvest stands.

    Attributes
    ----------
    options : HarvestOptions
    pending : tuple of (str or None, str or None)
        Slices of creation still to be asked, the current one first; None is an
        open end.
    offset : int
        Hits of the current slice that are in the catalogue.
    slice_total : int
        Least number of hits that the server told for the current slice.
    total : int
        Hits that the server told when the round began.
    found, excluded : int
        Records of type software seen in this round, and those of them left out.
    told : int
        Sum of the totals of this round's finished slices.
    missing : int
        Hits that the server told of in this round and did not give.
    started : str or None
        The server's clock when the round began.
    complete_until : str or None
        Everything created before this instant was seen by the last finished round.
    catalogue_bytes : int
        Length of the catalogue when this was written.
    finished : bool
    """

    options: HarvestOptions = field(default_factory=HarvestOptions)
    pending: tuple[tuple[str | None, str | None], ...] = ()
    offset: int = 0
    slice_total: int = 0
    total: int = 0
    found: int = 0
    excluded: int = 0
    told: int = 0
    missing: int = 0
    started: str | None = None
    complete_until: str | None = None
    catalogue_bytes: int = 0
    finished: bool = False

    def to_json(self) -> str:
        """Give the sidecar's text."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> Self:
        """Read a sidecar's text; `name` is for the error message.

        Raises
        ------
        HarvestStateError
            If it is not one, or was written by a later version.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != _FORMAT:
                raise HarvestStateError(
                    f"{name} was written by another version of zml-dask: harvest into a new file"
                )
            options = HarvestOptions(**content.pop("options"))
            pending = tuple((begin, end) for begin, end in content.pop("pending"))
            return cls(options=options, pending=pending, **content)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise HarvestStateError(
                f"{name} is damaged: remove it together with its catalogue and harvest again"
            ) from None


def state_path(catalogue: str) -> str:
    """Where the sidecar of a catalogue lies."""
    return catalogue + STATE_SUFFIX


def save_state(catalogue: Path, state: HarvestState) -> None:
    """Write the sidecar of a local catalogue, whole or not at all."""
    target = Path(state_path(str(catalogue)))
    scratch = target.with_name(target.name + ".new")
    with scratch.open("w", encoding="utf-8") as stream:
        stream.write(state.to_json())
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(target)


def load_state(catalogue: Path) -> HarvestState | None:
    """Read the sidecar of a local catalogue; None where there is none.

    Raises
    ------
    HarvestStateError
        If it is damaged.
    """
    path = Path(state_path(str(catalogue)))
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return HarvestState.from_json(text, str(path))


def options_from(content: Mapping[str, Any]) -> HarvestOptions:
    """Make options of a mapping such as ``dataset.json`` keeps; unknown names are passed over."""
    names = {one.name for one in dataclasses.fields(HarvestOptions)}
    return HarvestOptions(**{name: value for name, value in content.items() if name in names})
