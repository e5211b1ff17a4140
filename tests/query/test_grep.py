"""Searching text: every line that a plain search of the lines finds, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dataset_builders import write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.cli.main import main
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.query.grep import Match, compile_pattern, grep_on
from zml_dask.store.storage import Storage


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base = tmp_path_factory.mktemp("grep")
    write_dataset(Storage.open(base / "ds"), base)
    return zml.open_dataset(base / "ds")


def plainly(ds: Dataset, pattern: str, flags: int = 0) -> list[Match]:
    """Search line by line, file by file."""
    return [
        Match(file.file_id, file.record_id, file.path, number, line)
        for file, _ in ((one.file, one.images) for one in ds)
        for number, line in enumerate(ds.text(file.file_id, default="").split("\n")[:-1], 1)
        if re.search(pattern, line, flags)
    ]


PATTERNS = ["x", "^x", "x$", r"\d", r"\s+\w", "[^a]", "(?i)X", "a|1", r"\bline\b", "^$", "(?s)x.*x"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_lines_that_a_plain_search_finds(ds: Dataset, pattern: str) -> None:
    assert list(ds.grep(pattern)) == plainly(ds, pattern)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.sampled_from("x1=f(). l"), min_size=1, max_size=4))
def test_plain_text(ds: Dataset, text: str) -> None:
    assert list(ds.grep(text, fixed=True)) == plainly(ds, re.escape(text))


def test_only_what_is_selected_and_lines_count_within_the_file(ds: Dataset) -> None:
    later = ds.select("segment >= 1")
    found = list(later.grep(r"\w"))
    assert found
    assert found == [m for m in plainly(ds, r"\w") if m.line_number > ds.info.shape.height]
    chosen = ds.select("language == 'Python'")
    ids = set(chosen.files.file_id)
    assert list(chosen.grep("x")) == [m for m in plainly(ds, "x") if m.file_id in ids]


def test_any_executor_finds_the_same_in_the_same_order(ds: Dataset) -> None:
    pattern = compile_pattern("x")
    assert grep_on(ds, pattern, ThreadsExecutor(3)) == list(ds.grep("x"))
    assert grep_on(ds, pattern) == list(ds.grep("x"))


def test_mistakes_are_named(ds: Dataset) -> None:
    with pytest.raises(UsageError, match="--fixed"):
        ds.grep("f(")
    with pytest.raises(UsageError, match="one line"):
        ds.grep("")


def test_the_command(ds: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grep", ds.url, "X", "-i", "--format", "json", "--where", "language == 'Python'"])
    assert not ended.value.code
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    rows = rows["rows"] if isinstance(rows, dict) else rows
    expected = list(ds.select("language == 'Python'").grep("x", ignore_case=True))
    assert [Match(**row) for row in rows] == expected
    assert captured.err == f"{len(expected):,} lines\n"


def test_the_command_prints_a_table(ds: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grep", ds.url, "x", "--limit", "2"])
    assert not ended.value.code
    captured = capsys.readouterr()
    names, *lines = captured.out.splitlines()
    assert names.split() == ["file_id", "record_id", "path", "line_number", "line"]
    assert [int(line.split()[0]) for line in lines] == [m.file_id for m in ds.grep("x")][:2]
    assert captured.err == "2 lines shown, there are more\n"


def test_the_command_on_workers(ds: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grep", ds.url, "x", "--workers", "1", "--format", "csv"])
    assert not ended.value.code
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(list(ds.grep("x")))


def test_it_is_lazy(ds: Dataset, tmp_path: Path) -> None:
    found = ds.grep("x")
    assert next(found) == plainly(ds, "x")[0]
