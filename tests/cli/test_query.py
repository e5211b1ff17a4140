"""``zml-dask query``, as a shell runs it."""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dataset_builders import LANGUAGES, stage_record, write_dataset

from zml_dask.cli.main import main
from zml_dask.cli.output import _folded
from zml_dask.store.storage import Storage

HOSTILE = "a/\x1b[2J[red]=cmd|' /C calc'!.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    from zml_dask.store.commit import commit

    base = tmp_path_factory.mktemp("asked")
    storage = write_dataset(Storage.open(base / "ds"), base)
    stage_record(storage, base, 50, [(HOSTILE, "x\n")], {"keywords": ["\x1b]0;title\x07"]})
    commit(storage)
    return str(base / "ds")


def run(
    capsys: pytest.CaptureFixture[str], *arguments: str, command: str = "query"
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([command, *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_table_for_a_pipe(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, dataset, "language == 'C' and n_lines > 100", "--limit", "2")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["record_id", "path", "language", "license", "n_lines", "n_images"]
    assert len(lines) == 3
    assert not [line for line in lines if line.endswith(" ")]
    assert lines[1].startswith("       10  ")  # numbers to the right
    assert err.endswith("2 shown\n")
    everything = run(capsys, dataset)[1].splitlines()
    assert len(everything) == 1 + 40 * 4 + 1


def test_a_table_on_a_terminal(
    dataset: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    _, out, err = run(capsys, dataset, "--columns", "record_id,path,doi,sha256")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[-1].endswith("; 20 shown")
    assert not err
    status, _, err = run(capsys, dataset, "--format", "parquet")
    assert status == 2
    assert "--output" in err


def test_paths_are_folded_after_their_slashes() -> None:
    assert _folded("project/source/a.py", 10) == ["project/", "source/", "a.py"]
    assert _folded("x" * 12, 10) == ["x" * 10, "xx"]


def test_rows_are_ordered_and_written_to_files(
    dataset: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for form in ("csv", "json", "parquet", "table"):
        status, out, _ = run(
            capsys, dataset, "n_lines > 10", "--columns", "n_lines,title,records.n_images",
            "--order-by", "n_lines desc, path", "--limit", "7", "--format", form,
            "--output", str(tmp_path / form),
        )  # fmt: skip
        assert (status, out) == (0, "")
    table = pq.read_table(tmp_path / "parquet")
    rows = list(csv.DictReader((tmp_path / "csv").open()))
    assert table["n_lines"].to_pylist() == [int(row["n_lines"]) for row in rows]
    assert table["n_lines"].to_pylist() == sorted(table["n_lines"].to_pylist(), reverse=True)
    assert json.loads((tmp_path / "json").read_text())["rows"] == table.to_pylist()
    assert len((tmp_path / "table").read_text().splitlines()) == 8
    status, out, _ = run(
        capsys, dataset, "--columns", "year", "--order-by", "year desc", "--format", "csv"
    )
    years = out.split()[1:]
    assert (status, years) == (0, sorted(years, reverse=True))
    assert len(set(years)) > 1
    status, _, err = run(capsys, dataset, "--order-by", "n_lines down")
    assert (status, "asc or desc" in err) == (2, True)
    assert run(capsys, dataset, "--output", str(tmp_path / "named.parquet"))[0] == 0
    assert len(pq.read_table(tmp_path / "named.parquet")) == 161
    missing = str(tmp_path / "none" / "x.csv")
    status, _, err = run(capsys, dataset, "--output", missing)
    assert (status, "cannot be written" in err) == (1, True)


def test_a_full_disk_leaves_the_file_that_was_there(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.csv"
    output.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        status, _, err = run(capsys, dataset, "--format", "csv", "--output", str(output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, "rows.csv cannot be written" in err) == (1, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.csv", "old")]


def test_sql_answers_any_select(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select license, count(*) as n from files join records using (record_id) group by all"
    status, out, err = run(capsys, dataset, f"{query} order by n desc, license", command="sql")
    assert status == 0
    assert out.splitlines()[0].split() == ["license", "n"]
    assert err == "3 rows\n"
    answer = json.loads(run(capsys, dataset, query, "--format", "json", command="sql")[1])
    assert sum(row["n"] for row in answer["rows"]) == 161
    status, out, err = run(capsys, dataset, "select path from files where false", command="sql")
    assert (status, out, err) == (0, "", "0 rows\n")
    status, _, err = run(capsys, dataset, query, "--limit", "1", command="sql")
    assert err == "1 row shown, there are more\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select langauge from files", "did you mean 'language'?"),
        ("select * from nothing", "there are files, records, failures"),
        ("drop table files", "only a SELECT is answered"),
        ("select 1; select 2", "more than one statement"),
        ("select path::int from files", "Could not convert"),
        ("select path from files group all", 'write it like "select'),
        ("selct path from files", 'write it like "select'),
        ("describe files", "query --help"),
    ],
)
def test_what_sql_refuses_is_one_line(
    dataset: str, capsys: pytest.CaptureFixture[str], query: str, said: str
) -> None:
    status, out, err = run(capsys, dataset, query, command="sql")
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_an_empty_condition_is_none(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable of the shell that is not set."""
    assert run(capsys, dataset)[0] == 0
    status, _, err = run(capsys, dataset, "")
    assert (status, "the condition is empty" in err) == (2, True)
    for command, *arguments in (["grep", "import"], ["cite"]):
        status, _, err = run(capsys, dataset, *arguments, "--where", "", command=command)
        assert (status, "the condition is empty" in err) == (2, True)


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
    assert run(capsys, dataset, "true", "--columns", "pth")[0] == 2
    status, _, err = run(capsys, dataset, "--columns", "recrods.title")
    assert (status, "did you mean 'records'?" in err) == (2, True)
    status, _, err = run(capsys, dataset, "--columns", "records")
    assert (status, "as records.record_id" in err) == (2, True)
    status, _, err = run(capsys, dataset, "--columns", "embedding.vector")
    assert (status, "zml-dask derive DATASET NAME makes one" in err) == (2, True)
    assert run(capsys, f"{dataset}/nothing", "True")[0] == 2


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("license == 'MIT'", "no file has license 'MIT'; did you mean 'mit'?\n"),
        ("n_lines > 3 and language == 'Phyton'", "no file has language 'Phyton'; did you mean"),
        ("language == '\x1b[2J'", "no file has language '\\x1b[2J'; no value is similar\n"),
        ("language == 'C' and n_lines > 100_000", ""),
        ("path == 'none'", ""),
    ],
)
def test_a_value_that_no_file_has_is_told(
    dataset: str, capsys: pytest.CaptureFixture[str], expression: str, advice: str
) -> None:
    status, out, err = run(capsys, dataset, expression)
    assert (status, out) == (0, "")
    assert err.startswith(f"0 files with 0 images in 0 records\n{advice}")
    assert "\x1b" not in err


def test_what_a_value_leaves_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zml_dask.store.commit import commit

    monkeypatch.setitem(LANGUAGES, "f03", "Fortran Free Form")
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    for record_id, named in ((60, "zlib and mit"), (61, "zlib")):
        licenses = ["Zlib", "MIT"][: 1 + (record_id == 60)]
        stage_record(
            storage, tmp_path, record_id, [("a.f03", "x\n")],
            {"license": named, "licenses": licenses},
        )  # fmt: skip
    commit(storage)
    where = str(tmp_path / "ds")
    _, _, err = run(capsys, where, "language == 'Fortran' and n_lines > 3")
    assert "language_group == 'Fortran' finds" in err
    _, _, err = run(capsys, where, "license == 'zlib'")
    assert "'Zlib' in licenses finds 2 images of the dataset, license == 'zlib' 1" in err
    for whole in ("'MIT' in licenses", "language == 'Python'", "language != 'Python'"):
        assert "left out" not in run(capsys, where, whole)[2]
    _, _, err = run(capsys, where, "'mit' in licenses")
    assert "no file has licenses 'mit'; did you mean 'MIT'" in err
