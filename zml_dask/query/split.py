"""Splits without leakage, that stay as they are when the dataset grows.

Versions of one concept must not straddle parts, nor must files of identical
content. To merge whatever shares a file into one group would keep both
promises, but what many share (a licence's text, a vendored library, the empty
file) chains records together: of the 50 concepts of the demo one group holds
37. Such groups only grow, and a record that is added tomorrow may join two that
lie in different parts. So the parts are drawn by a hash of the concept alone, which no other record
has a say in; and of content that comes in several parts, only the copies in
one of them are kept: in that of the file that was committed first. The others
are *left out* of the split. What a later commit adds stands further down the
files table, whatever its record's number (an older record may well come later:
its download failed, or another query found it), so that it leaves out copies of
its own and none of those that were there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zml_dask.errors import UsageError
from zml_dask.query.gather import as_codes, gather
from zml_dask.query.rows import Int64
from zml_dask.query.selection import Selection
from zml_dask.query.view import View
from zml_dask.store.snapshot import Snapshot

ViewT = TypeVar("ViewT", bound=View)

LEFT_OUT = -1

_CONTENTS = ("sha256", "text_sha256")
"""Identical bytes, and identical images."""


class SplitError(UsageError):
    """The parts of a split are not what parts can be."""


class Split(dict[str, ViewT]):
    """Name of a part -> its view.

    Attributes
    ----------
    left_out : View
        Copies of content that another part has; in no part.
    """

    left_out: ViewT


def assign_parts(
    snapshot: Snapshot,
    selection: Selection,
    fractions: Mapping[str, float],
    by: str = "concept",
    seed: int = 0,
) -> NDArray[np.int64]:
    """Assign each file of a selection to a part.

    Parameters
    ----------
    snapshot : Snapshot
    selection : Selection
    fractions : mapping of str to float
        Part -> its share; they add up to 1. Their order does not matter.
    by : str
        What must not be divided: ``"concept"`` (all versions of a record),
        ``"record"``, ``"file"``, or any column (``"repository"``).
    seed : int
        Another one gives another split.

    Returns
    -------
    numpy.ndarray of int64, shape (files,)
        Number of the part in the order of `fractions`, or `LEFT_OUT`.

    Raises
    ------
    SplitError
        If the fractions name no parts, or do not add up to 1.
    """
    if not isinstance(fractions, Mapping):
        raise SplitError(
            f"{fractions!r} names no parts; give their shares, {{'train': 0.8, 'test': 0.2}} say"
        )
    names = sorted(fractions)
    shares = [fractions[name] for name in names]
    if not names or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise SplitError(
            f"the shares {dict(fractions)} should be positive and add up to 1; "
            "give for example {'train': 0.8, 'test': 0.2}"
        )
    edges = np.cumsum(shares)[:-1]
    groups, group_of_file = _groups(snapshot, selection, by)
    drawn = np.searchsorted(edges, [_fraction(seed, group) for group in groups], "right")
    order = np.array([list(fractions).index(name) for name in names], np.int64)
    parts: NDArray[np.int64] = order[drawn][group_of_file]
    contents = gather(snapshot, selection, _CONTENTS)
    for name in _CONTENTS:
        _leave_out_copies(parts, contents[name], selection)
    return parts


def _groups(snapshot: Snapshot, selection: Selection, by: str) -> tuple[list[str], Int64]:
    """Find the groups that stay together: their names, and the group of each file."""
    if by == "record":
        numbers, places = np.unique(selection.record_id, return_inverse=True)
        return [str(number) for number in numbers.tolist()], places
    column = {"concept": "concept_id", "file": "sha256"}.get(by, by)
    values = gather(snapshot, selection, [column])[column]
    if pa.types.is_list(values.type):
        raise SplitError(f"{by!r} holds lists; a split needs one value a file")
    places, different = as_codes(values)
    names = [str(value) for value in different]
    # What has no value stands for itself: a record without a concept is one, and
    # a file whose bytes were not read has nobody's content.
    alone = selection.file_id if by == "file" else selection.record_id
    numbers, back = np.unique(alone[places < 0], return_inverse=True)
    places[places < 0] = len(names) + back
    own = "file " if by == "file" else ("" if by == "concept" else "record ")
    return [*names, *(f"{own}{number}" for number in numbers.tolist())], places


def _fraction(seed: int, group: str) -> float:
    """Draw a number from 0 to 1 for a group, always the same one."""
    digest = hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _leave_out_copies(parts: Int64, content: pa.ChunkedArray, selection: Selection) -> None:
    """Of content in several parts, keep the copies in the part of the first file."""
    codes, _ = as_codes(content)
    known = np.flatnonzero((codes >= 0) & (parts != LEFT_OUT))
    order = known[np.lexsort((selection.file_id[known], codes[known]))]
    _, first, inverse = np.unique(codes[order], return_index=True, return_inverse=True)
    home = parts[order][first][inverse]
    parts[order[parts[order] != home]] = LEFT_OUT
