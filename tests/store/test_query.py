"""Expressions: what they mean, and what they refuse."""

from __future__ import annotations

import contextlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import UsageError
from zml_dask.query.columns import UnknownColumnError, find_column
from zml_dask.query.expression import ExpressionError, equality, parse

TABLE = pa.table(
    {
        "path": ["a/b.py", "C.c", "[x].py", "naïve \u2603", ""],
        "language": ["Python", "C", None, "Python", None],
        "n_lines": [0, 10, 200, 3, 7],
        "size": pa.array([0, 100, None, 30, 7], pa.int64()),
    }
)
ROWS = TABLE.to_pylist()


def matching(text: str) -> list[int]:
    """Positions of the rows that match."""
    table = TABLE.append_column("row", pa.array(range(len(TABLE))))
    for condition in parse(text):
        table = table.filter(condition.expression(lambda column: column.name))
    return table["row"].to_pylist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("language == 'Python'", [0, 3]),
        ("language != 'Python'", [1, 2, 4]),
        ("not (language != 'Python')", [0, 3]),
        ("size < 50", [0, 3, 4]),
        ("not size < 50", [1, 2]),
        ("size == None or size is None", [2]),
        ("size is not None and language != None", [0, 1, 3]),
        ("3 <= n_lines < 10", [3, 4]),
        ("n_lines > -1 and n_lines != +10", [0, 2, 3, 4]),
        ("size / n_lines > 9.9", [1, 3]),
        ("size - n_lines == 0", [0, 4]),
        ("path.str.contains('[x]', regex=False)", [2]),
        ("path.contains('^[a-c]', case=False)", [0, 1]),
        ("path.contains('^[a-c]', case=True, regex=True)", [0]),
        ("path.contains('[X]', case=False, regex=False)", [2]),
        ("path.str.endswith('.py')", [0, 2]),
        ("path.endswith(('.c', '3'))", [1]),
        ("path.match('a')", [0]),
        ("path.fullmatch('C.c')", [1]),
        ("'\u2603' in path", [3]),
        ("'x =~ y' in path or path =~ '/'", [0]),
        ("path !~ 'py' and path.str.len() > 3", [3]),
        ("len(path) == 0", [4]),
        ("path.upper() == 'C.C'", [1]),
        ("language in ('C', 'R') or n_lines in [200]", [1, 2]),
        ("language not in ['C', 'Python']", [2, 4]),
        ("language.isin(['C'])", [1]),
        ("(language == 'C') | ~(n_lines > 3) & language.notna()", [0, 1, 3]),
        ("'C' == language", [1]),
        ("True", [0, 1, 2, 3, 4]),
        ("size >= 1e2 or n_lines == 3.0", [1, 3]),
        ("n_lines in [10.0, 3.5, None]", [1]),
        ("n_lines * 0.5 in [1.5, 5]", [1, 3]),
        ("n_lines < 1e300 and n_lines > -1e300", [0, 1, 2, 3, 4]),
    ],
)
def test_meaning(text: str, rows: list[int]) -> None:
    assert matching(text) == rows


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r"path =~ '\bb\b'", [0]),
        (r"path =~ r'\bb\b'", [0]),
        (r"path =~ R'\bb\b' or path =~ u'\bC\b'", [0, 1]),
        (r'path =~ "\bb\b"', [0]),
        (r"path =~ '''[^'\"]\bb\.p'''", [0]),
        (r'path =~ """b\b[^\'"]p"""', [0]),
        (r"path !~ '\.' and len(path) > 0", [3]),
        (r"path =~ ('\bb' '\.' 'py')", [0]),
        (r"path =~ 'b' '\.py'", [0]),
        (r"path =~ '\x{2603}'", [3]),
        (r"path =~ '\.' and path != 'a\x2fb.py'", [1, 2]),
        (r"path.contains('\bb\b')", [0]),
        (r"path.str.contains ( '\bB\b', case=False)", [0]),
        (r"path.upper().match('\w\.C')", [1]),
        (r"path.fullmatch('\w/\w\.py')", [0]),
        (r"path.startswith('\x61') or '\u2603' in path", [0, 3]),
    ],
)
def test_backslashes_are_the_regular_expressions(text: str, rows: list[int]) -> None:
    assert matching(text) == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("langauge == 'C'", "did you mean 'language'"),
        ("xyzzy == 1", "there are segment"),
        ("records.langage == 'C'", "no column 'records.langage'"),
        ("n_lines == '3'", "which is a number"),
        ("language > 3", 'which is text; text is written in quotes: "3"'),
        ("publication_date > 2015-01-31", "a date is text, and written in quotes"),
        ("licens == 'mit'", "did you mean 'license' or 'licenses'\\?$"),
        ("n_lines", "is not a condition"),
        ("path =~ '('", "RE2"),
        ("path =~ language", "should be text in quotes"),
        ("keywords == 'a'", "'word' in column"),
        ("n_lines in 3", "can hold nothing"),
        ("language =", "cannot read the expression"),
        ("", "cannot read the expression"),
        ("language = 'C'", "'equal' is written =="),
        ("language == 'C' && n_lines > 3", "'and' is written as a word"),
        ("path == '&&' || n_lines > 3", "'or' is written as a word"),
        ("n_lines <> 3", "'not equal' is written !="),
        ("language LIKE 'C%'", "=~"),
        ("path == 'a = b' if", "invalid|expected"),
        ("license IS NULL", "is None"),
        ("license == null", "is written None here"),
        ("language == Python", "text is written in quotes"),
        ("language in 'C'", r"in \['a', 'b'\]"),
        ("n_lines == 1e400 * 99999999999999999999", "larger number"),
        ("n_lines == 99999999999999999999", "larger number"),
        ("n_lines =~ '3'", "is not text"),
        ("language is 'C'", "only None can"),
        ("n_lines == True", "is no value of any column"),
        ("n_lines in [False]", "is no value of any column"),
        ("n_lines > -True", "is not a number"),
        ("language in [path]", "cannot stand in a list"),
        ("path.contains('a', ignore_case=True)", "'ignore_case'; it has case and regex"),
        ("path.contains('a', flags=2)", "'flags'; it has case and regex"),
        ("path.contains('a', case=0)", "'0' is no value of case; write True or False"),
        ("path.contains('a', regex=path)", "is no value of regex"),
        ("path.contains('a', **path)", "'[*][*]'; it has"),
        ("path.str.match('a', case=False)", "'case'; it has none"),
        ("path.startswith(('a', 'b'), case=False)", "'case'; it has none"),
        ("path.isin(['a'], level=1)", "'level'; it has none"),
        ("path.lower(case=1) == 'a'", "'case'; it has none"),
        ("path.len(3) > 1", "cannot be compared"),
        ("path.isalpha(ascii=True)", "no condition that is known"),
        ("path.contains()", "no condition that is known"),
        ("language + 'x' == 'y'", "not a number to calculate"),
        ("__import__('os').system('true')", "no condition that is known"),
        ("open('/etc/passwd') == 1", "only methods of columns"),
        ("(lambda: 1)() == 1", "only methods of columns"),
        ("path.__class__ == 'x'", "cannot be compared"),
        ("[x for x in path] == 1", "cannot be compared"),
        ("(n := 3) == 3", "cannot be compared"),
        ("not " * 10_000 + "True", "nested too deeply"),
        ("n_lines > 1 and " * 100_000 + "True", "million characters"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@given(st.text())
def test_nothing_but_a_usage_error_comes_of_any_text(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse(text)


@given(
    st.sampled_from(["n_lines", "size"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.one_of(st.integers(-5, 300), st.floats(-5, 300)),
    st.booleans(),
)
def test_comparisons_are_pythons_but_for_what_is_missing(
    name: str, sign: str, number: float, negated: bool
) -> None:
    def holds(row: dict[str, object]) -> bool:
        value = row[name]
        if value is None:
            return (sign == "!=") != negated
        return bool(eval(f"value {sign} number", {"value": value, "number": number})) != negated

    text = f"{name} {sign} {number!r}"
    expected = [i for i, row in enumerate(ROWS) if holds(row)]
    assert matching(f"not {text}" if negated else text) == expected


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("size > 1e6", [1, 2]),
        ("1e6 < size", [1, 2]),
        ("size == 2e7", [1]),
        ("size != 2e7", [0, 2]),
        ("size in [2e7, 1e18]", [1, 2]),
        ("size > 1000000.5", [1, 2]),
        ("size <= 80.5 or not size < 2.5e7 + 0.5", [0, 2]),
        ("size in [80.5, 2.5]", []),
        ("size * 1 == 1e18", [2]),
        ("size > n_lines * 0.5", [0, 1, 2]),
        ("size < n_lines * 1e18", [0, 1]),
    ],
)
def test_large_whole_numbers_are_compared_with_fractions(text: str, rows: list[int]) -> None:
    table = pa.table(
        {
            "size": pa.array([80, 20_000_000, 10**18], pa.int64()),
            "n_lines": pa.array([1, 1, 1], pa.int32()),
            "row": [0, 1, 2],
        }
    )
    for condition in parse(text):
        table = table.filter(condition.expression(lambda column: column.name))
    assert table["row"].to_pylist() == rows


@given(st.text(), st.text())
def test_any_text_can_be_asked_for(text: str, other: str) -> None:
    table = pa.table({"path": [text, other]}) if _encodes(text + other) else None
    if table is None:
        return
    found = table.filter(equality("path", text).expression(lambda c: c.name))
    assert found["path"].to_pylist() == [text] * (1 + (text == other))


def _encodes(text: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in text)


def test_equality_takes_what_a_user_has_at_hand() -> None:
    import numpy as np
    import pandas as pd

    for values in ([1, 2], (1, 2), np.array([1, 2]), pd.Series([1, 2]), {1, 2}):
        assert equality("n_lines", values).columns == {find_column("n_lines")}
    equality("n_lines", np.int64(3))
    equality("records.n_images", 3)
    with pytest.raises(ExpressionError, match="can equal text"):
        equality("n_lines", object())
    with pytest.raises(ExpressionError, match="'True' is no value of any column"):
        equality("n_lines", True)
    with pytest.raises(UnknownColumnError):
        equality("n_linse", 3)
