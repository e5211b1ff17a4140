"""What a dataset's readers read from: the state of one commit, also after later ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zml_dask.query.reading import ImageReader
from zml_dask.query.scan import TableReader, map_parts
from zml_dask.store.info import DatasetInfo, Part, committed_info
from zml_dask.store.operations import StorageError
from zml_dask.store.storage import Storage

_REPLACED = ("failures", "withdrawn")
"""Tables that are written anew, their former parts removed; others only grow."""


@dataclass(frozen=True, slots=True)
class Source:
    """What every view of a dataset reads from; small, and can be pickled.

    Attributes
    ----------
    storage : Storage
    info : DatasetInfo
    held : mapping of str to bytes
        Parts of tables that a later commit removes, by path.
    """

    storage: Storage
    info: DatasetInfo
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def tables(self) -> TableReader:
        """The committed tables."""
        return TableReader(self.storage, self.info, self.held)

    @property
    def reader(self) -> ImageReader:
        """The committed images."""
        return ImageReader(self.storage, self.info.shape)

    @property
    def token(self) -> str:
        """Tells it from every other: a hash of where it lies, how it is reached, and its state.

        How, since one URL may lead to different places (another endpoint, another
        account), and by a hash, since that may hold a secret.
        """
        from dask.base import tokenize  # here, for the time it takes to import

        token: str = tokenize(self.storage, self.info.to_bytes())
        return token


def open_source(storage: Storage) -> Source:
    """Read what the last commit says, and what the next one would take away.

    Raises
    ------
    NoDatasetError
        If nothing is committed there.
    """

    def read(part: Part) -> bytes | None:
        try:
            return storage.read_range(part.path, 0, part.size)
        except StorageError:
            return None

    info = committed_info(storage)
    while True:
        parts = [part for table in _REPLACED for part in info.tables.get(table, ())]
        found = zip(parts, map_parts(read, parts), strict=True)
        held = {part.path: data for part, data in found if data is not None}
        if len(held) == len(parts):
            return Source(storage, info, held)
        # Either a commit came in between, or the part is lost; then whoever asks for it is told.
        now = committed_info(storage)
        if now == info:
            return Source(storage, info, held)
        info = now
