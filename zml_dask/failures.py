"""The table of failures: why a record can fail, where on its way, for how long, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Stage = Literal["catalogue", "fetch", "archive", "raster", "stage", "export", "worker"]
"""Where on its way a record failed; a column of the failures table."""

_AGAIN = "passes by itself, as a rule: run the same build again"
_NEVER = "nothing to be done here"


@dataclass(frozen=True, slots=True)
class Failure:
    """One kind of failure.

    Attributes
    ----------
    stage : Stage
    permanent : bool
        Whether trying again later is pointless; such a record is only tried
        again with ``--retry-failed``.
    advice : str
        What to do about it.
    """

    stage: Stage
    permanent: bool
    advice: str


FAILURES: Final[dict[str, Failure]] = {
    "bad_metadata": Failure(
        "catalogue", True, "the catalogue's line is no record: correct it, or harvest anew"
    ),
    # the network
    "network": Failure("fetch", False, _AGAIN),
    "bad_answer": Failure("fetch", False, _AGAIN),
    "bad_query": Failure(
        "catalogue", True, "the server cannot parse the query of a search: correct it"
    ),
    "bad_redirect": Failure(
        "fetch", True, "the server sends elsewhere than it may: ask who runs it"
    ),
    "bad_request": Failure(
        "fetch", True, "the record's metadata names a file that the server does not understand"
    ),
    "bad_url": Failure(
        "fetch",
        True,
        "the record names an address that is not http(s); a catalogue of your own may",
    ),
    "blocked": Failure(
        "fetch", False, "the server blocks this address or client: wait, or ask who runs it"
    ),
    "checksum": Failure(
        "fetch",
        True,
        "the file is not what the record promises: build --retry-failed, or report it",
    ),
    "connection": Failure("fetch", False, _AGAIN),
    "deadline": Failure(
        "fetch", False, "a slow server or a large file: build again when the network is quieter"
    ),
    "embargoed": Failure("fetch", False, "an embargo ends by itself: zml-dask update asks again"),
    "forbidden": Failure("fetch", True, f"not public: {_NEVER} without its owner's token"),
    "gone": Failure("fetch", True, f"withdrawn by its owners: {_NEVER}"),
    "not_found": Failure("fetch", True, f"its files are no longer there: {_NEVER}"),
    "range_unsupported": Failure("fetch", True, _NEVER),
    "rate_limited": Failure(
        "fetch", False, "the server's limit is used up: run the same build again later"
    ),
    "scratch": Failure(
        "fetch", False, "check the workers' scratch folder, or name another with --scratch"
    ),
    "server_error": Failure("fetch", False, _AGAIN),
    "too_large": Failure("fetch", True, "raise --max-archive-size, then build --retry-failed"),
    "truncated": Failure("fetch", False, _AGAIN),
    # where the code comes from
    "cache": Failure(
        "fetch", False, "remove the record's entry from the cache and run zml-dask fetch again"
    ),
    "git": Failure(
        "fetch",
        False,
        "the repository cannot be cloned; if it is there, build --retry-failed",
    ),
    "git_unreachable": Failure("fetch", False, _AGAIN),
    "no_files": Failure("fetch", True, f"the record has metadata only: {_NEVER}"),
    "not_in_cache": Failure(
        "fetch", False, "run zml-dask fetch for the catalogue, then this build again"
    ),
    "restricted": Failure("fetch", True, f"not public: {_NEVER} without its owner's token"),
    "source": Failure("fetch", False, "check the address in the catalogue"),
    # archives
    "archive_time": Failure(
        "archive", True, "raise max_seconds in the options' [limits], then build --retry-failed"
    ),
    "damaged_legacy": Failure(
        "archive", True, "neither its pickle nor its HDF5 file can be read: restore one of them"
    ),
    "hostile_pickle": Failure(
        "archive", True, f"its pickle would run code, and is not read: {_NEVER}"
    ),
    "unreadable_archive": Failure(
        "archive", True, f"no archive that can be read: {_NEVER}, unless its owners repair it"
    ),
    "unreadable_source": Failure(
        "archive", False, "check the disk or mount that holds the source, then import again"
    ),
    # the worker
    "disk_full": Failure(
        "worker",
        False,
        "free space in the workers' scratch folder, or name another with --scratch",
    ),
    "internal": Failure("worker", False, "a mistake of this software: report it with the message"),
    "memory": Failure("worker", False, "give workers more memory, then run the same build again"),
    "worker_killed": Failure("worker", True, "give workers more memory, then build --retry-failed"),
}
"""Kind -> failure. `zml_dask.errors.RecordError` is raised with one of these kinds."""


def advice_for(kind: str, *, permanent: bool) -> str:
    """Say in a few words what to do about a kind of failure, also one of another release.

    Examples
    --------
    >>> advice_for("no_files", permanent=True)
    'the record has metadata only: nothing to be done here'
    """
    known = FAILURES.get(kind)
    if known is not None:
        return known.advice
    return "build --retry-failed tries it again" if permanent else _AGAIN
