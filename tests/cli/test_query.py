"""``zml-dask query``, as a shell runs it."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from zml_dask.cli.main import main
from zml_dask.store.storage import Storage

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from dataset_builders import stage_record, write_dataset

HOSTILE = "a/\x1b[2J[red]=cmd|' /C calc'!.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    from zml_dask.store.commit import commit

    base = tmp_path_factory.mktemp("asked")
    storage = write_dataset(Storage.open(base / "ds"), base)
    stage_record(storage, base, 50, [(HOSTILE, "x\n")], {"keywords": ["\x1b]0;title\x07"]})
    commit(storage)
    return str(base / "ds")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["query", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_table_with_counts(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, dataset, "language == 'C' and n_lines > 100", "--limit", "2")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["record_id", "path", "language", "license", "n_lines", "n_images"]
    assert len(lines) == 4
    assert "files with" in lines[-1]
    assert lines[-1].endswith("2 shown")


def test_json_and_csv_say_the_same(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [dataset, "license == 'mit'", "--columns", "path,n_lines,keywords"]
    answer = json.loads(run(capsys, *arguments, "--format", "json")[1])
    _, out, err = run(capsys, *arguments, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert answer["counts"]["records"] == 2
    assert answer["counts"]["files"] == len(answer["rows"]) == len(rows)
    assert [row["path"] for row in answer["rows"]] == [row["path"] for row in rows]
    assert answer["rows"][0]["keywords"] == ["astronomy", "fits"]
    assert rows[0]["keywords"] == "astronomy; fits"
    assert "in 2 records" in err


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_what_others_wrote_is_escaped(
    dataset: str, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    arguments = ["record_id == 50", "--columns", "path,keywords", "--format", form]
    _, out, _ = run(capsys, dataset, *arguments)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]" in out


def test_a_wrong_expression_is_a_wrong_call(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, dataset, "langauge == 'C'")
    assert (status, out) == (2, "")
    assert err == "zml-dask: no column 'langauge'; did you mean 'language'?\n"
    assert run(capsys, dataset, "True", "--columns", "pth")[0] == 2
    assert run(capsys, f"{dataset}/nothing", "True")[0] == 2


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("license == 'MIT'", "no file has license 'MIT'; did you mean 'mit'?\n"),
        ("n_lines > 3 and language == 'Phyton'", "no file has language 'Phyton'; did you mean"),
        ("language == '\\x1b[2J'", "no file has language '\\x1b[2J'\n"),
        ("language == 'C' and n_lines > 100_000", ""),
        ("path == 'none'", ""),
    ],
)
def test_a_value_that_no_file_has_is_told(
    dataset: str, capsys: pytest.CaptureFixture[str], expression: str, advice: str
) -> None:
    status, out, err = run(capsys, dataset, expression)
    assert (status, out) == (0, "0 files with 0 images in 0 records\n")
    assert err.startswith(advice) if advice else not err
    assert "\x1b" not in err
