"""Jobs that misbehave: a task fails, hangs or kills its worker on its n-th try."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from zml_dask.engine.activity import active, note_done
from zml_dask.engine.job import Job, TaskReport
from zml_dask.errors import RecordError, UsageError
from zml_dask.store.storage import Storage

Deed = str
"""``"fail"``, ``"usage"``, ``"hang"`` or ``"kill"``."""


@dataclass(frozen=True)
class Numbers(Job[tuple[int, ...], Path, dict[int, str], dict[int, str]]):
    """Notes each number of a task; some misbehave as often as `deeds` says.

    Attributes
    ----------
    folder : Path
        Every try leaves a file here, so that tries are counted across processes.
    tasks : tuple of tuple of int
    deeds : mapping of int to (str, int)
        Number -> what it does on its first so many tries.
    """

    name: ClassVar[str] = "numbers"

    folder: Path
    tasks: tuple[tuple[int, ...], ...]
    deeds: dict[int, tuple[Deed, int]] = field(default_factory=dict)
    divisible: bool = True
    storage: Storage | None = None

    def plan(self, workers: int) -> Sequence[tuple[int, ...]]:
        assert workers > 0
        done = {int(path.name) for path in self.folder.glob("done/*")}
        left = (tuple(n for n in task if n not in done) for task in self.tasks)
        return [task for task in left if task]

    @contextmanager
    def open(self) -> Iterator[Path]:
        opened = self.folder / "opened"
        opened.mkdir(exist_ok=True)
        mine = opened / f"{os.getpid()}-{time.monotonic_ns()}"
        mine.touch()
        try:
            yield mine
        finally:
            mine.rename(mine.with_suffix(".closed"))

    def shared(self) -> tuple[Storage, ...]:
        return () if self.storage is None else (self.storage,)

    def run(self, task: tuple[int, ...], context: Path) -> dict[int, str]:
        assert context.exists()
        results = {}
        for number in task:
            with active(number):
                self._misbehave(number)
            results[number] = "done"
            (self.folder / "done").mkdir(exist_ok=True)
            (self.folder / "done" / str(number)).touch()
            note_done(number)
        return results

    def finish(self, results: Iterator[dict[int, str]]) -> dict[int, str]:
        total: dict[int, str] = {}
        for result in results:
            total |= result
        return total

    def items(self, task: tuple[int, ...]) -> tuple[int, ...]:
        return task if self.divisible else ()

    def size(self, task: tuple[int, ...]) -> int:
        return len(task)

    def recover(
        self, task: tuple[int, ...]
    ) -> tuple[dict[int, str] | None, tuple[int, ...] | None]:
        done = {n: "done" for n in task if (self.folder / "done" / str(n)).exists()}
        left = tuple(n for n in task if n not in done)
        return done or None, left or None

    def select(self, task: tuple[int, ...], items: Sequence[int]) -> tuple[int, ...]:
        return tuple(items)

    def give_up(self, task: tuple[int, ...], item: int, error: RecordError) -> dict[int, str]:
        assert item in task
        return {item: error.kind}

    def report(self, result: dict[int, str]) -> TaskReport:
        failed = sum(word != "done" for word in result.values())
        return TaskReport(
            done=len(result), failed=failed, events=[("numbers", {"of": len(result)})]
        )

    def tries(self, number: int) -> int:
        return len(list(self.folder.glob(f"try-{number}-*")))

    def _misbehave(self, number: int) -> None:
        deed, times = self.deeds.get(number, ("", 0))
        self.folder.joinpath(f"try-{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if self.tries(number) > times:
            return
        if deed == "fail":
            raise OSError(5, f"number {number} fails")
        if deed == "usage":
            raise UsageError(f"number {number} is wrong on any worker")
        if deed == "hang":
            time.sleep(600)
        if deed == "kill":
            time.sleep(0.1)  # filling the memory takes at least that long
            os._exit(1)
