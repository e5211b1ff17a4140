"""What all rooms' tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from serving import Sandbox

from zml_dask.cli.main import main
from zml_dask.sandbox.corpus import Corpus, SandboxRecord
from zml_dask.sandbox.distributions import installed_corpus

# No test depends on time passing, so no example has a deadline; CI is derandomised.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Tests press Ctrl-C. A shell has what it starts in the background ignore that, and what this
# process starts would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


_OF_SLURM = tuple(f"tests/cluster/test_{name}" for name in ("hpc_page", "sbatch_driver", "slurm"))
_LONGEST = ("slurm", "tests/cluster/test_containers.py")


@pytest.hookimpl(optionalhook=True)  # tests are collected without xdist too
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests among processes (``-n 3``), a file to each.

    One process has all tests of SLURM, of which there can be one on a machine. It mostly waits.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "slurm" if path.startswith(_OF_SLURM) else path

        def _assign_work_unit(self, node: Any) -> None:
            # Files of many tests come first. These have few, and would be waited for in the end.
            for scope in reversed(_LONGEST):
                if scope in self.workqueue:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A local Zenodo over six installed distributions and the troubled records.

    Shared by all tests of a session: read from it, but do not change it.
    """
    with Sandbox(installed_corpus(6, most_bytes=3_000_000)) as served:
        yield served


@pytest.fixture
def make_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes of a test's own: of a `Corpus` or of records, with `Sandbox`'s options."""
    with ExitStack() as stack:

        def make(corpus: Corpus | list[SandboxRecord], **options: Any) -> Sandbox:
            records = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
            return stack.enter_context(Sandbox(records, **options))

        yield make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line within this process; gives status, standard output and error."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call
