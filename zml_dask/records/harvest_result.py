"""What a harvest says of itself, on its way and at its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HarvestProgress:
    """How far a harvest is.

    Attributes
    ----------
    found : int
        Records of type software seen in this round.
    total : int
        Hits that the server told at its beginning.
    written, excluded : int
    slices : int
        Known to be still to do.
    """

    found: int
    total: int
    written: int
    excluded: int
    slices: int


@dataclass(frozen=True, slots=True)
class HarvestResult:
    """What a harvest did.

    Attributes
    ----------
    found : int
        Records of type software seen in this round.
    written : int
        Lines that this call added to the catalogue.
    excluded : int
        Records left out by the pattern.
    total : int
        Hits that the server told at the round's beginning.
    missing : int
        Hits that the server told of and did not give.
    records : int
        Records in the catalogue now.
    finished : bool
        False where the limit ended it.
    """

    found: int
    written: int
    excluded: int
    total: int
    missing: int
    records: int
    finished: bool
