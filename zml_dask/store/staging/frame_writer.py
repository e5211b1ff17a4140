"""Writing the frames of a blob, small texts gathered into larger frames."""

from __future__ import annotations

from zml_dask.store.staging.frames import TEXT_FRAME_BYTES, TextFrame, compress
from zml_dask.store.staging.spool import Spool


class FrameWriter:
    """Writes frames to a blob, gathering texts into frames of some size.

    Parameters
    ----------
    blob : Spool
    """

    def __init__(self, blob: Spool) -> None:
        self._blob = blob
        self._gathered: list[bytes] = []
        self._size = 0
        self.texts: list[TextFrame] = []

    def add_text(self, text: bytes) -> tuple[int, int]:
        """Add a text; return the number of its frame, and where in the frame it begins."""
        if self._size and self._size + len(text) > TEXT_FRAME_BYTES:
            self.flush()
        place = len(self.texts), self._size
        self._gathered.append(text)
        self._size += len(text)
        return place

    def flush(self) -> None:
        """Write out the frame that is being gathered."""
        if self._gathered:
            self.texts.append(TextFrame(*self.write(compress(b"".join(self._gathered)))))
            self._gathered, self._size = [], 0

    def write(self, data: bytes) -> tuple[int, int]:
        """Append bytes to the blob; return where they begin, and how many they are."""
        offset = self._blob.size
        self._blob.append(data)
        return offset, len(data)
