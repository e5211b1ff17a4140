"""SQL as users write it: conditions and questions, parsed by DuckDB and checked.

A condition (``language == 'Python' and n_lines >= 30``) becomes part of our own
statements, a question (``select ... from files``) is a statement of its own. Either may
come from a stranger. So a text is accepted only if DuckDB's syntax tree shows one
SELECT that reads the dataset's tables by name and calls no table function but a few that
read nothing; the rest of the fence is in `engine`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from zml_dask.arguments import nearest
from zml_dask.errors import UsageError
from zml_dask.query.columns import (
    BY_KEY,
    BY_NAME,
    IMAGE_COLUMNS,
    MAX_SHOWN,
    NO_TABLES,
    SCHEMAS,
    SHARED,
    Column,
    Derived,
    Level,
    derived_column,
    find_column,
    no_table,
)
from zml_dask.store.layout import COLUMN_TYPES
from zml_dask.text_safety import brief_repr, escape_text

_TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
_REFUSED_FUNCTIONS = frozenset(
    {"current_setting", "getvariable", "current_query", "write_log", "sleep_ms", "getenv"}
)
_FROM = frozenset(
    {"BASE_TABLE", "JOIN", "SUBQUERY", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST", "EMPTY_FROM"}
)
_MAX_CHARACTERS = 1_000_000
_MAX_LITERALS = 1_000
"""Longer lists become a table: DuckDB takes 90 s over a million literals."""
_MAX_TERMS = 2_000
"""DuckDB takes a minute over 5,000 conditions that are joined by and, two over 20,000 by or."""
_MAX_DEPTH = 250
"""Python's json reads trees three times as deep, unless its stack is used up already."""
_TEXTS = re.compile(r"'(?:[^']|'')*'?|--[^\n]*|/\*.*?\*/", re.DOTALL)

_NO_COLUMNS: Final = frozenset({"none", "nan", "str", "year", "month", "text"})

_HABITS: Final[tuple[tuple[str, str], ...]] = (
    (r"&", "write 'and' as a word"),
    (r"\|", "write 'or' as a word"),
    (r"(^|[(,\s])~\s*[(\w]", "write 'not' as a word"),
    (r"=[<>]", "write >= for 'at least', and <= for 'at most'"),
    (r"=~", "for a regular expression, write regexp_matches(path, '(^|/)src/')"),
    (r"!~", "for a regular expression, write not regexp_matches(path, '(^|/)src/')"),
    (r"\.\s*str\s*\.", "methods are called without .str: path.contains('src/')"),
    (r"\bisin\b", "for one of several values, write language in ('C', 'C++')"),
    (r"\b(isna|isnull)\b|\bis\s+(none|nan)\b", "for null, write license is null"),
    (
        r"\b(notna|notnull)\b|\bis\s+not\s+(none|nan)\b",
        "for anything but null, write license is not null",
    ),
    (r"(==?|!=|<>)\s*(none|nan|null)\b", "for null, write license is null"),
    (r"\bstartswith\b", "write path.starts_with('src/')"),
    (r"\bendswith\b", "write path.ends_with('.py')"),
    (r"\bfullmatch\b", "write regexp_full_match(path, '.*[.]py')"),
    (r"\bmatch\b", "write regexp_matches(path, '^src/')"),
    (r"\w\s+contains\s+''", "write path.contains('src/')"),
    (r"\b\d[\d_]*(\.\d+)?\s?[kmgt]i?b\b", "a size is a number of bytes: size > 10_000"),
    (r"\bis\s+(not\s+)?''", "write == for equality; only null follows 'is'"),
    (r"[<>]=?[^<>=!()]+[<>]=?", "join two comparisons with and: n_lines >= 3 and n_lines < 9"),
    (r"(?<![\w-])\d{4}-\d\d?(-\d\d?)?", "write a date in quotes: '2015-01-31'"),
    (
        r"\b(year|month)\b(?!\s*\()|date\s*[<>=!]+\s*\d{4}\b(?!-)",
        "write year(publication_date) == 2015",
    ),
    (r"[=!]==", "write == for equality, and != for its opposite"),
    (r"!\s*[(\w]", "write 'not' as a word"),
    (r"^\s*where\b", "write only what follows WHERE"),
    (
        r"^(?!\s*(select|with|from)\b)(.|\s)*\b(order\s+by|group\s+by|limit\s+\d)",
        "sql takes a SELECT that sorts, groups or limits",
    ),
    (r"\b(keywords|licenses|creators)\b.*like\b", "a list is searched by 'word' in keywords"),
    (r"\btext\b", "grep searches the texts of files"),
    (r"\\''", "write a quote within text twice: 'O''Brien'"),
)
"""What users of pandas, C or other SQL write and DuckDB refuses, and what to write instead."""


