"""When a worker must leave so that its job's end does not kill it at work."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A tenth of the walltime, within bounds: enough for a slow start (modules on a
# shared disk) and for handing work back, and little lost on long jobs.
_MARGIN_SHARE = 0.1
_SHORTEST_MARGIN = 10.0
_LONGEST_MARGIN = 600.0

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long workers stay, in seconds.

    Attributes
    ----------
    duration : int
        Mean time.
    stagger : int
        Each worker's time is drawn from ``duration - stagger`` to
        ``duration + stagger``, so that they do not all leave at once.
    """

    duration: int
    stagger: int


def parse_walltime(text: str, system: str = "slurm") -> float | None:
    """Seconds of a queue's walltime.

    Parameters
    ----------
    text : str
        As in the queue's own words: ``"2-12:00:00"``, ``"23:59:00"``, ``"90"``.
    system : str
        Whose words: two parts are minutes and seconds for SLURM, but hours and
        minutes for LSF; a plain number is minutes for both, seconds elsewhere.

    Returns
    -------
    float or None
        None where there is no limit or the text is unknown to us.

    Examples
    --------
    >>> parse_walltime("1-06:00:00"), parse_walltime("00:30:00", "pbs")
    (108000.0, 1800.0)
    >>> parse_walltime("02:00", "slurm"), parse_walltime("02:00", "lsf")
    (120.0, 7200.0)
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    days = int(match[1] or 0)
    parts = [int(part) for part in match.groups()[1:] if part is not None]
    units: tuple[int, ...]
    if match[1] is not None or (system == "lsf" and len(parts) > 1):
        units = (3600, 60, 1)
    elif len(parts) == 1:
        units = (60,) if system in {"slurm", "lsf"} else (1,)
    else:
        units = (3600, 60, 1)[-len(parts) :]
    return float(days * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False)))


def lifetime_within(walltime: float) -> Lifetime | None:
    """When workers of jobs of this walltime leave; None where it is too short for that.

    Examples
    --------
    >>> lifetime_within(86_400.0)
    Lifetime(duration=85320, stagger=480)
    """
    margin = min(max(_SHORTEST_MARGIN, walltime * _MARGIN_SHARE), _LONGEST_MARGIN)
    stagger = margin * 0.8
    duration = walltime - margin - stagger
    if duration < margin:
        return None
    return Lifetime(int(duration), int(stagger))
