"""The benchmarks are run by hand; that they fit the package is held here."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.stem)
def test_everything_that_a_benchmark_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zml_dask"):
            module = import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or import_module(f"{node.module}.{name.name}")


def test_run_all_runs_every_benchmark_that_measures() -> None:
    listed = next(script for script in BENCHMARKS if script.stem == "run_all").read_text()
    for script in BENCHMARKS:
        if "RESULTS" in script.read_text() or "compare(" in script.read_text():
            assert script.stem in {"run_all", "comparison"} or f'"{script.name}"' in listed