@dataclass(frozen=True)
class Condition:
    """A condition over the columns of files, of their records, and of single images.

    In `text`, SQL, every column that two tables have is qualified with its table. `columns` are
    those that it names, subqueries aside. `named` are columns that must equal a text, or lists
    that must contain it, with the text: if nothing is found, the nearest values are suggested.
    `values` are tables of one column, ``value``, and `derived` derived tables that it names.
    """

    text: str
    columns: frozenset[Column]
    named: tuple[tuple[str, str], ...] = ()
    values: Mapping[str, pa.Array] = field(default_factory=dict)
    has_subquery: bool = False
    derived: frozenset[str] = frozenset()

    @property
    def levels(self) -> frozenset[Level]:
        """The tables that it needs."""
        return frozenset(column.level for column in self.columns)


@dataclass(frozen=True, slots=True)
class Question:
    """What a SELECT reads.

    `tables` are of `SCHEMAS`, or derived ones; `columns` are all names of columns in it, in lower
    case; `has_star` is whether it selects all columns somewhere.
    """

    tables: frozenset[str]
    columns: frozenset[str]
    has_star: bool


def parse_condition(text: str, derived: Derived = NO_TABLES) -> Condition:
    """Parse a SQL condition over the columns of files, records and single images.

    Parameters
    ----------
    text : str
        What would follow WHERE, in DuckDB's dialect (`functions
        <https://duckdb.org/docs/stable/sql/functions/overview>`_): comparisons
        (``==`` or ``=``), ``and``/``or``/``not``, ``in ('C', 'C++')``, ``between``,
        ``like``, ``is null``, ``regexp_matches(path, '[.]py$')``,
        ``path.contains('src/')``, ``'astronomy' in keywords``,
        ``year(publication_date) >= 2015``. It may span several lines. A
        comparison with a missing value is neither true nor false.
    derived : mapping
        Derived tables, whose columns are named ``table.column``.

    Raises
    ------
    UsageError
        If it cannot be parsed, with what to write instead if that is known, or if it names a
        column that does not exist.

    Examples
    --------
    >>> condition = parse_condition("license == 'mit' and n_images > 3")
    >>> condition.text, sorted(condition.levels)
    ("license == 'mit' and files.n_images > 3", ['files', 'records'])
    """
    if not text.strip():
        raise UsageError(f"the condition is empty; {_EXAMPLE}")
    before = "SELECT 1 FROM files WHERE (\n"
    node = _parse(f"{before}{text}\n)", text)
    template = _parse(f"{before}true\n)", text)
    where = node.pop("where_clause", None)
    template.pop("where_clause")
    if where is None or _without_places(node) != _without_places(template):
        raise _refused(text, "it is more than one condition")
    tables = _check(where, text, derived)
    found: dict[int, tuple[str, Column]] = {}
    for place, names in _columns_of(where):
        column = BY_NAME.get(names[0]) or BY_KEY.get(".".join(names[:2]))
        column = column or derived_column(names, derived)
        if column is not None:
            found[place] = (names[0], column)
    _check_habits(where, text)
    # Places are in bytes.
    data = text.encode()
    for place, (first, column) in sorted(found.items(), reverse=True):
        if first in SHARED:
            at = place - len(before)
            data = data[:at] + b"%s." % column.level.encode() + data[at:]
    columns = frozenset(column for _, column in found.values())
    condition = Condition(
        data.decode(),
        columns,
        tuple(_named(where)),
        has_subquery=any(part.get("class") == "SUBQUERY" for part in _nodes(where)),
        derived=frozenset(tables & derived.keys()).union(*(c.derived for c in columns)),
    )
    _try(condition, text, derived)
    return condition


