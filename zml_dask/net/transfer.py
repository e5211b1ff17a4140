"""A download, with the state that is kept between attempts."""

from __future__ import annotations

import errno
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, Self
from urllib.parse import urlsplit

import requests
import zstandard

from zml_dask.errors import NetworkError
from zml_dask.text_safety import redact_url

HEAD_BYTES: Final = 512
"""How much of a file is enough to decide whether the rest is wanted: a tar header."""

PIECE: Final = 256 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PROGRESS: Final = 1024 * 1024
_MD5_OF_NOTHING: Final = hashlib.md5(usedforsecurity=False).hexdigest()
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "zstd"})
_COMPRESSED_NAMES: Final = (".gz", ".tgz", ".svgz", ".zst")
# What a body may unpack to if the size of the file is unknown; archives have the same limits.
_MOST_DECODED: Final = 512 * 1024 * 1024
_MOST_RATIO: Final = 300


@dataclass(frozen=True, slots=True)
class Download:
    """A downloaded file.

    Attributes
    ----------
    path : Path
    bytes : int
        Length of the content on disk.
    md5 : str
        Its hex digest.
    requests : int
        Number of requests that it took.
    complete : bool
        False if the first bytes showed that the rest is not wanted; `path` then does not exist.
    """

    path: Path
    bytes: int
    md5: str
    requests: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What to fetch, where to, and how to check it; see `HttpClient.download`."""

    url: str
    target: Path
    max_bytes: int | None = None
    checksum: str | None = None
    size: int | None = None
    keep_partial: bool = False
    wanted: Callable[[bytes], bool] | None = None
    report: Callable[[int], None] | None = None

    @property
    def md5(self) -> str | None:
        """Expected md5, hex; None where the record names none that we can check."""
        if self.checksum is None:
            return None
        algorithm, colon, digest = self.checksum.rpartition(":")
        return digest.lower() if algorithm.lower() in {"md5", ""} or not colon else None

    def is_named(self, *suffixes: str) -> bool:
        """Whether the file's name, in lower case, ends with one of `suffixes`."""
        return urlsplit(self.url).path.removesuffix("/content").lower().endswith(suffixes)

    @property
    def part(self) -> Path:
        """The path of the unfinished file."""
        return self.target.with_name(self.target.name + ".part")


def write_all(file: FileIO, piece: bytes) -> None:
    """Write to an unbuffered file, of which the system may accept only a part at a time."""
    written = file.write(piece)
    while written < len(piece):
        written += file.write(piece[written:])


