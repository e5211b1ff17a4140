"""References to the records of a catalogue: 32 bytes each, so that half a million fit anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where one record's line is in its catalogue.

    Attributes
    ----------
    record_id : int
    offset, length : int
        Of its line, in bytes, without the line's end.
    archive_bytes : int
        Sum of the sizes that the record tells of its files.
    """

    record_id: int
    offset: int
    length: int
    archive_bytes: int


class RefTable(Sequence[RecordRef]):
    """An immutable sequence of references, unique and in record-id order.

    Parameters
    ----------
    rows : int64 array (n, 4)
        Columns as in `RecordRef`; of several rows with one id the last counts.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: NDArray[np.int64]) -> None:
        # Of equal ids np.unique keeps the first, hence the reversal.
        backwards = rows.reshape(-1, 4)[::-1]
        _, first = np.unique(backwards[:, 0], return_index=True)
        self._rows = backwards[first]
        self._rows.setflags(write=False)

    @classmethod
    def of(cls, refs: Iterable[RecordRef]) -> Self:
        """Make a table of references."""
        rows = [(ref.record_id, ref.offset, ref.length, ref.archive_bytes) for ref in refs]
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 4))

    @property
    def record_ids(self) -> NDArray[np.int64]:
        """Ids, ascending: int64 (n,)."""
        return self._rows[:, 0]

    @property
    def archive_bytes(self) -> NDArray[np.int64]:
        """Bytes of each record's files: int64 (n,)."""
        return self._rows[:, 3]

    def find(self, record_id: int) -> RecordRef | None:
        """Give the reference of one record, or None."""
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
            return RefTable(self._rows[index])
        return RecordRef(*self._rows[index].tolist())
