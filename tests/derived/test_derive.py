"""Derived tables: every file has its row, whoever computes it, and questions find it by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dataset_builders import files_of, stage_record, write_dataset

import zml_dask as zml
from zml_dask.derived import compute as module
from zml_dask.derived.compute import DeriveFiles, Recipe
from zml_dask.engine.executors import ThreadsExecutor
from zml_dask.engine.lock import dataset_lock
from zml_dask.errors import UsageError, ZmlError
from zml_dask.query.dataset import Dataset
from zml_dask.query.file_images import FileRow
from zml_dask.store.commit import commit
from zml_dask.store.info import DatasetInfo, read_info
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw


def count_x(text: str) -> dict[str, int]:
    return {"n": text.count("x"), "length": len(text)}


COLUMNS = {"n": "int32", "length": "int64"}


@pytest.fixture
def ds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    # So few files at once that there are several tasks.
    monkeypatch.setattr(module, "FILES_PER_TASK", 16)
    monkeypatch.setattr(module, "_ROWS_PER_TASK", 16)
    write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    return zml.open_dataset(tmp_path / "ds")


def add_record(ds: Dataset, scratch: Path, record_id: int = 50) -> None:
    storage = ds.snapshot.storage
    stage_record(storage, scratch, record_id, files_of(record_id), {"license": "mit"})
    commit(storage)


def parts(ds: Dataset, name: str = "xs") -> list[str]:
    return [part.path for part in ds.info.tables[f"derived/{name}"]]


def test_a_function_of_rows_alone_has_larger_tasks(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the table's row groups would be read once for each of many tasks."""
    monkeypatch.setattr(module, "_ROWS_PER_TASK", 48)
    for function, size in ((lambda row: row.size, 48), (lambda row, text: row.size, 16)):
        recipe = Recipe.of("sizes", function, {"n": "int64"})
        ranges = DeriveFiles.planned(ds.snapshot, recipe, again=False).ranges()
        assert ranges[0] == (0, size)
        assert ranges[-1][1] == len(ds.files)


def test_every_file_has_the_row_that_its_text_gives(ds: Dataset) -> None:
    found = zml.derive(ds, "xs", count_x, COLUMNS).read("file_id", "status", "xs.n", "xs.length")
    assert found.file_id.tolist() == list(range(ds.info.counts.files))
    for row in found.to_dict("records"):
        text = ds.text(row["file_id"], default=None)
        if text is None:
            assert pd.isna(row["xs.n"])
        else:
            assert (row["xs.n"], row["xs.length"]) == (text.count("x"), len(text))
    assert found["xs.n"].sum() > 0


def test_images_and_rows_are_given_as_they_are_asked_for(ds: Dataset) -> None:
    found = zml.derive(ds, "ink", lambda images: int((images != 32).sum()), {"n": "int64"})
    found = zml.derive(found, "depth", lambda row: row.path.count("/"), {"n": "int8"})
    for file, images in found:
        read = found.select(file_id=file.file_id).read("ink.n", "depth.n", "status")
        assert read["depth.n"][0] == file.path.count("/")
        if file.status == "ok":
            assert read["ink.n"][0] == (images != 32).sum()


