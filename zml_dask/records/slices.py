"""Slices of time: how a search that shows 10,000 results is made to show all."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from zml_dask.errors import UsageError

Slice = tuple[str | None, str | None]
"""First and last instant, both inclusive, as ISO 8601 in UTC; None is an open end."""

# Zenodo opened in May 2013.
EARLIEST: Final = datetime(2013, 1, 1, tzinfo=UTC)
# Zenodo's index keeps milliseconds, so no slice can be finer.
_FINEST: Final = timedelta(milliseconds=2)
# Longer ones are cut at whole seconds, which read better.
_COARSE: Final = timedelta(seconds=4)


class BadDateError(UsageError):
    """A bound that is neither a date nor an instant."""


def instant(text: str, *, option: str, is_end: bool = False) -> str:
    """Read a date or an instant; a date that ends something includes its whole day.

    Raises
    ------
    BadDateError
        If `text` is neither.

    Examples
    --------
    >>> instant("2024-02-01", option="--since")
    '2024-02-01T00:00:00.000Z'
    >>> instant("2024-02-01", option="--until", is_end=True)
    '2024-02-01T23:59:59.999Z'
    """
    try:
        if len(text) <= len("2024-02-01"):
            day = date.fromisoformat(text)
            moment = datetime.combine(day, time.max if is_end else time.min, UTC)
        else:
            moment = datetime.fromisoformat(text)
            # A time without a zone is UTC, as Zenodo's are.
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise BadDateError(f"{option} takes a date such as 2024-02-01, not {text!r}") from None
    return written(moment)


def written(moment: datetime) -> str:
    """Write an aware instant to the millisecond.

    Examples
    --------
    >>> written(datetime(2024, 2, 1, tzinfo=UTC))
    '2024-02-01T00:00:00.000Z'
    """
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def read(text: str) -> datetime:
    """Read what `written` wrote, or another ISO 8601 instant, as aware UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def halves(whole: Slice, *, first: datetime, now: datetime) -> tuple[Slice, Slice] | None:
    """Cut a slice in the middle; None for one too short to cut.

    The halves share the instant in the middle: a record created in that very
    millisecond is found twice rather than, by some rounding, never.

    Parameters
    ----------
    whole : Slice
    first, now : datetime
        What stands for an open beginning and an open end.

    Examples
    --------
    >>> day = ("2024-02-01T00:00:00.000Z", "2024-02-02T00:00:00.000Z")
    >>> halves(day, first=EARLIEST, now=EARLIEST)[0]
    ('2024-02-01T00:00:00.000Z', '2024-02-01T12:00:00.000Z')
    """
    begin = first if whole[0] is None else read(whole[0])
    end = now if whole[1] is None else read(whole[1])
    if end - begin < _FINEST:
        return None
    middle = begin + (end - begin) / 2
    if end - begin > _COARSE:
        middle = middle.replace(microsecond=0)
    return (whole[0], written(middle)), (written(middle), whole[1])