def equality(name: str, value: object, derived: Derived = NO_TABLES) -> Condition:
    """Return the condition that a column equals a value, or one of a list of values.

    Examples
    --------
    >>> equality("language", ["C", None]).text
    "(files.language IN ('C') OR files.language IS NULL)"
    """
    column = find_column(name, derived)
    key, joined = column.key, column.derived
    if isinstance(value, (np.ndarray, np.datetime64)) and value.dtype.kind == "M":
        value = value.astype("datetime64[us]")  # nanoseconds would become numbers
    # Of NumPy, pandas and Arrow; of Polars; of Arrow's scalars and chunked arrays.
    ways = (w for w in ("tolist", "to_list", "to_pylist", "as_py") if hasattr(value, w))
    plain: Any = getattr(value, way)() if (way := next(ways, None)) else value
    listed = isinstance(plain, Iterable) and not isinstance(plain, (str, bytes))
    items = list(plain) if listed else [plain]
    # pandas' nulls; in its columns of text they are NaN.
    nan = float if pa.types.is_string(column.type) else ()
    nulls = [i is pd.NA or i is pd.NaT or (isinstance(i, nan) and i != i) for i in items]
    items = [None if is_null else i for i, is_null in zip(items, nulls, strict=True)]
    columns = frozenset({column})
    if len(items) > _MAX_LITERALS:
        kinds = {type(item) for item in items}
        if kinds <= {int} or (kinds == {str} and not pa.types.is_date(column.type)):
            table = f"values_{abs(hash(tuple(items))):x}"
            values = pa.array(items, pa.int64() if kinds <= {int} else pa.string())
            text = f"{key} IN (SELECT value FROM {table})"
            return Condition(text, columns, (), {table: values}, derived=joined)
    literals = [_literal(column, name, item) for item in items if item is not None]
    tests = []
    if listed and literals:
        tests.append(f"{key} IN ({', '.join(literals)})")
    elif literals:
        tests.append(f"{key} = {literals[0]}")
    if None in items:
        tests.append(f"{key} IS NULL")
    text = tests[0] if len(tests) == 1 else f"({' OR '.join(tests)})" if tests else "false"
    named = tuple((column.name, item) for item in items if isinstance(item, str))
    return Condition(text, columns, named if len(items) == 1 else (), derived=joined)


def _literal(column: Column, name: str, value: object) -> str:
    if pa.types.is_boolean(column.type) and isinstance(value, bool):
        return "true" if value else "false"
    if pa.types.is_date(column.type) and isinstance(value, date):
        moment = "TIMESTAMP " if isinstance(value, datetime) else ""
        return moment + quoted(value.isoformat())
    given = f"{name}={brief_repr(value)}"
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(
            f"{given}: a column can equal text, a number, None, or one of a list of them"
        )
    if isinstance(value, str) and is_number:
        raise UsageError(f"{given}: {name} is a number, and written without quotes")
    if pa.types.is_list(column.type):
        raise UsageError(f"{name} holds lists; write \"'word' in {name}\"")
    if pa.types.is_date(column.type):
        try:
            _ask("SELECT CAST(? AS DATE)", [str(value)])
        except duckdb.Error as error:
            raise UsageError(f"{given}: {name} is a date, and written like '2015-01-31'") from error
    if isinstance(value, str):
        return quoted(value)
    if not is_number:
        raise UsageError(f"{given}: {name} is text, and written in quotes")
    if not math.isfinite(value):
        raise UsageError(f"{given}: no column contains it; use None for null")
    return repr(value)


def quoted(text: str) -> str:
    """Return text as a SQL literal."""
    if not _can_be_stored(text):
        return "NULL"  # equals nothing, as no table can hold it
    doubled = text.replace("'", "''")
    return "'" + doubled.replace("\0", "' || chr(0) || '") + "'"


def _can_be_stored(text: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in text)


def parse_question(text: str, derived: Derived = NO_TABLES) -> Question:
    """Check that a text is one SELECT over the dataset's tables; `UsageError` if it is not."""
    if not text.strip():
        raise UsageError("the question is empty; give a SELECT over files, records or failures")
    node = _parse(text, text)
    tables = _check(node, text, derived)
    columns: set[str] = set()
    for _, names in _columns_of(node, subqueries=True):
        columns.update(names)
    has_star = any(part.get("class") == "STAR" for part in _nodes(node))
    return Question(frozenset(tables), frozenset(columns), has_star)


