"""The table of failures: why a record can fail, at which stage, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Stage = Literal["catalogue", "fetch", "archive", "raster", "stage", "export", "worker"]
"""Where on its way a record failed; a column of the failures table."""

_AGAIN = "usually temporary: run the same build again"
_NEVER = "nothing to be done here"
_PERMANENT, _TRANSIENT = True, False


@dataclass(frozen=True, slots=True)
class Failure:
    """One kind of failure: its stage, and what to do about it.

    Where it is `permanent`, trying again later is pointless; such a record is only tried again with
    ``--retry-failed``.
    """

    stage: Stage
    permanent: bool
    advice: str


_TABLE: Final[Mapping[tuple[Stage, bool], Mapping[str, str]]] = {
    ("catalogue", _PERMANENT): {
        "bad_metadata": "the catalogue's line is no record: correct it, or harvest again",
        "bad_query": "the server cannot parse the query of a search: correct it",
    },
    ("fetch", _TRANSIENT): {
        "network": _AGAIN,
        "bad_answer": _AGAIN,
        "blocked": "the server blocks this address or client: wait, or ask who runs it",
        "connection": _AGAIN,
        "deadline": "a slow server or a large file: build again when the network is quieter",
        "embargoed": "an embargo ends by itself: zml-dask update asks again",
        "rate_limited": "the server's limit is used up: run the same build again later",
        "scratch": "check the workers' scratch folder, or name another with --scratch",
        "server_error": _AGAIN,
        "truncated": _AGAIN,
        "cache": "remove the record's entry from the cache and run zml-dask fetch again",
        "git": "the repository cannot be cloned; if it exists, build --retry-failed",
        "git_unreachable": _AGAIN,
        "not_in_cache": "run zml-dask fetch for the catalogue, then this build again",
        "source": "check the address in the catalogue",
    },
    ("fetch", _PERMANENT): {
        "bad_redirect": "the server sends elsewhere than it may: ask who runs it",
        "bad_request": "the record's metadata names a file that the server does not understand",
        "bad_url": "the record names an address that is not http(s); a catalogue of your own may",
        "checksum": "the file is not what the record promises: build --retry-failed, or report it",
        "forbidden": f"not public: {_NEVER} without its owner's token",
        "gone": f"withdrawn by its owners: {_NEVER}",
        "not_found": f"its files are no longer there: {_NEVER}",
        "range_unsupported": _NEVER,
        "too_large": "raise --max-archive-size, then build --retry-failed",
        "no_files": f"the record has metadata only: {_NEVER}",
        "restricted": f"not public: {_NEVER} without its owner's token",
    },
    ("archive", _TRANSIENT): {
        "unreadable_source": "check the disk or mount that holds the source, then import again"
    },
    ("archive", _PERMANENT): {
        "archive_time": "raise max_seconds in the options' [limits], then build --retry-failed",
        "damaged_legacy": "neither its pickle nor its HDF5 file can be read: restore one of them",
        "hostile_pickle": f"its pickle would run code, and is not read: {_NEVER}",
        "unreadable_archive": f"no archive that can be read: {_NEVER}, unless its owners repair it",
    },
    ("worker", _TRANSIENT): {
        "disk_full": "free space in the workers' scratch folder, or name another with --scratch",
        "internal": "a mistake of this software: report it with the message",
        "memory": "give workers more memory, then run the same build again",
    },
    ("worker", _PERMANENT): {
        "worker_killed": "give workers more memory, then build --retry-failed"
    },
}
"""Stage and whether it is permanent -> kind -> what to do about it."""

FAILURES: Final = {
    kind: Failure(stage, permanent, advice)
    for (stage, permanent), kinds in _TABLE.items()
    for kind, advice in kinds.items()
}
"""Kind -> failure. `zml_dask.errors.RecordError` is raised with one of these kinds."""


def advice_for(kind: str, *, permanent: bool) -> str:
    """Return advice on a kind of failure, also on one of another release.

    Examples
    --------
    >>> advice_for("no_files", permanent=True)
    'the record has metadata only: nothing to be done here'
    """
    known = FAILURES.get(kind)
    if known is not None:
        return known.advice
    return "build --retry-failed tries it again" if permanent else _AGAIN
