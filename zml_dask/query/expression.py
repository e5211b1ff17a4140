"""Expressions over the tables: ``language == 'Python' and n_lines >= 30``.

The language is a part of Python's, read with `ast` and translated to Arrow's
compute expressions; nothing of it is ever run as Python. Regular expressions
are RE2's, which take linear time whatever the pattern.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import shorten

import pyarrow.compute as pc

from zml_dask.query.columns import Column, Level
from zml_dask.query.translate import Translator
from zml_dask.query.values import ExpressionError, ListTest

__all__ = ["Condition", "ExpressionError", "equality", "parse"]

_STRINGS = re.compile(
    r"""
    ((?<!\w)[rbuf]{0,2})
    ('''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
"""Prefix and quotes of a text, as Python has them."""

_BEFORE_PATTERNS = re.compile(r"([=!]~|\.\s*(contains|match|fullmatch)\s*\()[\s\\(]*\Z")
_BETWEEN_TEXTS = re.compile(r"[\s\\]*")
_MAX_CHARACTERS = 1_000_000

_HABITS = {
    r"&&": "'and' is written as a word",
    r"\|\|": "'or' is written as a word",
    r"(?<![=!<>])=(?![=~])": "'equal' is written ==",
    r"<>": "'not equal' is written !=",
    r"\b\d{4}-\d\d?\b": "a date is text, and written in quotes: '2015-01-31'",
    r"\blike\b": "a pattern is written =~ '^regular expression'",
    r"\bis\s+(not\s+)?null\b": "what is missing is written 'is None'",
}
"""What users may write, those of C or SQL for instance, and how that is written here."""


@dataclass(frozen=True)
class Condition:
    """A condition that holds together with others (``and``).

    Attributes
    ----------
    node : ast.expr
    columns : frozenset of Column
        What it names.
    list_tests : frozenset of ListTest
        What it asks of columns that hold lists.
    """

    node: ast.expr
    columns: frozenset[Column]
    list_tests: frozenset[ListTest]

    @property
    def levels(self) -> frozenset[Level]:
        """Which tables it needs."""
        return frozenset(column.level for column in self.columns)

    def expression(self, name: Callable[[Column], str]) -> pc.Expression:
        """Translate for a table whose columns are called `name`.

        A test of a list column is taken from the column called `ListTest.key`.
        """
        return Translator(name).condition(self.node)


def parse(text: str) -> tuple[Condition, ...]:
    """Read an expression; the conditions it gives hold together.

    Parameters
    ----------
    text : str
        Names of columns, comparisons (``== != < <= > >=``, chained too), ``in``
        and ``not in`` of a list or of text, ``and``/``or``/``not``, arithmetic,
        ``path =~ 'regex'`` and ``path !~ 'regex'``, and the methods
        ``contains``, ``startswith``, ``endswith``, ``match``, ``fullmatch``,
        ``lower``, ``upper``, ``len``, ``isin``, ``isna``, ``notna``, with
        pandas' ``.str`` before them or without. What ``=~``, ``!~``, ``contains``,
        ``match`` and ``fullmatch`` are given is as if written ``r'...'``: its
        backslashes are the regular expression's. A missing value equals
        nothing: ``==``, ``<`` and the like are false, ``!=`` is true.

    Returns
    -------
    tuple of Condition

    Raises
    ------
    ExpressionError
        If it cannot be read, or compares text with a number.
    UnknownColumnError
        If a column is named that is not there.

    Examples
    --------
    >>> [sorted(c.key for c in condition.columns)
    ...  for condition in parse("language == 'C' and (license == 'mit' or n_lines > 3)")]
    [['files.language'], ['files.n_lines', 'records.license']]
    """
    if len(text) > _MAX_CHARACTERS:
        raise ExpressionError("the expression is over a million characters long; select in steps")
    try:
        tree = ast.parse(_as_python(text).strip(), mode="eval")
        return tuple(_conditions(tree.body))
    except SyntaxError as error:
        raise ExpressionError(
            f"cannot read the expression {shorten(text, 200)!r}: {_mistake(text, error)}; write "
            "it like \"language == 'Python' and n_lines >= 30\""
        ) from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise ExpressionError(
            f"the expression is nested too deeply, or holds a character it cannot: {error}"
        ) from error


def _mistake(text: str, error: SyntaxError) -> str:
    """Say what is wrong with a text, where that is another language's habit."""
    code = _STRINGS.sub(" ", text)
    for habit, ours in _HABITS.items():
        if re.search(habit, code, re.IGNORECASE):
            return ours
    return error.msg


def equality(name: str, value: object) -> Condition:
    """Make the condition that a column equals a value, or one of a list of values."""
    several = isinstance(value, (list, tuple, set, frozenset)) or hasattr(value, "tolist")
    plain = value.tolist() if hasattr(value, "tolist") else value
    if several and isinstance(plain, (list, tuple, set, frozenset)):
        constants = ast.List([_constant(name, item) for item in plain], ast.Load())
        node = ast.Compare(_name(name), [ast.In()], [constants])
    else:
        node = ast.Compare(_name(name), [ast.Eq()], [_constant(name, plain)])
    return next(_conditions(node))


def _name(name: str) -> ast.expr:
    node: ast.expr | None = None
    for word in name.split("."):
        node = ast.Name(word, ast.Load()) if node is None else ast.Attribute(node, word, ast.Load())
    return node or ast.Name(name, ast.Load())


def _constant(name: str, value: object) -> ast.Constant:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ExpressionError(
            f"{name}={value!r}: a column can equal text, a number, None, or one of a list of them"
        )
    return ast.Constant(value)


def _conditions(node: ast.expr) -> Iterator[Condition]:
    """Take apart what is joined by ``and``, and check each part by translating it once."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            yield from _conditions(part)
        return
    translator = Translator(lambda column: column.key)
    translator.condition(node)
    yield Condition(node, frozenset(translator.columns), frozenset(translator.list_tests))


def _as_python(text: str) -> str:
    r"""Write an expression so that Python's parser can read it.

    ``=~`` and ``!~`` become an operator that means nothing else here, and regular
    expressions raw text: to Python ``'\b'`` is a backspace, which nobody looks for.
    """
    pieces = []
    end, is_pattern = 0, False
    for found in _STRINGS.finditer(text):
        code, prefix = text[end : found.start()], found[1]
        # Texts side by side are one text.
        if not (end and _BETWEEN_TEXTS.fullmatch(code)):
            is_pattern = _BEFORE_PATTERNS.search(code) is not None
        if is_pattern and prefix in ("", "u", "U"):
            prefix = "r"
        pieces += [_with_operators(code), prefix, found[2]]
        end = found.end()
    return "".join((*pieces, _with_operators(text[end:])))


def _with_operators(code: str) -> str:
    return code.replace("=~", " @ ").replace("!~", " @ ~")
