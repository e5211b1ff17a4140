"""How a build reports its progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from zml_dask.text_safety import number_of


@dataclass(frozen=True, slots=True)
class ProgressCounts:
    """The progress of one stage of a build.

    `done` and `total` are records while records are built, tasks while the dataset is committed;
    `n_files` and `n_images` were staged in this run. `waiting` is in seconds until the server's
    limit lets waiting workers go on, `note` what else there is to say.
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    n_files: int = 0
    n_images: int = 0
    waiting: float = 0.0
    note: str = ""

    def line(self) -> str:
        """Return the counts as text.

        Examples
        --------
        >>> ProgressCounts(3, 10, 1, 120, 4567).line()
        '3/10, 1 failed, 120 files, 4,567 images'
        """
        words = [f"{self.done:,}/{self.total:,}"]
        if self.failed:
            words.append(f"{self.failed:,} failed")
        if self.n_files:
            words.append(number_of(file=self.n_files, image=self.n_images))
        if self.waiting >= 1:
            words.append(f"waiting {self.waiting:.0f} s for the server's limit")
        return ", ".join([*words, self.note] if self.note else words)


@runtime_checkable
class BuildProgress(Protocol):
    """Takes the messages and counts of a build, and shows them in its own way, or not at all."""

    def say(self, line: str) -> None:
        """Take a message for the user."""
        return

    def update(self, stage: str, counts: ProgressCounts) -> None:
        """Take the state of a stage (``"records"``, ``"commit"``)."""
        return


class SilentProgress(BuildProgress):
    """Shows nothing."""


class PlainProgress(BuildProgress):
    """Writes a line now and then, for logs and pipes.

    Between two lines of one stage `interval` seconds pass; its first and last always come.
    """

    def __init__(self, stream: IO[str], interval: float = 10.0) -> None:
        self._stream = stream
        self._interval = interval
        self._stage = ""
        self._written = 0.0
        self._last = ""

    def say(self, line: str) -> None:
        """Write a line."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def update(self, stage: str, counts: ProgressCounts) -> None:
        """Write the counts, unless others have just been written."""
        now = time.monotonic()
        line = f"{stage}: {counts.line()}"
        is_edge = stage != self._stage or counts.done == counts.total
        if (is_edge and line != self._last) or now - self._written >= self._interval:
            self._stage, self._written, self._last = stage, now, line
            self.say(line)


class BarProgress(BuildProgress):
    """A progress bar on a terminal; `progress` is started and stopped by whoever made it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        # As text: brackets in a path are no markup.
        self._progress.console.print(Text(line), soft_wrap=True)

    def update(self, stage: str, counts: ProgressCounts) -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, counts="")
        self._progress.update(
            self._tasks[stage], completed=counts.done, total=counts.total, counts=counts.line()
        )


@contextmanager
def open_progress(stream: IO[str], *, quiet: bool = False) -> Iterator[BuildProgress]:
    """Show progress on a stream as a bar on a terminal, or as plain lines; nothing if `quiet`.

    The stream is standard error, as a rule: results go to standard output.
    """
    if quiet:
        yield SilentProgress()
    elif not stream.isatty():
        yield PlainProgress(stream)
    else:
        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
        )
        # Results may be written meanwhile: above the bar on a terminal, into a pipe as ever.
        redirect = sys.stdout.isatty()
        with Progress(*columns, console=Console(file=stream), redirect_stdout=redirect) as progress:
            yield BarProgress(progress)
