"""What to do about each kind of failure."""

from __future__ import annotations

_AGAIN = "passes by itself, as a rule: run the same build again"
_NEVER = "nothing to be done here"

ADVICE = {
    "archive_time": "raise max_seconds in the options' [limits], then build --retry-failed",
    "bad_answer": _AGAIN,
    "bad_metadata": "the catalogue's line is no record: correct it, or harvest anew",
    "bad_redirect": "the server sends elsewhere than it may: ask who runs it",
    "bad_request": "the record's metadata names a file that the server does not understand",
    "bad_url": "the record names an address that is not http(s); a catalogue of your own may",
    "blocked": "the server blocks this address or client: wait, or ask who runs it",
    "cache": "remove the record's entry from the cache and run zml-dask fetch again",
    "checksum": "the file is not what the record promises: build --retry-failed, or report it",
    "connection": _AGAIN,
    "damaged_legacy": "neither its pickle nor its HDF5 file can be read: restore one of them",
    "deadline": "a slow server or a large file: build again when the network is quieter",
    "disk_full": "free space in the workers' scratch folder, or name another with --scratch",
    "embargoed": "an embargo ends by itself: zml-dask update asks again",
    "forbidden": f"not public: {_NEVER} without its owner's token",
    "git": "the repository cannot be cloned; if it is there, build --retry-failed",
    "git_unreachable": _AGAIN,
    "gone": f"withdrawn by its owners: {_NEVER}",
    "hostile_pickle": f"its pickle would run code, and is not read: {_NEVER}",
    "internal": "a mistake of this software: report it with the message",
    "memory": "give workers more memory, then run the same build again",
    "network": _AGAIN,
    "no_files": f"the record has metadata only: {_NEVER}",
    "not_found": f"its files are no longer there: {_NEVER}",
    "not_in_cache": "run zml-dask fetch for the catalogue, then this build again",
    "rate_limited": "the server's limit is used up: run the same build again later",
    "restricted": f"not public: {_NEVER} without its owner's token",
    "scratch": "check the workers' scratch folder, or name another with --scratch",
    "server_error": _AGAIN,
    "source": "check the address in the catalogue",
    "too_large": "raise --max-archive-size, then build --retry-failed",
    "truncated": _AGAIN,
    "unreadable_archive": f"no archive that can be read: {_NEVER}, unless its owners mend it",
    "unreadable_source": "see to the disk or mount that holds the source, then import again",
    "worker_killed": "give workers more memory, then build --retry-failed",
}


def advice_for(kind: str, *, permanent: bool) -> str:
    """Say in a few words what to do about a kind of failure.

    Examples
    --------
    >>> advice_for("no_files", permanent=True)
    'the record has metadata only: nothing to be done here'
    """
    known = ADVICE.get(kind)
    if known is not None:
        return known
    return "build --retry-failed tries it again" if permanent else _AGAIN
