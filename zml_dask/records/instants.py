"""Instants as Zenodo writes them: ISO 8601, UTC, kept by its index to the millisecond."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from zml_dask.errors import UsageError


def parse_bound(text: str, *, option: str, is_end: bool = False) -> str:
    """Parse a date or an instant that bounds a harvest; a date as an end includes its whole day.

    Raises `UsageError` if `text` is neither.

    Examples
    --------
    >>> parse_bound("2024-02-01", option="--since")
    '2024-02-01T00:00:00.000Z'
    >>> parse_bound("2024-02-01", option="--until", is_end=True)
    '2024-02-01T23:59:59.999Z'
    """
    try:
        if len(text) <= len("2024-02-01"):
            day = date.fromisoformat(text)
            return format_instant(datetime.combine(day, time.max if is_end else time.min, UTC))
        return format_instant(parse_instant(text))
    except ValueError:
        raise UsageError(f"{option} takes a date such as 2024-02-01, not {text!r}") from None


def format_instant(moment: datetime) -> str:
    """Write an aware instant, to the millisecond.

    Examples
    --------
    >>> format_instant(datetime(2024, 2, 1, tzinfo=UTC))
    '2024-02-01T00:00:00.000Z'
    """
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def parse_instant(text: str) -> datetime:
    """Parse an ISO 8601 instant as aware UTC; one without a zone is UTC, as Zenodo's are."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def instant_of(value: object) -> datetime | None:
    """Parse an instant of a hit, to the millisecond; None for anything else."""
    try:
        return to_millisecond(parse_instant(value)) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def to_millisecond(moment: datetime) -> datetime:
    """Cut an instant to the millisecond, as the search's index keeps it."""
    return moment - timedelta(microseconds=moment.microsecond % 1000)