@cache
def _parser(_process: int) -> duckdb.DuckDBPyConnection:
    """Open a database of empty tables that texts are parsed and tried with.

    One per process, since threads do not survive a fork.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "max_expression_depth": _MAX_DEPTH,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "enable_external_access": False,
            "python_enable_replacements": False,
        },
    )
    for name, schema in SCHEMAS.items():
        extra = [pa.field(*item) for item in IMAGE_COLUMNS.items()] if name == "files" else []
        # A row of nulls: without any row, wrong constants would not be detected.
        row = pa.table({f.name: pa.nulls(1, f.type) for f in [*schema, *extra]})
        connection.register("row", row)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM row")
        connection.unregister("row")
    connection.execute("SET lock_configuration = true")
    return connection


def _ask(query: str, parameters: list[str] | None = None) -> list[Any]:
    # A cursor, since threads may read conditions at the same time.
    with _parser(os.getpid()).cursor() as cursor:
        return cursor.execute(query, parameters or []).fetchall()


def _parse(query: str, shown: str) -> dict[str, Any]:
    """Parse a SELECT into DuckDB's syntax tree."""
    if len(query) > _MAX_CHARACTERS:
        raise UsageError("the text is over a million characters long; select in steps")
    if "\0" in query or not _can_be_stored(query):
        raise UsageError("the text holds a character that SQL cannot")
    try:
        tree = json.loads(_ask("SELECT json_serialize_sql(?)", [query])[0][0])
    except (duckdb.Error, RecursionError) as error:
        raise _refused(shown, str(error), query) from error
    if tree["error"]:
        if "Only SELECT" in tree["error_message"]:
            raise _refused(shown, "only a SELECT is answered")
        raise _refused(shown, tree["error_message"], query)
    if len(tree["statements"]) != 1:
        raise _refused(shown, "it is more than one statement")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a syntax tree; without recursion, since trees may be deep."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _without_places(tree: dict[str, Any]) -> str:
    """Serialise a syntax tree without the places of its parts in the text."""
    return re.sub(r'"query_location(_length)?": \d+', "", json.dumps(tree))


def _check(tree: dict[str, Any], shown: str, derived: Derived) -> set[str]:
    """Refuse to read anything but the dataset's tables; return those that are read."""
    own = {
        entry["key"].lower()
        for node in _nodes(tree)
        for entry in (node.get("cte_map") or {}).get("map", ())
    }
    tables: set[str] = set()
    known = {*SCHEMAS, *derived}
    for node in _nodes(tree):
        kind = node.get("type")
        if kind == "BASE_TABLE":
            name = str(node["table_name"]).lower()
            if node.get("schema_name") or node.get("catalog_name") or name not in own | known:
                there = ", ".join([*SCHEMAS, *sorted(derived)])
                raise _refused(shown, f"there is no table {name!r}; there are {there}")
            tables |= {name} & known
        elif kind == "TABLE_FUNCTION":
            function = node["function"]
            if _name_of(function) not in _TABLE_FUNCTIONS:
                raise _refused(
                    shown, f"the function {_name_of(function)} reads more than the tables"
                )
        elif kind == "FUNCTION" and _name_of(node) in _REFUSED_FUNCTIONS:
            raise _refused(shown, f"the function {_name_of(node)} is not for conditions")
        elif str(kind).startswith("CONJUNCTION") and len(node["children"]) > _MAX_TERMS:
            raise _refused(
                shown,
                f"it joins {len(node['children']):,} conditions, over {_MAX_TERMS:,}; for one "
                "of several values, write path in ('a', 'b'), or select(path=['a', 'b'])",
            )
        elif node.get("from_table"):
            for source in _sources(node["from_table"]):
                if source.get("type") not in _FROM:
                    raise _refused(
                        shown,
                        "only tables are read; zml-dask query --help (ds.schema in Python) lists "
                        "their columns",
                    )
    return tables


