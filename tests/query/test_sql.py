"""SQL that users write: what it means, what it is told, and that it cannot get out."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from dataset_builders import stage_record, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.query import engine
from zml_dask.query.columns import find_column
from zml_dask.query.selection import open_selected
from zml_dask.query.sql import equality, parse_condition, parse_question
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage
from zml_dask.store.withdrawal import withdraw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with missing values, quotes and one withdrawn record."""
    base = tmp_path_factory.mktemp("sql")
    storage = write_dataset(Storage.open(base / "ds"), base)
    odd = [("it's \N{SNOWMAN}.py", "x\n" * 200), ("%_.py", "y\n"), ("none", None)]
    stage_record(storage, base, 50, odd, {"license": None, "keywords": None, "title": "O'Brien"})
    stage_record(storage, base, 60, [("gone.py", "z\n")], {"license": "mit"})
    commit(storage)
    withdraw(storage, [60], "asked for")
    return base / "ds"


@pytest.fixture(scope="module")
def ds(folder: Path) -> zml.Dataset:
    return zml.open_dataset(folder)


@pytest.fixture(scope="module")
def joined(folder: Path) -> pd.DataFrame:
    """Return files with their records, by pandas from the Parquet files alone."""

    def read(name: str) -> pd.DataFrame:
        table = pads.dataset(str(folder / f"{name}.parquet"), format="parquet").to_table()
        return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)

    files, records = read("files"), read("records")
    whole = files.merge(records, on="record_id", suffixes=("", "_of_record"))
    whole = whole[whole.record_id != 60]
    return whole.sort_values("file_id", ignore_index=True)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> zml.Dataset:
    """Return a dataset with the derived table ``lines_of_code``."""
    base = tmp_path_factory.mktemp("counted")
    storage = Storage.open(base / "ds")
    stage_record(storage, base, 1, [("a.py", "x\n")], {})
    commit(storage)
    zml.derive(zml.open_dataset(base / "ds"), "lines_of_code")
    return zml.open_dataset(base / "ds")


NUMBERS = ["n_lines", "size", "n_images", "record_id", "concept_id", "n_cut", "archive_bytes"]
TEXTS = ["language", "extension", "license", "kind", "name", "status", "origin"]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> tuple[str, Any]:
    """Draw a condition, and a function from a frame to its answer: True, False or missing."""
    kind = draw(st.sampled_from(["number", "text", "null", "in", "and", "or", "not", "list"]))
    if depth and kind in ("and", "or"):
        (one, left), (two, right) = draw(conditions(depth - 1)), draw(conditions(depth - 1))
        if kind == "and":
            return f"({one} and {two})", lambda f: left(f) & right(f)
        return f"({one} or {two})", lambda f: left(f) | right(f)
    if depth and kind == "not":
        text, inner = draw(conditions(depth - 1))
        return f"not ({text})", lambda f: ~inner(f)
    if kind == "number":
        name = draw(st.sampled_from(NUMBERS))
        sign = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
        number = draw(st.one_of(st.integers(-5, 300), st.sampled_from([1.5, 79.5, 1e6])))

        def compare(f: pd.DataFrame) -> Any:
            column = f[name].astype("Float64")
            signs = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
            return getattr(column, signs[sign])(number).astype("boolean")

        return f"{name} {sign} {number!r}", compare
    name = draw(st.sampled_from(TEXTS))
    if kind == "null":
        return f"{name} is null", lambda f: f[name].isna().astype("boolean")
    if kind == "list":
        word = draw(st.sampled_from(["astronomy", "biology", "none"]))

        def among(f: pd.DataFrame) -> Any:
            found = [pd.NA if k is None else word in list(k) for k in f.keywords]
            return pd.Series(found, f.index, dtype="boolean")

        return f"'{word}' in keywords", among
    values = ["C", "Python", "mit", "py", "apache-2.0", "ok", "it's \N{SNOWMAN}.py", "%_.py"]
    if kind == "in":
        some = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        listed = ", ".join("'" + value.replace("'", "''") + "'" for value in some)

        def one_of(f: pd.DataFrame) -> Any:
            return f[name].isin(some).astype("boolean").mask(f[name].isna())

        return f"{name} in ({listed})", one_of
    value = draw(st.sampled_from(values))
    quoted = value.replace("'", "''")
    return (
        f"{name} == '{quoted}'",
        lambda f: (f[name] == value).astype("boolean").mask(f[name].isna()),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions())
