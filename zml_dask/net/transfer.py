"""A file on its way to disk: the state that survives from one attempt to the next."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final, Self

import requests

from zml_dask.net.download import (
    HEAD_BYTES,
    PIECE,
    Download,
    TransferPlan,
    local_disk,
    write_all,
)
from zml_dask.net.errors import (
    BadRequestError,
    ChecksumError,
    NetworkError,
    TooLargeError,
    TruncatedError,
    shown,
)

_PROGRESS: Final = 1024 * 1024
_MD5_OF_NOTHING: Final = hashlib.md5(usedforsecurity=False).hexdigest()
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})\Z")


class Transfer:
    """The state of a download between attempts: what is on disk and what it hashes to.

    Parameters
    ----------
    plan : TransferPlan
    """

    def __init__(self, plan: TransferPlan) -> None:
        self._plan = plan
        self._offset = 0
        self._highest = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._total: int | None = None
        self._validator: str | None = None
        self._mismatches = 0
        self._judged = plan.wanted is None
        self.finished = False
        self.complete = True

    def __enter__(self) -> Self:
        with local_disk(self._plan.part):
            resume = self._plan.keep_partial and self._plan.md5 is not None
            if resume and self._plan.part.exists():
                self._take_up_remnant()
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

    def take(
        self, answer: requests.Response, check_time: Callable[[], None]
    ) -> NetworkError | None:
        """Write an answer's body; None, or what was wrong with it that may pass.

        Raises
        ------
        NetworkError
            Where it will not pass.
        """
        failure = self._begin(answer)
        if failure is not None:
            return failure
        while piece := answer.raw.read1(PIECE, decode_content=False):
            check_time()
            self._write(piece)
            if not self._judged and self._offset >= HEAD_BYTES and not self._is_wanted():
                return None
        if not self._judged and not self._is_wanted():
            return None
        return self._judge_body()

    def settle_if_whole(self) -> bool:
        """Accept what is there although the server promised more, where it proves right."""
        plan = self._plan
        if plan.md5 is not None:
            self.finished = self._offset > 0 and self._md5.hexdigest() == plan.md5
        else:
            self.finished = plan.size is not None and 0 < self._offset == plan.size
        return self.finished

    def _is_empty_as_promised(self) -> bool:
        """Whether a body without a byte is the file: no answer at all would look the same."""
        plan = self._plan
        return not self._offset and plan.size in {None, 0} and plan.md5 in {None, _MD5_OF_NOTHING}

    def progressed(self) -> bool:
        """Whether much has come since this was last asked."""
        gained = self._offset - self._highest
        self._highest = max(self._highest, self._offset)
        return gained >= _PROGRESS

    def result(self, requests_sent: int) -> Download:
        """Put the file in its place."""
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

    def _take_up_remnant(self) -> None:
        with self._plan.part.open("rb") as remnant:
            while piece := remnant.read(PIECE):
                self._md5.update(piece)
                self._offset += len(piece)
        self._judged = True

    def _restart(self) -> None:
        with local_disk(self._plan.part):
            self._file.seek(0)
            self._file.truncate()
        self._offset = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._validator = None
        self._total = None

    def _begin(self, answer: requests.Response) -> NetworkError | None:
        """Make ready for a body, by the answer's status and headers."""
        if answer.status_code == 416:
            return self._begin_unsatisfied()
        if answer.status_code == 206:
            part = content_range(answer)
            if part is None or part[0] != self._offset or self._has_changed(part[2]):
                self._restart()
                return TruncatedError(f"{shown(self._plan.url)} answers with another part or file")
            self._total = part[2]
        else:
            if self._offset:
                # The whole, although a part was asked for: no Range here, or
                # the file has changed.
                self._restart()
            self._total = _content_length(answer)
        if self._judged:
            self._refuse_above(self._total)
        self._validator = _validator(answer)
        return None

    def _begin_unsatisfied(self) -> NetworkError:
        if not self._offset:
            raise BadRequestError(f"{shown(self._plan.url)} answers 416 to a plain request")
        self._restart()
        return TruncatedError(f"{shown(self._plan.url)} is shorter than what came before")

    def _has_changed(self, total: int) -> bool:
        return self._total is not None and total != self._total

    def _refuse_above(self, count: int | None) -> None:
        limit = self._plan.max_bytes
        if limit is not None and count is not None and count > limit:
            raise TooLargeError(
                f"{shown(self._plan.url)} has {count:,} bytes, over the limit of {limit:,}; "
                "raise --max-archive-size to have it"
            )

    def _write(self, piece: bytes) -> None:
        self._refuse_above(self._offset + len(piece))
        with local_disk(self._plan.part):
            write_all(self._file, piece)
        self._md5.update(piece)
        self._offset += len(piece)

    def _is_wanted(self) -> bool:
        wanted = self._plan.wanted
        self._judged = True
        if wanted is None:
            return True
        with local_disk(self._plan.part), self._plan.part.open("rb") as file:
            head = file.read(HEAD_BYTES)
        self.complete = wanted(head)
        self.finished = not self.complete
        if self.complete:
            self._refuse_above(self._total)
        return self.complete

    def _judge_body(self) -> NetworkError | None:
        """Whether a body that ended as its own headers promise is what the record says."""
        plan, where = self._plan, shown(self._plan.url)
        unknown = plan.md5 is None and plan.size is None
        if unknown or self.settle_if_whole() or self._is_empty_as_promised():
            self.finished = True
            return None
        if plan.size is not None and self._offset < plan.size:
            return TruncatedError(
                f"{where} gives {self._offset:,} of {plan.size:,} bytes; try later"
            )
        self._mismatches += 1
        failure = ChecksumError(
            f"{where} has md5 {self._md5.hexdigest()} and {self._offset:,} bytes, "
            f"not {plan.md5 or 'the promised length'} as its record says"
        )
        if self._mismatches > 1:
            raise failure
        self._restart()
        return failure


def content_range(answer: requests.Response) -> tuple[int, int, int] | None:
    """First byte, last byte and size of the whole, of an answer of 206."""
    match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, total = (int(group) for group in match.groups())
    return (first, last, total) if first <= last < total else None


def _content_length(answer: requests.Response) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _validator(answer: requests.Response) -> str | None:
    """What tells this version of the file from another: a strong ETag, else the date."""
    tag = answer.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return answer.headers.get("Last-Modified")
