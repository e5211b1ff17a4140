"""What the tests and the examples of docstrings share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


@functools.cache
def _example() -> tuple[Any, TemporaryDirectory[str]]:
    from dataset_builders import write_dataset

    import zml_dask
    from zml_dask.store.storage import Storage

    folder = TemporaryDirectory()
    write_dataset(Storage.open(f"{folder.name}/zenodo-ml"), Path(folder.name))
    return zml_dask.open_dataset(f"{folder.name}/zenodo-ml"), folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the examples that speak of a dataset one, as `ds`."""
    if isinstance(item, pytest.DoctestItem):
        source = "".join(example.source for example in item.dtest.examples)
        if re.search(r"\bds\.|\(ds\b", source):
            import zml_dask

            item.dtest.globs |= {"ds": _example()[0], "zml": zml_dask}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let nothing be skipped where ZML_REQUIRE_ALL is set, as in CI: it could be run there."""
    report = yield
    if os.environ.get("ZML_REQUIRE_ALL") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which ZML_REQUIRE_ALL forbids: {report.longrepr[2]}"
    return report
