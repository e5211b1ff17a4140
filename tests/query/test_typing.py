"""A user's script gets types from the package."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import zml_dask as zml
from zml_dask.query.file_images import FileImages, FileRow

ds: zml.Dataset = zml.open_dataset("zenodo-ml", {"anon": True})
view: zml.Dataset = ds.select("n_lines >= 30", language="Python").sample(10, seed=1)
files: pd.DataFrame = view.files
text: str = view.text(3)
image: NDArray[np.uint32] = view.image(3, 0)
parts: dict[str, zml.Dataset] = ds.split({"train": 0.8, "test": 0.2})
total: int = len(parts["train"])
found: FileImages
for found in view:
    path: str = found.file.path
for file, images in view:
    row: FileRow = file
    pixels: NDArray[np.uint32] = images
reveal_type(view.images)
reveal_type(ds.record(1).doi_url)
"""


@pytest.mark.slow
def test_mypy_knows_what_a_user_gets(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import zml_dask as zml\nzml.open_dataset('x').text(1.5)\n")
    # Our own settings, whose cache `mypy` has filled: else the whole package is read once more.
    options = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    out, err, _ = api.run([*options, str(script), str(wrong)])
    errors = [line for line in out.splitlines() if "error:" in line]
    assert all("wrong.py" in line for line in errors), out + err
    assert 'Revealed type is "dask.array.core.Array"' in out
    assert 'Revealed type is "str | None"' in out or "Union[builtins.str, None]" in out
    assert any('expected "int | str"' in line or "Union[int, str]" in line for line in errors), (
        out + err
    )
