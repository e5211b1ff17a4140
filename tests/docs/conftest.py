"""What the tests of the documentation share: a folder in which the demo was run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which the demo was run."""
    directory = tmp_path_factory.mktemp("demo")
    subprocess.run(
        [Path(sys.executable).with_name("zml-dask"), "--quiet", "demo", "zenodo-ml"],
        cwd=directory,
        check=True,
    )
    return directory