def test_conditions_and_questions_name_its_columns(ds: Dataset) -> None:
    found = zml.derive(ds, "xs", count_x, COLUMNS)
    many = found.select("xs.n > 3 and language == 'Python' and license == 'mit'")
    expected = [
        file.file_id
        for file, _ in found.select("language == 'Python' and license == 'mit'")
        if found.text(file.file_id).count("x") > 3
    ]
    assert many.selection.file_id.tolist() == expected
    assert expected
    # In steps, by value, of single images, negated, in a subquery and beside one.
    steps = found.select("language == 'Python'", license="mit").select("xs.n > 3")
    assert steps.selection.file_id.tolist() == expected
    length = int(found.read("xs.length")["xs.length"].max())
    longest = found.select(**{"xs.length": length}).read("xs.length")
    assert set(longest["xs.length"]) == {length}
    assert len(found.select("xs.n > 3 and segment == 0")) <= len(found.select("xs.n > 3"))
    nested = "file_id in (select file_id from xs where n > 3)"
    assert found.select(nested).selection.file_id.tolist() == (
        found.select("xs.n > 3").selection.file_id.tolist()
    )
    assert found.select("xs.n is null").read("status").status.eq("binary").all()
    # A question reads the table, of a selection only its files.
    total = found.sql("SELECT count(*), sum(n) FROM xs JOIN files USING (file_id)").fetchall()
    assert total[0][0] == ds.info.counts.files
    some = many.sql("SELECT count(*) FROM xs").fetchall()
    assert some == [(len(expected),)]
    # Counted, split and dealt out by it.
    assert found.counts("xs.n").files.sum() == ds.info.counts.files
    split = found.split({"train": 0.5, "test": 0.5}, by="xs.n")
    groups = [set(part.read("xs.n")["xs.n"].dropna()) for part in split.values()]
    assert not groups[0] & groups[1]
    known = found.select("xs.n is not null")
    expected_labels = np.repeat(known.read("xs.n")["xs.n"], known.files.n_images).tolist()
    dealt = [code for _, codes in known.batches(8, labels="xs.n") for code in codes.tolist()]
    assert dealt == expected_labels


def test_columns_of_the_names_of_others_are_not_confused(ds: Dataset) -> None:
    found = zml.derive(
        ds,
        "mine",
        lambda row: {"language": "none", "n_lines": -1},
        {"language": "string", "n_lines": "int32"},
    )
    both = found.select(
        "language == 'Python' and mine.language == 'none' and mine.n_lines < n_lines"
    )
    assert both.counted == ds.select("language == 'Python'").counted


def test_mistakes_are_named(ds: Dataset) -> None:
    found = zml.derive(ds, "xs", count_x, COLUMNS)
    with pytest.raises(UsageError, match=r"'xs' has no column 'm'; it has .* n, length"):
        found.select("xs.m > 3")
    with pytest.raises(UsageError, match="zml-dask derive"):
        found.select("ys.n > 3")
    with pytest.raises(UsageError, match="there are files, records, failures, xs"):
        found.sql("SELECT * FROM ys")
    for name, function, schema, message in (
        ("Xs", count_x, COLUMNS, "small letters"),
        ("files", count_x, COLUMNS, "another name"),
        ("path", count_x, COLUMNS, "another name"),
        ("xs", count_x, {"n": "int"}, "cannot be of type int"),
        ("xs", count_x, {"file_id": "int64"}, "of its own"),
        ("xs", count_x, {}, "at least one column"),
        ("xs", lambda file: 1, {"n": "int8"}, "text, images or row"),
    ):
        with pytest.raises(UsageError, match=message):
            zml.derive(ds, name, function, schema)
    with pytest.raises(UsageError, match="not a selection"):
        zml.derive(ds.select("n_lines > 3"), "xs", count_x, COLUMNS)


def test_an_update_computes_new_files_only_and_the_bytes_do_not_depend_on_the_workers(
    ds: Dataset, tmp_path: Path
) -> None:
    calls: list[str] = []

    def noted(row: FileRow) -> int:
        calls.append(row.path)
        return row.file_id

    first = zml.derive(ds, "xs", noted, {"n": "int64"})
    n = ds.info.counts.files
    assert len(calls) == n
    add_record(ds, tmp_path)
    behind = zml.open_dataset(ds.url)
    assert behind.read("xs.n")["xs.n"].tolist()[:n] == list(range(n))
    assert behind.read("xs.n")["xs.n"].isna().sum() == behind.info.counts.files - n
    assert behind.select("xs.n >= 0").counted["files"] == n
    after = zml.derive(behind, "xs", noted, {"n": "int64"})
    assert len(calls) == after.info.counts.files
    assert after.read("xs.n")["xs.n"].tolist() == list(range(after.info.counts.files))
    assert parts(after)[:1] == parts(first)
    zml.derive(after, "xs", noted, {"n": "int64"})
    assert len(calls) == after.info.counts.files  # nothing left to do
    again = zml.derive(after, "xs", noted, {"n": "int64"}, again=True)
    assert len(calls) == 2 * after.info.counts.files
    assert len(parts(again)) == 1
    # Who has the dataset open still reads what it showed.
    assert after.read("xs.n")["xs.n"].tolist() == list(range(after.info.counts.files))


