"""Reads an archive with libarchive, as a program of its own, and writes what it finds as frames.

It is started by `zml_dask.fetch.foreign` and imports nothing of the package: an
archive that makes C code crash, loop or fill the memory ends this process alone.
The archive comes on standard input. A frame is a letter, the length of its body in
four bytes, and the body:

``E``
    An entry, as JSON: ``path``, ``type``, ``size``, ``link``, ``is_linked``, ``encrypted``.
``D``
    Bytes of the entry's content.
``X``
    The end of the entry's content, as JSON: ``error``.
``F``
    The end of everything, as JSON: ``error``, and whether the ``library`` is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
import sys
from typing import Any

# The names of libarchive; none of its filters that run other programs.
FILTERS = ("gzip", "bzip2", "compress", "lzip", "lzma", "xz", "zstd", "lz4", "rpm")
FORMATS = ("7zip", "ar", "cab", "cpio", "iso9660", "lha", "rar", "rar5", "tar", "xar")
_BLOCK = 64 * 1024
_PIECE = 256 * 1024
_MOST_REOPENED = 100
_TYPES = {0o100000: "file", 0o040000: "folder", 0o120000: "link", 0: "file"}
_END, _OK, _WARN, _FATAL = 1, 0, -20, -30


def limit(memory: int, seconds: int) -> None:
    """Limit this process to what it needs."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        with contextlib.suppress(ValueError, OSError):  # a harder limit stands
            resource.setrlimit(what, (most, most))
    with contextlib.suppress(OSError, AttributeError):
        # Linux: end with the parent, and gain no rights by running a program.
        prctl = ctypes.CDLL(None).prctl
        prctl(1, 9, 0, 0, 0)
        prctl(38, 1, 0, 0, 0)


def send(kind: bytes, body: bytes) -> None:
    """Write one frame."""
    frame = kind + struct.pack("<L", len(body)) + body
    while frame:
        frame = frame[os.write(1, frame) :]


def send_json(kind: bytes, **values: Any) -> None:
    """Write one frame of JSON."""
    send(kind, json.dumps(values).encode("ascii"))


class Reader:
    """An archive on standard input, read by libarchive."""

    def __init__(self, library: Any, formats: tuple[str, ...]) -> None:
        self._ffi = library
        self._archive = library.read_new()
        self._entry = library.entry_new()
        for name in FILTERS:
            with contextlib.suppress(ValueError, library.ArchiveError):
                library.get_read_filter_function(name)(self._archive)
        for name in formats:
            with contextlib.suppress(ValueError, library.ArchiveError):
                library.get_read_format_function(name)(self._archive)
        # As the library's own, which raise and log: here a code is an answer.
        self._next = self._plain("read_next_header2", ctypes.c_void_p, ctypes.c_void_p)
        self._read = self._plain(
            "read_data_block",
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.POINTER(ctypes.c_int64),
        )
        self._is_encrypted = self._plain("entry_is_encrypted", ctypes.c_void_p)
        self._n_links = self._plain("entry_nlink", ctypes.c_void_p)
        self._open = self._plain("read_open_fd", ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

    def _plain(self, name: str, *arguments: Any) -> Any:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
        return prototype((f"archive_{name}", self._ffi.libarchive))

    def open(self) -> str | None:
        """Open the archive; return a message if that fails."""
        return self.error() if self._open(self._archive, 0, _BLOCK) < _WARN else None

    def close(self) -> None:
        """Free the archive, and go to its beginning."""
        self._ffi.entry_free(self._entry)
        self._ffi.read_free(self._archive)
        os.lseek(0, 0, os.SEEK_SET)

    def advance(self) -> str | None:
        """Go to the next entry; return ``""`` at the end, a message if that fails, else None."""
        code = self._next(self._archive, self._entry)
        if code == _END:
            return ""
        return self.error() if code < _WARN else None

    def error(self) -> str:
        """The message of libarchive."""
        said = self._ffi.error_string(self._archive) or b"no reason given"
        return str(said.decode("utf-8", "replace"))

    def describe(self) -> dict[str, Any]:
        """The current entry."""
        ffi, entry = self._ffi, self._entry
        hard = ffi.entry_hardlink_w(entry) or _text(ffi.entry_hardlink(entry))
        size = ffi.entry_size(entry) if ffi.entry_size_is_set(entry) else None
        kind = _TYPES.get(ffi.entry_filetype(entry) & 0o170000, "other")
        link = ffi.entry_symlink_w(entry) or _text(ffi.entry_symlink(entry))
        return {
            "path": ffi.entry_pathname_w(entry) or _text(ffi.entry_pathname(entry)),
            "type": "hard" if hard else kind,
            "size": size,
            "link": hard or link,
            "is_linked": size == 0 and self._n_links(entry) > 1,
            "encrypted": bool(self._is_encrypted(entry)),
        }

    def send_content(self, most: int | None) -> str | None:
        """Send the content, or one byte more than `most`; return a message if that fails.

        Its warnings about a content are those of a wrong checksum.
        """
        sent = 0
        block, count, offset = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_int64()
        places = ctypes.byref(block), ctypes.byref(count), ctypes.byref(offset)
        while most is None or sent <= most:
            code = self._read(self._archive, *places)
            if code == _END:
                return None
            if code <= _WARN:
                return self.error()
            for length, start in ((offset.value - sent, None), (count.value, block.value)):
                done = 0  # first the hole before the block, should the file be sparse
                while done < length and (most is None or sent <= most):
                    size = min(length - done, _PIECE)
                    send(b"D", ctypes.string_at(start + done, size) if start else bytes(size))
                    done += size
                    sent += size
        return None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "surrogateescape")


def main() -> None:
    """Read the archive as the first argument, a JSON object, asks."""
    asked = json.loads(sys.argv[1])
    try:
        from libarchive import ffi
        from libarchive.exception import ArchiveError
    except (ImportError, OSError, TypeError, AttributeError):
        send_json(b"F", error="", library=False)
        return
    ffi.ArchiveError = ArchiveError
    limit(asked["memory"], asked["seconds"])
    is_stream = asked["stream"]
    reader = Reader(ffi, ("raw",) if is_stream else FORMATS)
    error = reader.open()
    n_entries = n_reopened = 0
    while error is None:
        error = reader.advance()
        if error is not None:
            break
        n_entries += 1
        entry = reader.describe()
        send_json(b"E", **entry)
        is_archive = entry["path"].lower().endswith(tuple(asked["archives"]))
        wrong = None
        if is_stream or (entry["type"] == "file" and is_archive):
            wrong = reader.send_content(None)
        elif entry["type"] in {"file", "hard"} and (entry["size"] or 0) <= asked["most"]:
            wrong = reader.send_content(asked["most"])
        send_json(b"X", error=wrong)
        if wrong is not None and not is_stream and n_reopened < _MOST_REOPENED:
            # After an error libarchive reads no other content of a 7z, though it could.
            n_reopened += 1
            reader.close()
            reader = Reader(ffi, FORMATS)
            error = reader.open()
            for _ in range(n_entries):
                error = error or reader.advance()
    send_json(b"F", error=error or None, library=True)


if __name__ == "__main__":
    main()
