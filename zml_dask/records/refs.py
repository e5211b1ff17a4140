"""References to the records of a catalogue, of 32 bytes each: half a million take 16 MB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where one record is in its catalogue."""

    record_id: int
    # Of its JSON in the catalogue, bytes; in a Parquet catalogue, the number of its row.
    offset: int
    length: int  # of its JSON, bytes
    archive_bytes: int  # sum of the sizes that the record states for its files


class RefTable(Sequence[RecordRef]):
    """An immutable sequence of references, unique and in record-id order.

    `rows` is int64 (n, 4), with columns as in `RecordRef`; of several rows with one id the last
    counts. `is_sorted` says that the ids are unique and ascending already.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: NDArray[np.int64], *, is_sorted: bool = False) -> None:
        if not is_sorted:
            # Of equal ids np.unique keeps the first, hence the reversal.
            backwards = rows.reshape(-1, 4)[::-1]
            _, first = np.unique(backwards[:, 0], return_index=True)
            rows = backwards[first]
        self._rows = rows
        self._rows.setflags(write=False)

    @classmethod
    def of(cls, refs: Iterable[RecordRef]) -> Self:
        """Make a table from references."""
        rows = [(ref.record_id, ref.offset, ref.length, ref.archive_bytes) for ref in refs]
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 4))

    def take(self, positions: Sequence[int] | NDArray[np.int64 | np.bool_]) -> RefTable:
        """Return the references at some positions (in any order), or those where a mask is true.

        Examples
        --------
        >>> table = RefTable.of(RecordRef(i, 0, 0, 0) for i in (7, 8, 9))
        >>> table.take([2, 0]).record_ids.tolist()
        [7, 9]
        """
        chosen = np.asarray(positions)
        if chosen.dtype != np.bool_:
            chosen = np.unique(chosen.astype(np.int64))
        return RefTable(self._rows[chosen], is_sorted=True)

    @property
    def record_ids(self) -> NDArray[np.int64]:
        """Ids, ascending: int64 (n,)."""
        return self._rows[:, 0]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each record begins in its catalogue: int64 (n,)."""
        return self._rows[:, 1]

    @property
    def archive_bytes(self) -> NDArray[np.int64]:
        """Bytes of each record's files: int64 (n,)."""
        return self._rows[:, 3]

    def find(self, record_id: int) -> RecordRef | None:
        """Return the reference of one record, or None."""
        place = int(np.searchsorted(self.record_ids, record_id))
        if place < len(self) and self.record_ids[place] == record_id:
            return self[place]
        return None

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RecordRef: ...
    @overload
    def __getitem__(self, index: slice) -> RefTable: ...
    def __getitem__(self, index: int | slice) -> RecordRef | RefTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return RecordRef(*self._rows[index].tolist())
