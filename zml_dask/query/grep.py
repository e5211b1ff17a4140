"""Searching the text of a selection's files, line by line, as ``grep`` does.

What is searched is what the images hold: lines are as wide as an image, and tabs are
spaces. Only images of the selection are read, each once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np
import pyarrow as pa

from zml_dask.engine.job import Each, Executor, run_job
from zml_dask.engine.progress import BuildProgress, ProgressCounts
from zml_dask.errors import UsageError
from zml_dask.query.file_images import FileImages, iterate_files
from zml_dask.query.portions import Portion, cut
from zml_dask.query.selection import image_lines
from zml_dask.raster.images import to_text
from zml_dask.store.snapshot import Snapshot

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_Written = TypeVar("_Written")

_FILES_AT_ONCE: Final = 256
_PATIENCE: Final = 5.0
"""Seconds after which progress is shown."""

MATCH_SCHEMA = pa.schema(
    [
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("record_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("line", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Match:
    """A line, without its newline, that matches a pattern; `line_number` counts from 1."""

    file_id: int
    record_id: int
    path: str
    line_number: int
    line: str


def compile_pattern(
    pattern: str, *, ignore_case: bool = False, fixed: bool = False
) -> re.Pattern[str]:
    """Compile a regular expression of Python's `re`, or plain text where `fixed`, for single lines.

    `UsageError` if it is not a regular expression, or could match beyond a line.

    Examples
    --------
    >>> bool(compile_pattern("a.c", fixed=True).search("abc"))
    False
    """
    text = re.escape(pattern) if fixed else pattern
    if not text or "\n" in pattern:
        raise UsageError("give a pattern of one line that is not empty")
    try:
        return re.compile(text, re.MULTILINE | (re.IGNORECASE if ignore_case else 0))
    except re.error as error:
        raise UsageError(
            f"the pattern {pattern!r} is not a regular expression ({error}); write plain text "
            "with --fixed (fixed=True)"
        ) from error


def grep(view: Dataset, pattern: re.Pattern[str]) -> Iterator[Match]:
    """Yield the lines of a selection that match a pattern, in the dataset's order."""
    return _search(iterate_files(view.snapshot, view.selection, copied=False), pattern)


def grep_pieces(
    view: Dataset, pattern: re.Pattern[str], progress: BuildProgress
) -> Iterator[list[Match]]:
    """Do as `grep`, some files at a time, also without matches; show progress if it takes long."""
    files = iterate_files(view.snapshot, view.selection, copied=False)
    total = len(view.selection.files)
    began = time.monotonic()
    for start in range(0, total, _FILES_AT_ONCE):
        yield list(_search(islice(files, _FILES_AT_ONCE), pattern))
        if time.monotonic() - began > _PATIENCE:
            done = min(total, start + _FILES_AT_ONCE)
            progress.update("files", ProgressCounts(done=done, total=total))


def grep_on(
    view: Dataset,
    pattern: re.Pattern[str],
    executor: Executor,
    write: Callable[[Iterator[list[Match]]], _Written],
    progress: BuildProgress | None = None,
) -> _Written:
    """Do as `grep` on any executor; `write` is given what is found in each piece as it comes."""
    tasks = [(view.snapshot, portion, pattern) for portion in cut(view)]
    found: Any = run_job(_Grep(_search_portion, tasks, write), executor, progress=progress)
    return cast("_Written", found)


@dataclass(frozen=True)
class _Grep(Each[list[Match]]):
    """Hands on what is found in the dataset's order, as soon as it is."""

    write: Callable[[Iterator[list[Match]]], Any] = list

    def for_workers(self) -> Each[list[Match]]:
        """Return the job without what only the driver needs."""
        return replace(self, arguments=(), write=list)

    def finish(self, results: Iterator[tuple[int, list[Match]]]) -> Any:
        """Write the results."""
        return self.write(_in_order(results))


def _in_order(results: Iterator[tuple[int, list[Match]]]) -> Iterator[list[Match]]:
    waiting: dict[int, list[Match]] = {}
    following = 0
    for number, found in results:
        waiting[number] = found
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _search_portion(snapshot: Snapshot, portion: Portion, pattern: re.Pattern[str]) -> list[Match]:
    files = iterate_files(snapshot, portion.selection(snapshot), copied=False)
    return list(_search(files, pattern))


def _search(files: Iterable[FileImages], pattern: re.Pattern[str]) -> Iterator[Match]:
    for found in files:
        if not len(found.images):
            continue
        file, height = found.file, found.images.shape[1]
        lines = image_lines(file.n_lines, found.segment, height)
        for index, line in _lines_with(pattern, to_text(found.images, lines)):
            # Line numbers are the file's, even if the selection lacks some of its images.
            image = int(np.searchsorted(np.cumsum(lines), index, "right"))
            number = int(found.segment[image]) * height + index - int(lines[:image].sum()) + 1
            yield Match(file.file_id, file.record_id, file.path, number, line)


def _lines_with(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    r"""Yield number (from 0) and text of the lines that match a pattern.

    Examples
    --------
    >>> list(_lines_with(re.compile("a"), "a a\nb\nca\n"))
    [(0, 'a a'), (2, 'ca')]
    """
    at = line = counted = 0
    while (match := pattern.search(text, at)) and match.start() < len(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.start())
        line += text.count("\n", counted, begin)
        counted = begin
        found = text[begin:end]
        # A pattern like [^a] matches the newline too, which belongs to no line.
        if pattern.search(found):
            yield line, found
        at = end + 1