def test_random_conditions_are_answered_as_by_pandas(
    ds: zml.Dataset, joined: pd.DataFrame, condition: tuple[str, Any]
) -> None:
    text, expected = condition
    wanted = joined[expected(joined).fillna(False).astype(bool)]
    view = ds.select(text)
    assert view.selection.file_id.tolist() == wanted.file_id.tolist()
    assert len(view) == wanted.n_images.sum()
    count = ds.sql(
        f"select count(*), sum(files.n_images) from files join records using (record_id) "
        f"where {parse_condition(text).text}"
    ).fetchall()
    assert count == [(len(wanted), wanted.n_images.sum() if len(wanted) else None)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions(), st.sampled_from(["language", "license", "status", "year", "kind"]))
def test_counts_of_random_views_are_those_of_pandas(
    ds: zml.Dataset, joined: pd.DataFrame, condition: tuple[str, Any], by: str
) -> None:
    text, expected = condition
    wanted = joined[expected(joined).fillna(False).astype(bool)]
    key = wanted[by] if by != "year" else pd.to_datetime(wanted.publication_date).dt.year
    groups = wanted.groupby(key.astype(object).where(key.notna(), None), dropna=False)
    counts = ds.select(text).counts(by)
    assert counts.images.sum() == wanted.n_images.sum()
    assert len(counts) == groups.ngroups
    for value, group in groups:
        row = counts[counts.index.isna() if pd.isna(value) else counts.index == value].iloc[0]
        assert row.tolist() == [group.n_images.sum(), len(group), group.record_id.nunique()]


