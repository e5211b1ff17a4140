"""Searching the text of a selection's files, line by line, as ``grep`` does.

What is searched is what the images hold: lines are as wide as an image, and tabs are
spaces. Only images of the selection are read, each once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import Each, Executor, run_job
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError
from zml_dask.query.selection import Selection, image_lines
from zml_dask.raster.images import to_text
from zml_dask.store.image_reader import Int64

if TYPE_CHECKING:
    from zml_dask.query.dataset import Dataset

_FILES_PER_TASK = 2_048
_IMAGES_AT_ONCE = 2_048
"""52 MB at 80 by 80."""

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
    """A line in which a pattern was found.

    Attributes
    ----------
    line_number : int
        Of the file, from 1.
    line : str
        Without its newline.
    """

    file_id: int
    record_id: int
    path: str
    line_number: int
    line: str


def compile_pattern(
    pattern: str, *, ignore_case: bool = False, fixed: bool = False
) -> re.Pattern[str]:
    """Make a regular expression that is matched within lines.

    Parameters
    ----------
    pattern : str
        A regular expression of Python's `re`, or plain text where `fixed`.

    Raises
    ------
    UsageError
        If it is not a regular expression, or could match beyond a line.

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
    """Yield the lines of a selection in which a pattern is found, in the dataset's order.

    Parameters
    ----------
    pattern : re.Pattern
        Of `compile_pattern`.
    """
    n = view.selection.file_id.size
    for start in range(0, n, _FILES_PER_TASK):
        yield from _search(view, pattern, start, min(n, start + _FILES_PER_TASK))


def grep_on(
    view: Dataset,
    pattern: re.Pattern[str],
    executor: Executor | None = None,
    progress: BuildProgress | None = None,
) -> list[Match]:
    """Find the lines of a selection in which a pattern is found, on any executor.

    Parameters
    ----------
    executor : Executor, optional
        Default: this process.

    Returns
    -------
    list of Match
        In the dataset's order.
    """
    n = view.selection.file_id.size
    tasks = [
        (view, pattern, start, min(n, start + _FILES_PER_TASK))
        for start in range(0, n, _FILES_PER_TASK)
    ]
    found = run_job(Each(_search, tasks), executor or SerialExecutor(), progress=progress)
    return list(chain.from_iterable(found))


def _search(view: Dataset, pattern: re.Pattern[str], start: int, stop: int) -> list[Match]:
    """Search the files from one position of a selection to another."""
    selection = view.selection
    files = slice(start, stop)
    begins, ends = selection.images_of(files)
    found: list[tuple[int, int, str]] = []
    position = 0
    # Several files at once: each read of images costs more than its decoding.
    while position < begins.size:
        last = int(np.searchsorted(ends, begins[position] + _IMAGES_AT_ONCE, "right"))
        last = max(last, position + 1)
        found += _search_files(view, selection, pattern, start, position, last, begins, ends)
        position = last
    if not found:
        return []
    numbers = np.unique([number for number, _, _ in found])
    rows = view.snapshot.take("files", numbers, ["file_id", "record_id", "path"]).to_pylist()
    of_file = {row["file_id"]: row for row in rows}
    return [
        Match(number, of_file[number]["record_id"], of_file[number]["path"], line_number, line)
        for number, line_number, line in found
    ]


def _search_files(
    view: Dataset,
    selection: Selection,
    pattern: re.Pattern[str],
    start: int,
    low: int,
    high: int,
    begins: Int64,
    ends: Int64,
) -> Iterator[tuple[int, int, str]]:
    """Yield file number, line number and line of what is found in some neighbouring files."""
    height = view.info.shape.height
    rows = selection.rows.positions(int(begins[low]), int(ends[high - 1]))
    images = view.snapshot.images.read(rows)
    for position in range(low, high):
        begin, end = (int(edges[position] - begins[low]) for edges in (begins, ends))
        if begin == end:
            continue
        file = start + position
        segment = rows[begin:end] - int(selection.first_image[file])
        lines = image_lines(np.full(segment.shape, selection.n_lines[file]), segment, height)
        text = to_text(images[begin:end], lines)
        number = int(selection.file_id[file])
        for index, line in _lines_with(pattern, text):
            # Images may be missing from a selection: lines count within the file all the same.
            image = int(np.searchsorted(np.cumsum(lines), index, "right"))
            within = index - int(lines[:image].sum())
            yield number, int(segment[image]) * height + within + 1, line


def _lines_with(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    r"""Yield number (from 0) and text of the lines in which a pattern is found.

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
        # A pattern like [^a] matches the newline as well, which is of no line.
        if pattern.search(found):
            yield line, found
        at = end + 1
