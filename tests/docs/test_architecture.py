"""The page that leads into the code names what is there, and the layers as they are checked."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|toml|md))`", PAGE))
    assert len(named) > 15
    for name in sorted(named):
        assert (ROOT / "zml_dask" / name).is_file() or (ROOT / name).is_file(), name


def test_a_record_passes_at_most_twelve_files() -> None:
    path = PAGE.split("## The path of one record")[1].split("## The engine")[0]
    steps, beside = path.split("Modules off this path")
    assert len(re.findall(r"^\d+\. ", steps, re.MULTILINE)) <= 10
    assert len(set(re.findall(r"`([a-z_/]+\.py)`", steps))) <= 12
    assert beside


def test_its_figure_has_every_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contracts["tool"]["importlinter"]["contracts"][0]["layers"]
    figure = PAGE.split("```")[1]
    for layer in layers:
        for package in layer.split("|"):
            assert package.strip().removeprefix("zml_dask.") in figure


def test_every_word_has_one_meaning() -> None:
    words = re.findall(r"^\| ([a-z0-9(), ]+) \|", PAGE.split("## Glossary")[1], re.MULTILINE)
    assert len(words) > 25
    assert len(words) == len(set(words))


def test_no_two_modules_or_classes_share_a_name() -> None:
    paths = [path for path in (ROOT / "zml_dask").rglob("*.py") if "node_modules" not in path.parts]
    modules = Counter(path.name for path in paths if not path.name.startswith("__"))
    classes = Counter(
        name
        for path in paths
        for name in re.findall(r"^class ([A-Z]\w+)", path.read_text("utf-8"), re.MULTILINE)
    )
    assert len(modules) > 100
    assert len(classes) > 100
    assert [name for name, times in (modules + classes).items() if times > 1] == []
