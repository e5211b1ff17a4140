"""Generated records, as many as a test needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from zml_dask.sandbox.answers import Content
from zml_dask.sandbox.archives import Source, zip_bytes
from zml_dask.sandbox.corpus import Corpus, SandboxRecord

_FIRST: Final = datetime(2014, 1, 1, tzinfo=UTC)
_SPAN: Final = timedelta(days=11 * 365)
_FIRST_ID: Final = 2_000_001


def synthetic_corpus(count: int, *, lines: int = 40, growth: float = 2.0) -> Corpus:
    """Make a corpus of `count` small records.

    Parameters
    ----------
    count : int
    lines : int, optional
        Length of the one source file in each archive.
    growth : float, optional
        1: as many records every year; above, more of them in later years.

    Examples
    --------
    >>> corpus = synthetic_corpus(3)
    >>> [record.record_id for record in corpus]
    [2000001, 2000003, 2000005]
    """
    return Corpus(
        synthetic_record(n, share=((n + 1) / count) ** (1 / growth), lines=lines)
        for n in range(count)
    )


def synthetic_record(number: int, *, share: float, lines: int = 40) -> SandboxRecord:
    """Make one record.

    Parameters
    ----------
    number : int
        Decides everything about it but its date.
    share : float
        When it was created: 0 the first day of the corpus, 1 the last.
    lines : int, optional
        Length of its source file.
    """
    created = _FIRST + share * _SPAN
    name = f"tool{number}"
    return SandboxRecord(
        record_id=_FIRST_ID + 2 * number,
        created=created,
        title=f"lab/{name}: release 1.0",
        version="v1.0",
        license=("mit", "apache-2.0", "gpl-3.0-only")[number % 3],
        keywords=("synthetic", f"group{number % 10}"),
        creators=(f"Author {number % 100}",),
        related=((f"https://github.com/lab/{name}/tree/v1.0", "isSupplementTo", "url"),),
        files={f"lab/{name}-v1.0.zip": Content(_archive(name, number, lines, created))},
    )


def _archive(name: str, number: int, lines: int, created: datetime) -> Callable[[], bytes]:
    def make() -> bytes:
        commit = hashlib.sha256(name.encode()).hexdigest()[:40]
        code = "".join(f"value_{line} = {number * line}\n" for line in range(lines))
        files = [Source(f"{name}.py", code.encode()), Source("README.md", f"# {name}\n".encode())]
        return zip_bytes(f"lab-{name}-{commit[:7]}", files, when=created, commit=commit)

    return make