def _sources(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [source]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [part[side] for side in ("left", "right") if isinstance(part.get(side), dict)]


def _name_of(function: Mapping[str, Any]) -> str:
    return str(function.get("function_name", "")).lower()


def _columns_of(tree: Any, *, subqueries: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield where a syntax tree names columns, and the parts of each name, in lower case."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
            continue
        if not isinstance(part, dict):
            continue
        if part.get("class") == "SUBQUERY" and not subqueries:
            waiting.append(part.get("child"))  # what stands before IN
            continue
        place = int(part.get("query_location") or 0)
        if part.get("class") == "COLUMN_REF":
            yield place, [name.lower() for name in part["column_names"]]
        elif part.get("class") == "FUNCTION" and part.get("schema"):
            # A method: its object is parsed as its schema.
            owner = [part.get("catalog"), part["schema"]]
            yield place, [name.lower() for name in owner if name]
        waiting += part.values()


def _named(where: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield columns that must equal or contain a text, of conditions that must all hold."""
    waiting = [where]
    while waiting:
        node = waiting.pop()
        if node.get("type") == "CONJUNCTION_AND":
            waiting += reversed(node["children"])
        elif node.get("type") == "COMPARE_EQUAL":
            column, text = _name_and_text(node["left"], node["right"])
            if column is not None and text is not None:
                yield column.name, text
        elif _name_of(node) == "contains" and len(node.get("arguments", ())) == 2:
            sides = [argument.get("expression", argument) for argument in node["arguments"]]
            column, text = _name_and_text(*sides)
            if column is not None and text is not None and pa.types.is_list(column.type):
                yield column.name, text


def _name_and_text(left: dict[str, Any], right: dict[str, Any]) -> tuple[Column | None, str | None]:
    column = text = None
    for side in (left, right):
        if side.get("class") == "COLUMN_REF":
            # A derived table's column is none of these, whatever its name.
            names = [name.lower() for name in side["column_names"]]
            column = BY_NAME.get(names[0]) or BY_KEY.get(".".join(names))
        literal = side.get("literal") or {}
        if literal.get("kind") == "STRING":
            text = literal["text"]
    return column, text


def _check_habits(where: dict[str, Any], shown: str) -> None:
    """Refuse what DuckDB would take for something else than was meant."""
    for node in _nodes(where):
        sides = [node.get("left"), node.get("right")]
        if node.get("class") == "COMPARISON" and all(isinstance(side, dict) for side in sides):
            first, second = sides[0] or {}, sides[1] or {}
            column, text = _name_and_text(first, second)
            if column is not None and pa.types.is_list(column.type) and text is not None:
                raise _refused(shown, f"{column.name} holds lists; write 'word' in {column.name}")
            if "list_value" in (_name_of(first), _name_of(second)):
                raise _refused(shown, "for one of several values, write language in ('C', 'C++')")
            kinds = [(side.get("literal") or {}).get("kind") for side in (first, second)]
            if "NULL_LITERAL" in kinds:
                raise _refused(shown, "for null, write license is null")
        elif _name_of(node) == "contains" and not node.get("schema"):
            arguments = [a.get("expression", a) for a in node.get("arguments", ())]
            if arguments and arguments[0].get("class") == "CONSTANT":
                raise _refused(shown, "for one of several values, write language in ('C', 'C++')")


_SQL_TYPES: Final = dict(COLUMN_TYPES.values())
_SELECT = re.compile(r"\s*(select|with|from)\b", re.IGNORECASE)
_EXAMPLE = "write it like \"language == 'Python' and n_lines >= 30\""
_SELECT_LIKE = 'write it like "select language, count(*) from files group by all order by 2 desc"'


def derived_join(name: str, columns: Collection[str], source: str) -> str:
    """Return the join of a derived table with ``files``, as a column of structs of its name.

    So its columns are called ``table.column``, and none is mistaken for one of the files.
    """
    fields = ", ".join(f'"{column}": "{column}"' for column in columns)
    key = "file_id" if "file_id" in columns else "record_id"
    return (
        f' LEFT JOIN (SELECT {key} AS "{name}.{key}", {{{fields}}} AS "{name}" '
        f'FROM {source}) AS "derived {name}" ON files.{key} = "{name}.{key}"'
    )


def _try(parsed: Condition, shown: str, derived: Derived) -> None:
    """Run a condition on empty tables, for DuckDB's errors."""
    condition = parsed.text
    tables = "FROM files JOIN records ON files.record_id = records.record_id"
    before = []
    for name in sorted(parsed.derived):
        row = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in derived[name])
        before.append(f'"{name}" AS (SELECT {row})')
        tables += derived_join(name, derived[name].names, f'"{name}"')
    begin = f"WITH {', '.join(before)} " if before else ""
    try:
        described = _ask(f"DESCRIBE {begin}SELECT (\n{condition}\n) AS answer {tables}")
        if described[0][1] not in ("BOOLEAN", '"NULL"'):
            raise _refused(shown, "it is not a condition; compare it with something")
        _ask(f"{begin}SELECT 1 {tables} WHERE (\n{condition}\n)")
    except duckdb.Error as error:
        raise query_error(shown, error, derived) from error


def query_error(text: str, error: Exception, derived: Derived = NO_TABLES) -> UsageError:
    """Return a one-line error: why DuckDB refuses a text, and what to write instead."""
    message = str(error)
    table = re.search(r'[Rr]eferenced table "([a-z_0-9]+)" not found', message)
    if table is not None:
        return _refused(text, no_table(table[1], derived))
    found = re.search(r'column "?([^"!\n]+?)"? not found|column named "([^"\n]+)"', message)
    if found is not None:
        name = next(group for group in found.groups() if group)
        habit = _habit(text)
        if habit is not None and name.lower() in _NO_COLUMNS:
            return _refused(text, message)
        # Word processors insert other quotes.
        shown = escape_text(name.strip("\u2018\u2019\u201c\u201d")[:MAX_SHOWN])
        return UsageError(f"no column {shown!r}{_of_tables(shown, text, derived)}")
    return _refused(text, message)


def _of_tables(name: str, text: str, derived: Derived) -> str:
    """Return which columns there are, to end an error about a name that is none of a text's."""
    tables = {table: schema.names for table, schema in {**SCHEMAS, **derived}.items()}
    words = set(re.findall(r"\w+", _TEXTS.sub("''", text).lower()))
    named = [table for table in tables if table in words]
    known = {*BY_NAME} if _SELECT.match(text) is None or not named else set[str]()
    owners = [table for table, columns in tables.items() if name.lower() in columns]
    advice = nearest(name, sorted(known.union(*(tables[table] for table in named))), "-")
    if not owners and advice != "-":
        return f"; {advice}"
    few = [f"{table} has {', '.join(tables[table])}" for table in named if table in derived]
    elsewhere = f" here, but in {' and '.join(owners)}" if owners else ""
    return elsewhere + "".join(f"; {each}" for each in few) or (
        " (zml-dask query --help lists them, ds.schema in Python); text is written in single "
        f"quotes: '{name}'"
    )


def _refused(text: str, why: str, query: str = "") -> UsageError:
    """Return a one-line error: what is wrong with a text, part or all of `query`."""
    reason = re.sub(r"^[A-Z][A-Za-z-]+ ([A-Z][a-z]+ )?Error: ", "", why.strip().split("\n")[0])
    if "working directory" in reason:
        return UsageError("the current folder was removed; change to another one")
    if "depth limit" in reason or "recursion" in reason:
        reason = "it is nested too deeply; select in steps"
    elif reason[:1].isupper() or reason.startswith(("syntax", "unterminated")):  # DuckDB's
        if "type VARCHAR" in reason and reason.startswith("Cannot compare"):
            reason = "text does not compare with a number; text is written in quotes: '3'"
        example = _SELECT_LIKE if text == query or _SELECT.match(text) else _EXAMPLE
        reason = _habit(text) or (f"{reason}; {example}" if reason[:1].islower() else reason)
    shown = escape_text(" ".join(text.split())[:MAX_SHOWN])
    what = f"cannot read {shown!r}" if shown else "the selection cannot be read"
    return UsageError(f"{what}: {escape_text(reason[: 2 * MAX_SHOWN])}")


def _habit(text: str) -> str | None:
    """Return how to write something from another language that the text contains."""
    code = _TEXTS.sub("''", text)
    for habit, ours in _HABITS:
        if re.search(habit, code, re.IGNORECASE):
            return ours
    return None