def test_conditions_of_single_images_are_those_of_pandas(
    ds: zml.Dataset, joined: pd.DataFrame
) -> None:
    each = joined.loc[joined.index.repeat(joined.n_images)].copy()
    each["segment"] = each.groupby("file_id").cumcount()
    each["image_lines"] = np.minimum(each.n_lines - each.segment * 80, 80)
    for text, query in {
        "segment == 1": "segment == 1",
        "image_lines > 30 and language == 'C'": "image_lines > 30 and language == 'C'",
        "segment > 0 and license == 'mit'": "segment > 0 and license == 'mit'",
    }.items():
        wanted = each.query(query)
        view = ds.select(text)
        rows = (wanted.first_image + wanted.segment).tolist()
        assert view.rows.positions().tolist() == rows
        assert view.counts("language").files.sum() == wanted.file_id.nunique()
        assert view.counts("language").images.sum() == len(wanted)
        asked = view.sql("select count(*), count(distinct record_id) from files").fetchall()
        assert asked == [(wanted.file_id.nunique(), wanted.record_id.nunique())]
        again = view.select("language == 'C'")
        assert len(again) == (wanted.language == "C").sum()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("license is None", "for null, write license is null"),
        ("license == None", "for null, write license is null"),
        ("license == null", "for null, write license is null"),
        ("language.isna()", "is null"),
        ("language.notna()", "is not null"),
        ("path =~ 'x'", "regexp_matches"),
        ("n_lines => 3", "write >= for 'at least'"),
        ("n_lines =< 3", "<= for 'at most'"),
        ("language == \u2018C\u2019", "in single quotes: 'C'"),
        ("(language == 'C') & (n_lines > 3)", "write 'and' as a word"),
        ("language == 'C' && n_lines > 3", "write 'and' as a word"),
        ("language == 'C' | n_lines > 3", "write 'or' as a word"),
        ("language == 'C' || n_lines > 3", "write 'or' as a word"),
        ("~(n_lines > 3)", "write 'not' as a word"),
        ("path.str.contains('x')", "methods are called without .str"),
        ("language.isin(['C'])", r"language in \('C', 'C\+\+'\)"),
        ("language == ['C', 'C++']", r"language in \('C', 'C\+\+'\)"),
        ("language in 'C'", r"language in \('C', 'C\+\+'\)"),
        ("keywords == 'a'", "write 'word' in keywords"),
        ("size > 10kB", "a size is a number of bytes"),
        ("path contains 'x'", r"path\.contains\('src/'\)"),
        ("path.startswith('x')", "starts_with"),
        ("path.endswith('x')", "ends_with"),
        ("3 <= n_lines < 10", "join two comparisons with and"),
        ("publication_date > 2015-01-31", "write a date in quotes"),
        ("publication_date.year == 2015", r"year\(publication_date\)"),
        ("year >= 2015", r"write year\(publication_date\)"),
        ("publication_date > 2015", r"write year\(publication_date\)"),
        ("language === 'C'", "write == for equality"),
        ("!(language == 'C')", "write 'not' as a word"),
        ("where language == 'C'", "write only what follows WHERE"),
        ("language == 'C' limit 5", "sql takes a SELECT that sorts, groups or limits"),
        ("keywords like '%a%'", "'word' in keywords"),
        ("text like '%import%'", "grep searches"),
        ("lang == 'C'", "did you mean 'language' or 'language_group'"),
        ("date > '2015-01-31'", "did you mean 'publication_date'"),
        ("language == Python", "text is written in single quotes: 'Python'"),
        ('language == "Python"', "text is written in single quotes: 'Python'"),
        ("language > 3", "text is written in quotes"),
        ("langauge == 'C'", "did you mean 'language'"),
        ("LANGAUGE == 'C'", "did you mean 'language'"),
        ("records.n_image > 3", "did you mean"),
        ("n_lines", "compare it with something"),
        ("n_lines == 'abc'", "Could not convert"),
        ("regexp_matches(path, '(')", "missing"),
        ("path == 'a\\'b'", "write a quote within text twice|unterminated"),
        ("count(*) > 3", "aggregates"),
        ("language ==", "write it like"),
        ("", "is empty"),
        ("1=1) union select 1 from (select 1", "more than one condition"),
        ("true; drop table files", "syntax error"),
        ("not " * 10_000 + "true", "nested too deeply"),
        ("+".join(["n_lines > 1", *["1"] * 500]), "nested too deeply; select in steps$"),
        (" or ".join(["path == 'a'"] * 2_001), r"joins 2,001 conditions, .*path in \('a', 'b'\)"),
        ("n_lines > 1 and " * 100_000 + "true", "million characters"),
        ("path == '\0'", "a character that SQL cannot"),
    ],
)
def test_what_is_refused_is_told_how_to_write(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_condition(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "select language from lines_of_code",
            "here, but in files; lines_of_code has file_id, rec",
        ),
        ("select l.langauge from lines_of_code l", "no column 'langauge'; lines_of_code has file_"),
        ("select l.cod from lines_of_code l", "did you mean 'code'?"),
        ("select license from files", "no column 'license' here, but in records"),
        ("select records.path from records join files using (record_id)", "here, but in files"),
        ("select CODE from files", "no column 'CODE' here, but in lines_of_code"),
        ("select langauge from files", "did you mean 'language'?"),
        ("select f.permanant from failures f", "did you mean 'permanent'?"),
        ("select Python from files", "text is written in single quotes: 'Python'"),
    ],
)
def test_a_column_of_another_table_is_told_whose_it_is(
    counted: zml.Dataset, query: str, said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        counted.sql(query)


def test_what_cannot_be_computed_is_one_line_with_a_timeout(ds: zml.Dataset) -> None:
    query = "select path::int from files"
    with pytest.raises(UsageError, match=r"cannot read 'select .*Could not convert"):
        ds.sql(query, timeout=60)
    asked = ds.sql(query)
    with pytest.raises(duckdb.Error, match="Could not convert"):
        asked.fetchall()


def test_how_deep_a_condition_may_be_does_not_depend_on_the_interpreter() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(16_384)  # as mypy does
    try:
        with pytest.raises(UsageError, match="nested too deeply"):
            parse_condition("+".join(["n_lines > 1", *["1"] * 500]))
    finally:
        sys.setrecursionlimit(before)


def test_conditions_run_over_lines_and_hold_comments(ds: zml.Dataset) -> None:
    expected = len(ds.select("language == 'Python' and n_lines > 30"))
    for text in (
        "language == 'Python'\nand n_lines > 30",
        "\n  language == 'Python' -- only these\n  and n_lines > 30\n",
        "LANGUAGE == 'Python' AND N_LINES > 30",
        "files.language == 'Python' and files.n_lines > 30",
    ):
        assert len(ds.select(text)) == expected
    assert len(ds.select("-n_lines < -100")) == len(ds.select("n_lines > 100"))
    within = "record_id in (select record_id from files where name == 'LICENSE')"
    assert ds.select(within).records.record_id.tolist() == [10, 20, 30, 40]
    assert ds.select(within).sql("select count(*) from records").fetchall() == [(4,)]


@given(st.text())
def test_nothing_but_a_usage_error_comes_of_any_text(text: str) -> None:
    for parse in (parse_condition, parse_question):
        with contextlib.suppress(UsageError):
            parse(text)


ESCAPES = [
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_text('/etc/passwd')",
    "select * from glob('/*')",
    "select getenv('HOME')",
    "select current_setting('temp_directory')",
    "select * from duckdb_settings()",
    "select * from information_schema.tables",
    "select * from pg_catalog.pg_tables",
    "copy (select 1) to '/tmp/zml-escaped'",
    "copy files to '/tmp/zml-escaped'",
    "attach '/tmp/zml-escaped.db'",
    "install httpfs",
    "load httpfs",
    "set memory_limit = '1TB'",
    "pragma version",
    "create table x as select 1",
    "drop view files",
    "select 1; select 2",
    "select * from query('select 1')",
    "select * from query_table('files')",
    "select * from arrow_scan(1, 2, 3)",
    "select * from pandas_scan(1)",
    "select * from python_map_function(1)",
    "select * from seq_scan('files')",
    "select * from secret_of_python",
    "with a as (from read_csv('/etc/passwd')) select * from a",
    "select (select content from read_text('/etc/passwd'))",
    "select * from files where path in (select filename from read_blob('/etc/passwd'))",
    "select sleep_ms(100000)",
    "select write_log('x')",
    "explain select 1",
    "call pragma_version()",
    "select * from json_execute_serialized_sql('{}')",
]


@pytest.mark.parametrize("query", ESCAPES)
def test_a_strangers_statement_gets_nowhere(ds: zml.Dataset, query: str) -> None:
    secret_of_python = pd.DataFrame({"x": [1]})
    assert len(secret_of_python)
    with pytest.raises(UsageError) as caught:
        ds.sql(query).fetchall()
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/zml-escaped").exists()


@pytest.mark.parametrize("query", ESCAPES)
def test_the_fence_holds_where_nothing_was_checked(ds: zml.Dataset, query: str) -> None:
    # Whatever reads a file or changes a setting is refused by DuckDB itself.
    if any(word in query for word in ("passwd", "glob", "copy", "attach", "install", "set ")):
        with (
            open_selected(ds, {"path"}) as database,
            pytest.raises((UsageError, zml.errors.ZmlError)),
        ):
            database.table(query)


def test_parts_cannot_be_read_past_what_is_withdrawn(ds: zml.Dataset, folder: Path) -> None:
    part = next(folder.glob("files.parquet/*.parquet"))
    with pytest.raises(UsageError):
        ds.sql(f"select * from read_parquet('{part}')")
    with pytest.raises(UsageError):
        ds.sql(f"select * from '{part}'")
    for table in ("files", "records"):
        asked = ds.sql(f"select count(*) from {table} where record_id == 60")
        assert asked.fetchall() == [(0,)]


def test_memory_and_time_are_bounded(ds: zml.Dataset) -> None:
    with pytest.raises(UsageError, match=r"longer than 0\.2 s"):
        ds.sql("select count(*) from range(100000000000) where random() < 0.5", timeout=0.2)
    with pytest.raises(UsageError, match="more memory"):
        ds.sql("select list(i) from range(1000000000) t(i)", memory_limit=2**26, timeout=60)
    few = ds.sql("select count(*) from files", memory_limit=2**26, timeout=60)
    assert few.fetchall() == [(len(ds.files),)]


@pytest.mark.parametrize("limit", ["timeout", "memory_limit"])
def test_a_limit_is_a_number_above_0(ds: zml.Dataset, limit: str) -> None:
    for value in (0, -1, "1GB", math.nan):
        with pytest.raises(UsageError, match=f"{limit} (is|has to be) a number"):
            ds.sql("select 1", **{"timeout": 60, limit: value})


@pytest.mark.parametrize("handler", [signal.default_int_handler, lambda *_: sys.exit()])
def test_ctrl_c_ends_a_question(
    ds: zml.Dataset, monkeypatch: pytest.MonkeyPatch, handler: Callable[..., Any]
) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *call: Any, **options: Any) -> Any:
            future = super().submit(*call, **options)
            if call[0] is not bool:
                threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()
            return future

    monkeypatch.setattr(engine, "ThreadPoolExecutor", Interrupted)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            list(ds.ask("select count(*) from range(100000000000) where random() < 0.5"))
    finally:
        signal.signal(signal.SIGINT, before)


