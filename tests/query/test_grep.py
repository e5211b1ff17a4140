"""Searching text: every line that a plain search of the lines finds, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from dataset_builders import write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.cli.main import main
from zml_dask.engine.executors import SerialExecutor, ThreadsExecutor
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.query.file_images import FileImages
from zml_dask.query.grep import Match, compile_pattern, grep_on
from zml_dask.query.portions import cut
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
    for executor in (ThreadsExecutor(3), SerialExecutor()):
        found = grep_on(ds, pattern, executor, lambda pieces: [*chain.from_iterable(pieces)])
        assert found == list(ds.grep("x"))


def test_lines_are_written_while_others_are_searched(
    ds: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files_of: dict[str, set[int]] = {}
    for match in plainly(ds, r"\w{3}"):
        files_of.setdefault(match.line, set()).add(match.file_id)
    rare = next(line for line, files in files_of.items() if len(files) == 1)
    found = list(ds.grep(rare, fixed=True))
    last = len(ds.files) - 1
    assert 0 < len(found) < 99
    assert found[-1].file_id < last - 1
    written: list[str] = []

    def watched(*_: object, copied: bool) -> Iterator[FileImages]:
        assert not copied
        for one in ds:
            written.append(capsys.readouterr().out)
            yield one

    monkeypatch.setattr("zml_dask.query.grep._FILES_AT_ONCE", 1)
    monkeypatch.setattr("zml_dask.query.grep.iterate_files", watched)
    with pytest.raises(SystemExit):
        main(["grep", ds.url, rare, "--fixed", "--format", "csv"])
    assert len("".join(written).splitlines()) == 1 + len(found)
    assert not capsys.readouterr().out
    written.clear()
    with pytest.raises(SystemExit):
        main(["grep", ds.url, "x", "--format", "csv", "--limit", "1"])
    assert len(written) < last


def test_an_executor_hands_on_what_it_finds_at_once(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zml_dask.query.grep.cut", partial(cut, records=1))
    searched: list[int] = []

    def counted(files: Iterable[FileImages], pattern: re.Pattern[str]) -> Iterator[Match]:
        searched.append(1)
        yield from ()

    monkeypatch.setattr("zml_dask.query.grep._search", counted)
    assert grep_on(ds, compile_pattern("x"), SerialExecutor(), lambda pieces: next(pieces)) == []
    assert len(searched) == 1


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