def test_any_executor_writes_the_same_bytes(ds: Dataset) -> None:
    recipe = Recipe.of("xs", count_x, COLUMNS)
    digests = set()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        digests.add(parts(zml.derive(ds, "xs", count_x, COLUMNS, client=client))[0][-20:])
    digests.add(parts(zml.derive(ds, "xs", count_x, COLUMNS, again=True))[0][-20:])
    digests.add(
        parts(
            module.derive_table(
                ds.url, lambda: nullcontext(ThreadsExecutor(3)), table=recipe, again=True
            )
        )[0][-20:]
    )
    assert len(digests) == 1


def test_an_interrupted_run_goes_on_where_it_stopped(ds: Dataset) -> None:
    calls: list[int] = []
    stop_at = 40

    def interrupted(row: FileRow) -> int:
        calls.append(row.file_id)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return row.file_id

    with pytest.raises(KeyboardInterrupt):
        zml.derive(ds, "xs", interrupted, {"n": "int64"})
    assert "xs" not in zml.open_dataset(ds.url).info.derived
    assert ds.snapshot.storage.list("staging/derived")
    found = zml.derive(ds, "xs", interrupted, {"n": "int64"})
    # Tasks of 16 files: two had ended.
    assert len(calls) == stop_at + ds.info.counts.files - 32
    assert found.read("xs.n")["xs.n"].tolist() == list(range(ds.info.counts.files))
    assert not found.snapshot.storage.list("staging/derived")


def test_other_code_computes_everything_anew(ds: Dataset) -> None:
    def of(number: int) -> Callable[[FileRow], int]:
        return lambda row: number

    assert set(zml.derive(ds, "xs", of(1), {"n": "int8"}).read("xs.n")["xs.n"]) == {1}
    assert set(zml.derive(ds, "xs", of(2), {"n": "int8"}).read("xs.n")["xs.n"]) == {2}
    other = zml.derive(ds, "xs", of(2), {"m": "int16"})
    assert other.info.derived["xs"].columns == (("m", "int16"),)