def test_answers_outlive_what_was_asked(folder: Path) -> None:
    relation = zml.open_dataset(folder).sql("select language, count(*) n from files group by all")
    gc.collect()
    polars = pytest.importorskip("polars")
    assert isinstance(relation.pl(), polars.DataFrame)
    assert relation.df().n.sum() == relation.pl()["n"].sum()


def test_a_selection_is_asked_for_its_own_rows(ds: zml.Dataset) -> None:
    mit = ds.select("license == 'mit' and language == 'C'")
    assert mit.sql("select distinct language from files").fetchall() == [("C",)]
    assert mit.sql("select count(*) from records").fetchall() == [(2,)]
    sample = ds.sample(20, seed=1)
    assert sample.sql("select count(*) from files").fetchall() == [(len(sample.files),)]
    again = pickle.loads(pickle.dumps(mit))
    assert again.sql("select count(*) from files").fetchall() == [(len(mit.files),)]
    assert ds.sql("select count(*) from failures").fetchall() == [(0,)]


def test_equality_takes_what_a_user_has_at_hand(ds: zml.Dataset) -> None:
    for values in ([1, 2], (1, 2), np.array([1, 2]), pd.Series([1, 2]), {1, 2}):
        assert equality("n_lines", values).columns == {find_column("n_lines")}
    equality("n_lines", np.int64(3))
    for value in (pa.chunked_array([["C"]]), {"C": 1}.keys(), iter(["C"]), pa.scalar("C")):
        assert len(ds.select(language=value).files) == (ds.files.language == "C").sum()
    for null in (
        pd.NA,
        float("nan"),
        ["C", None],
        pd.Series(["C", None]),
        ds.files.language.unique(),
    ):
        assert (
            ds.select(language=null).files.language.isna().sum() == ds.files.language.isna().sum()
        )
    assert ds.files.language.isna().any()
    day = ds.records.publication_date.iloc[0]
    of_day = int((ds.records.publication_date == day).sum())
    for date in (
        day,
        str(day),
        pd.Timestamp(day),
        np.datetime64(day, "ns"),
        np.array([day], "M8[ns]"),
        pd.to_datetime(pd.Series([day, None])),
        [day, str(day), pd.Timestamp(day)],
        [str(day)] * 1_001,
    ):
        assert len(ds.select(publication_date=date).records) == of_day
    assert not len(ds.select(publication_date=pd.Timestamp(day) + pd.Timedelta(hours=1)))
    assert {len(part) for part in ds.split({"all": 1.0}, by="year").values()} == {len(ds)}
    assert set(ds.read("year").year) == set(map(int, ds.counts("year").index))
    many = ds.files.file_id.tolist() * 20
    assert len(ds.select(file_id=many).files) == len(ds.files)
    assert len(ds.select(file_id=[10**12, *many]).files) == len(ds.files)
    assert ds.select(path="it's \N{SNOWMAN}.py").files.record_id.tolist() == [50]
    assert not len(ds.select(path="a\0b").files)
    assert not len(ds.select(path="\ud800").files)
    for name, value, said in (
        ("n_lines", object(), "can equal text"),
        ("n_lines", True, "can equal text"),
        ("n_lines", "3", "is a number"),
        ("language", 3, "is text"),
        ("publication_date", "2000", "is a date"),
        ("publication_date", 2000, "is a date"),
        ("n_lines", float("nan"), "use None for null"),
        ("keywords", "a", "holds lists"),
    ):
        with pytest.raises(UsageError, match=said):
            equality(name, value)
    with pytest.raises(UsageError, match="no column"):
        equality("n_linse", 3)