@contextmanager
def local_disk(path: Path) -> Iterator[None]:
    """Turn errors of the local disk into errors that say what to do.

    Raises `NetworkError` of the kind "disk_full" where there is no space, or the quota is used up;
    of the kind "scratch" for anything else, such as a folder that may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NetworkError(
                "disk_full",
                f"no space left at {str(path.parent)!r}; free some, or name another scratch folder",
            ) from error
        raise NetworkError(
            "scratch",
            f"{str(path)!r} cannot be written ({error.strerror}); name another scratch folder",
        ) from error


class Transfer:
    """The state of a download between attempts: what is on disk and what it hashes to."""

    def __init__(self, plan: TransferPlan) -> None:
        self._plan = plan
        self._offset = 0
        self._overlap = 0  # bytes to come that are on disk already
        self._highest = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._total: int | None = None
        self._validator: str | None = None
        self._mismatches = 0
        self._is_checked = plan.wanted is None
        self.finished = False
        self.complete = True

    def __enter__(self) -> Self:
        with local_disk(self._plan.part):
            resume = self._plan.keep_partial and self._plan.md5 is not None
            if resume and self._plan.part.exists():
                self._read_remnant()
            self._file = self._plan.part.open("ab" if self._offset else "wb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        keep = self._plan.keep_partial and self._plan.md5 is not None
        if not self.finished and not keep:
            self._plan.part.unlink(missing_ok=True)

    def headers(self) -> dict[str, str]:
        """Request headers that ask for what is missing."""
        if not self._offset:
            return {}
        headers = {"Range": f"bytes={self._offset}-"}
        if self._validator is not None:
            headers["If-Range"] = self._validator
        return headers

    def receive(
        self, response: requests.Response, check_time: Callable[[], None]
    ) -> NetworkError | None:
        """Write a response's body; return None or its transient error, raise a permanent one."""
        failure = self._begin(response)
        if failure is not None:
            return failure
        while piece := response.raw.read1(PIECE, decode_content=False):
            check_time()
            known, self._overlap = piece[: self._overlap], max(0, self._overlap - len(piece))
            self._write(piece[len(known) :])
            if not self._is_checked and self._offset >= HEAD_BYTES and not self._is_wanted():
                return None
        if not self._is_checked and not self._is_wanted():
            return None
        return self._check_body(response)

    def accept_if_complete(self) -> bool:
        """Accept the bytes on disk if their checksum or size is right, whatever the server said."""
        plan = self._plan
        if plan.md5 is not None:
            self.finished = self._offset > 0 and self._md5.hexdigest() == plan.md5
        else:
            self.finished = plan.size is not None and 0 < self._offset == plan.size
        return self.finished

    def _is_empty_as_promised(self) -> bool:
        """Whether an empty body is the file, rather than a broken answer."""
        plan = self._plan
        return not self._offset and plan.size in {None, 0} and plan.md5 in {None, _MD5_OF_NOTHING}

    def progressed(self) -> bool:
        """Whether much has come since this was last asked."""
        gained = self._offset - self._highest
        self._highest = max(self._highest, self._offset)
        return gained >= _PROGRESS

    def result(self, requests_sent: int) -> Download:
        """Move the file to its target."""
        plan = self._plan
        with local_disk(plan.target):
            self._file.close()
            if self.complete:
                plan.part.replace(plan.target)
            else:
                plan.part.unlink(missing_ok=True)
        return Download(
            plan.target, self._offset, self._md5.hexdigest(), requests_sent, self.complete
        )

    def _read_remnant(self) -> None:
        with self._plan.part.open("rb") as remnant:
            while piece := remnant.read(PIECE):
                self._md5.update(piece)
                self._offset += len(piece)
        self._is_checked = True

    def _restart(self) -> None:
        with local_disk(self._plan.part):
            self._file.seek(0)
            self._file.truncate()
        self._offset = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._validator = None
        self._total = None

    def _begin(self, response: requests.Response) -> NetworkError | None:
        """Prepare for a body, by the response's status and headers."""
        where = redact_url(self._plan.url)
        if response.status_code == 416:
            if not self._offset:
                raise NetworkError("bad_request", f"{where} answers 416 to a plain request")
            self._restart()
            return NetworkError("truncated", f"{where} is shorter than what came before")
        part = content_range(response)
        self._overlap = 0
        # Some servers send the part that was asked for with a status of 200.
        if response.status_code == 206 or (self._offset and part is not None):
            total = self._total if part is None or part[2] is None else part[2]
            has_changed = self._total is not None and total != self._total
            if part is None or part[0] > self._offset or has_changed:
                self._restart()
                return NetworkError("truncated", f"{where} answers with another part or file")
            self._total = total
            self._overlap = self._offset - part[0]  # caches send whole blocks
        else:
            if self._offset:
                # The server sends the whole file although a part was asked for: it does not
                # support ranges, or the file has changed.
                self._restart()
            self._total = _content_length(response)
        if self._is_checked:
            self._refuse_above(self._total)
        self._validator = _validator(response)
        return None

    def _refuse_above(self, count: int | None) -> None:
        limit = self._plan.max_bytes
        if limit is not None and count is not None and count > limit:
            raise NetworkError(
                "too_large",
                f"{redact_url(self._plan.url)} has {count:,} bytes, over the limit of {limit:,}; "
                "raise --max-archive-size to have it",
            )

    def _write(self, piece: bytes) -> None:
        self._refuse_above(self._offset + len(piece))
        with local_disk(self._plan.part):
            write_all(self._file, piece)
        self._md5.update(piece)
        self._offset += len(piece)
        if self._plan.report is not None:
            self._plan.report(self._offset)

    def _is_wanted(self) -> bool:
        wanted = self._plan.wanted
        self._is_checked = True
        if wanted is None:
            return True
        with local_disk(self._plan.part), self._plan.part.open("rb") as file:
            head = file.read(HEAD_BYTES)
        self.complete = wanted(head)
        self.finished = not self.complete
        if self.complete:
            self._refuse_above(self._total)
        return self.complete

    def _check_body(self, response: requests.Response) -> NetworkError | None:
        """Check a body that ended as its headers promise against the record."""
        plan, where = self._plan, redact_url(self._plan.url)
        if self.accept_if_complete() or self._is_empty_as_promised():
            self.finished = True
            return None
        encoding = content_encoding(response)
        if encoding in _ENCODINGS and self._accept_decoded(encoding):
            return None
        if self._total is not None and plan.size is None and self._offset != self._total:
            message = f"{where} gives {self._offset:,} of {self._total:,} bytes; try later"
            if self._offset > self._total:
                self._restart()
            return NetworkError("truncated", message)
        is_known = plan.md5 is not None or plan.size is not None
        is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
        is_archive = plan.is_named(".zip", ".tar", ".7z", *_COMPRESSED_NAMES)
        if not is_known and not (is_page and is_archive):
            self.finished = True
            return None
        if is_page and not plan.is_named(".html", ".htm", ".xhtml"):
            self._restart()
            return NetworkError(
                "bad_answer", f"{where} answers with a page instead of the file; try later"
            )
        if plan.size is not None and self._offset < plan.size:
            return NetworkError(
                "truncated", f"{where} gives {self._offset:,} of {plan.size:,} bytes; try later"
            )
        self._mismatches += 1
        failure = NetworkError(
            "checksum",
            f"{where} has md5 {self._md5.hexdigest()} and {self._offset:,} bytes, "
            f"not {plan.md5 or 'the promised length'} as its record says",
        )
        if self._mismatches > 1:
            raise failure
        self._restart()
        return failure

    def _accept_decoded(self, encoding: str) -> bool:
        """Replace the body by its decompressed content, if that is what the record describes.

        We ask for files without compression, but some servers compress all the same, and others
        name a compression because the archive itself is compressed. So the record's checksum and
        size decide, or, if it has neither, the file's name.
        """
        plan = self._plan
        is_known = plan.md5 is not None or plan.size is not None
        if not is_known and plan.is_named(*_COMPRESSED_NAMES):
            return False
        target = plan.part.with_name(plan.part.name + ".decoded")
        limits = [each for each in (plan.size, plan.max_bytes) if each is not None]
        most = min([max(_MOST_DECODED, _MOST_RATIO * self._offset), *limits])
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with (
            local_disk(target),
            plan.part.open("rb") as source,
            target.open("wb", buffering=0) as file,
        ):
            try:
                for piece in _decoded(source, encoding):
                    size += len(piece)
                    if size > most:
                        break
                    write_all(file, piece)
                    digest.update(piece)
                is_right = size <= most and (
                    digest.hexdigest() == plan.md5
                    if plan.md5 is not None
                    else plan.size in {None, size}
                )
            except (zlib.error, zstandard.ZstdError, EOFError):
                is_right = False
        with local_disk(target):
            if is_right:
                target.replace(plan.part)
                self._offset, self._md5, self.finished = size, digest, True
            else:
                target.unlink()
        return is_right