def test_the_same_code_is_known_again_in_another_process() -> None:
    """What a function carries along may print as an address; that must not count."""
    script = (
        "from functools import partial\n"
        "from zml_dask.derived.compute import Recipe\n"
        "def f(text, k={'a', 'b'}, o=object()):\n"
        "    return text in {'x', 'y', 'z'} or text in ('p', frozenset({'q'}))\n"
        "inner = lambda text: f(text)\n"
        "outer = partial(lambda n, text: inner(text), 3)\n"
        "for g in (lambda text: f(text), inner, outer):\n"
        "    print(Recipe.of('xs', g, {'n': 'bool'}).fingerprint)\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_where_the_function_fails_the_row_says_why(ds: Dataset) -> None:
    def fragile(text: str) -> Any:
        if "x" in text:
            raise ValueError("no x, please")
        return {"n": "many"} if "1" in text else {"m": 1} if "(" in text else {"n": 1}

    found = zml.derive(ds, "xs", fragile, {"n": "int32"})
    errors = found.read("xs.error", "xs.n", "status")
    kinds = set(errors["xs.error"].dropna().str.partition(":")[0])
    assert "ValueError" in kinds
    assert errors[errors["xs.error"].notna()]["xs.n"].isna().all()
    assert found.info.derived["xs"].errors == errors["xs.error"].notna().sum() > 0
    with pytest.raises(UsageError, match="failed for every file: ZeroDivisionError"):
        zml.derive(ds, "none", lambda text: 1 // 0, {"n": "int32"})
    assert "none" not in zml.open_dataset(ds.url).info.derived


def test_where_it_came_from_is_recorded(ds: Dataset, tmp_path: Path) -> None:
    found = zml.derive(ds, "xs", count_x, COLUMNS)
    table = found.info.derived["xs"]
    assert table.function.endswith("test_derive.count_x")
    assert dict(table.columns) == COLUMNS
    assert table.software["zml-dask"] == zml.__version__
    assert DatasetInfo.from_bytes(found.info.to_bytes()) == found.info
    path = Path(ds.url, parts(found)[0])
    assert pq.read_table(path).column_names == ["file_id", "record_id", "n", "length", "error"]
    assert verify(ds.url).ok
    add_record(ds, tmp_path)  # a commit takes it over
    info = read_info(ds.snapshot.storage)
    assert info is not None
    assert info.derived == found.info.derived
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    report = verify(ds.url)
    assert [problem.path for problem in report.problems] == [parts(found)[0]]


def test_withdrawn_records_have_no_rows(ds: Dataset) -> None:
    found = zml.derive(ds, "xs", count_x, COLUMNS)
    withdraw(ds.snapshot.storage, [20], "asked")
    left = zml.open_dataset(ds.url)
    total = left.sql("SELECT count(*) FROM xs").fetchall()
    assert total == [(left.counted["files"],)]
    assert left.counted["files"] < found.counted["files"]
    again = zml.derive(left, "xs", count_x, COLUMNS, again=True)
    stored = again.snapshot.scan("derived/xs", with_withdrawn=True).to_pandas()
    assert stored[stored.record_id == 20].n.isna().all()


def test_nothing_is_derived_while_a_build_is_at_work(ds: Dataset) -> None:
    with dataset_lock(ds.snapshot.storage), pytest.raises(ZmlError, match="is running"):
        zml.derive(ds, "xs", count_x, COLUMNS)


def test_the_command(
    ds: Dataset,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, said, _ = run("derive", ds.url, "lines_of_code")
    assert status == 0
    assert f"{ds.info.counts.files:,} files" in said
    assert "code, comment, blank" in said
    status, said, _ = run(
        "query",
        ds.url,
        "lines_of_code.code > 3",
        "--columns",
        "path,lines_of_code.code",
        "--order-by",
        "lines_of_code.code desc",
        "--format",
        "csv",
    )
    codes = [int(line.rpartition(",")[2]) for line in said.splitlines()[1:]]
    assert codes == sorted(codes, reverse=True)
    assert codes[-1] > 3
    (tmp_path / "mine.py").write_text("def long(text):\n    return len(text) > 100\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, said, _ = run(
        "derive", ds.url, "long", "--function", "mine:long", "--column", "is=bool"
    )
    assert status == 0
    for words, message in (
        (
            ("derive", ds.url, "is_generated", "lines"),
            "no built-in table 'lines'; did you mean 'lines_of_code'?",
        ),
        (("derive", ds.url, "x", "y", "--function", "mine:long"), "computes one table, and 2 are"),
        (("derive", ds.url, "x", "--function", "mine:short"), "cannot be imported"),
        (("derive", ds.url, "x", "--function", "mine:long", "--column", "is"), "NAME=TYPE"),
    ):
        status, _, said = run(*words)
        assert status == 2
        assert message in said
    monkeypatch.setattr("zml_dask.errors.find_spec", lambda module: None)
    status, _, said = run("derive", ds.url, "is_generated", "license_detected")
    assert (status, "pip install 'zml-dask[licenses]'" in said) == (2, True)
    assert "is_generated" not in zml.open_dataset(ds.url).info.derived
    several = ("is_vendored", "near_duplicates", "is_generated")
    status, said, _ = run("derive", ds.url, *several)
    assert (status, [line.partition(":")[0] for line in said.splitlines()]) == (0, list(several))
    assert zml.open_dataset(ds.url).info.derived.keys() >= set(several)


def test_a_job_travels_small(ds: Dataset) -> None:
    job = DeriveFiles(ds.snapshot, Recipe.of("xs", count_x, COLUMNS), 0)
    assert job.plan(4)[:2] == [(0, 16), (16, 32)]