def test_files_go_by_path_too(ds: zml.Dataset) -> None:
    assert ds.text("it's \N{SNOWMAN}.py") == "x\n" * 200
    first = ds.select(record_id=10, name="u.py")
    assert first.text("u.py") == ds.text(first.files.file_id.iloc[0])
    with pytest.raises(zml.errors.UsageError, match="several files"):
        ds.text("u.py")
    with pytest.raises(zml.errors.UsageError, match="no file here"):
        ds.text("nothing.py")
    binary = int(ds.select(name="none").files.file_id.iloc[0])
    assert ds.text(binary, default="") == ""
    assert ds.head(3).path.tolist() == ds.files.path[:3].tolist()
    assert {"sql", "select", "head", "files"} <= set(dir(ds))
    assert not {"selection", "snapshot", "rows", "base"} & set(dir(ds))


def test_sums_of_whole_numbers_are_whole_numbers(ds: zml.Dataset) -> None:
    """DuckDB's own have 128 bits, which pandas takes for floats and Arrow for decimals."""
    query = (
        'select sum(n_lines), sum(n_lines) as "a""b", avg(n_lines), license from files '
        "join records using (record_id) group by all order by license"
    )
    answer = ds.sql(query)
    assert answer.columns == ["sum(n_lines)", 'a"b', "avg(n_lines)", "license"]
    assert [kind.kind for kind in answer.df().dtypes][:3] == ["i", "i", "f"]
    arrow = next(ds.ask(query))
    assert arrow.schema.types[:3] == [pa.int64(), pa.int64(), pa.float64()]
    assert arrow.to_pydict() == answer.to_arrow_table().to_pydict()
    assert sum(arrow.to_pydict()['a"b']) == ds.files.n_lines.sum()