def _decoded(source: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Decompress a file piece by piece; never more than `PIECE` bytes at a time."""
    if encoding == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader:
            while piece := reader.read(PIECE):
                yield piece
        return
    data = source.read(PIECE)
    # The standard says that "deflate" has the header of zlib; some servers leave it out.
    is_raw = encoding == "deflate" and (len(data) < 2 or int.from_bytes(data[:2]) % 31 != 0)
    bits = -zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | 32
    decoder = zlib.decompressobj(bits)
    while data:
        if decoder.eof:
            decoder = zlib.decompressobj(bits)  # several gzip files may follow one another
        yield decoder.decompress(data, PIECE)
        data = decoder.unused_data or decoder.unconsumed_tail or source.read(PIECE)
    yield decoder.flush()
    if not decoder.eof:
        raise EOFError


def content_range(response: requests.Response) -> tuple[int, int, int | None] | None:
    """Return first byte, last byte and total size (None if unknown) of a response of 206."""
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    return (first, last, total) if first <= last and (total is None or last < total) else None


def content_encoding(response: requests.Response) -> str:
    """Return the compression that a server applied, requested or not; '' for none.

    Some servers name there what is none (``utf-8``, ``binary``, ``aws-chunked``).
    """
    stated = response.headers.get("Content-Encoding", "").strip().lower()
    return stated if stated in _ENCODINGS | {"br", "compress", "x-compress"} else ""


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _validator(response: requests.Response) -> str | None:
    """Return what identifies this version of the file: a strong ETag, else the date."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return response.headers.get("Last-Modified")
