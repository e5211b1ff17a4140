"""What a build came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from zml_dask.pipeline.outcome import Outcome


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build came to.

    Attributes
    ----------
    dataset : str
        Its folder or URL.
    n_staged, n_failed : int
        Records built and failed in this run.
    failures : mapping of str to int
        Kind of failure -> records of this run.
    n_records, n_files, n_images : int
        In the dataset now.
    committed : bool
        Whether this run changed the dataset.
    seconds : float
        Of this run.
    """

    dataset: str
    n_staged: int = 0
    n_failed: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    n_records: int = 0
    n_files: int = 0
    n_images: int = 0
    committed: bool = False
    seconds: float = 0.0


class Tally:
    """Counts outcomes as they come."""

    def __init__(self) -> None:
        self.n_staged = 0
        self.n_files = 0
        self.n_images = 0
        self.failures: Counter[str] = Counter()

    @property
    def n_failed(self) -> int:
        """Records that failed."""
        return self.failures.total()

    @property
    def done(self) -> int:
        """Records done with, one way or the other."""
        return self.n_staged + self.n_failed

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.failure is not None:
            self.failures[outcome.failure.kind] += 1
            return
        self.n_staged += 1
        self.n_files += outcome.n_files
        self.n_images += outcome.n_images
