"""What stands in an expression: values that may be missing, tests of lists, and refusals."""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from zml_dask.errors import UsageError
from zml_dask.query.columns import Column

_MAX_SHOWN = 200

Kind = Literal["text", "number", "list", "none"]


class ExpressionError(UsageError):
    """An expression cannot be read."""


@dataclass(frozen=True, slots=True)
class ListTest:
    """Whether any item of a list equals (``in``) or matches (``contains``) a text."""

    column: Column
    test: Literal["in", "contains"]
    text: str

    @property
    def key(self) -> str:
        """Name of the column that holds its answers."""
        return f"{self.column.key} {self.test} {self.text!r}"

    def answers(self, lists: pa.ChunkedArray) -> pa.Array:
        """Ask it of every list; bool, false for a missing list."""
        column = lists.combine_chunks()
        items = pc.list_flatten(column)
        if self.test == "in":
            found = pc.equal(items, self.text)
        else:
            found = pc.match_substring_regex(items, self.text)
        parents = pc.list_parent_indices(column).filter(found)
        return pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=parents)


@dataclass(frozen=True, slots=True)
class Value:
    """What stands on a side of a comparison.

    `valid` says where it is not missing, None for everywhere; `constant` is the
    value itself where it was written out; `fractional` says whether it is a
    number that need not be whole.
    """

    expression: pc.Expression
    kind: Kind
    valid: pc.Expression | None = None
    constant: Any = None
    column: Column | None = None
    fractional: bool = False


def where_valid(condition: pc.Expression, *values: Value) -> pc.Expression:
    """Make a condition false where one of the values it is about is missing.

    As a conjunction and not by `coalesce`, which no row group's statistics see through.
    """
    return reduce(operator.and_, (v.valid for v in values if v.valid is not None), condition)


def valid(value: Value) -> pc.Expression:
    """Where a value is not missing."""
    if value.valid is not None:
        return value.valid
    return pc.scalar(value.kind != "none")


def as_float(value: Value) -> Value:
    """Make a number one of 64-bit floating point.

    Left to itself, Arrow casts a column of whole numbers to 32 bits where it meets
    a fraction, and fails at the first value over 16,777,216. Unchecked, since the
    check refuses whole numbers over 2**53 that may well be rounded: no fraction is
    as large as these.
    """
    return replace(value, expression=value.expression.cast("float64", safe=False), fractional=True)


def text_of(node: ast.expr) -> str:
    """Text that was written out; anything else is refused."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise refusal(node, "should be text in quotes")


def number_of(node: ast.expr) -> int | float:
    """Number that was written out, with its sign; anything else is refused.

    Examples
    --------
    >>> number_of(ast.Constant(2e6)), number_of(ast.Constant(2.5))
    (2000000, 2.5)
    """
    if isinstance(node, ast.UnaryOp):
        number = number_of(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Constant) and isinstance(node.value, float):
        # Whole ones as such: statistics of row groups are asked in the column's own type.
        whole = node.value.is_integer() and abs(node.value) < 2**63
        return int(node.value) if whole else node.value
    # True and False are integers of Python's.
    if isinstance(node, ast.Constant) and type(node.value) is int:
        if abs(node.value) >= 2**63:
            raise refusal(node, "is a larger number than any column holds")
        return node.value
    raise refusal(node, "is not a number")


def quoted(text: str) -> str:
    """Regular expression that matches a text and nothing else."""
    return "".join(rf"\x{{{ord(char):x}}}" for char in text)


def ensure_text(node: ast.expr, value: Value) -> None:
    """Refuse what is not text."""
    if value.kind != "text":
        raise refusal(node, "is not text")


def ensure_comparable(left: ast.expr, one: Value, right: ast.expr, other: Value) -> None:
    """Refuse to compare text with a number, or a list with anything.

    Parameters
    ----------
    left, right : ast.expr
        The sides, as they are named in the message.
    one, other : Value
        What they stand for.

    Raises
    ------
    ExpressionError
    """
    if "list" in (one.kind, other.kind):
        raise refusal(
            left if one.kind == "list" else right, "holds lists; write \"'word' in column\""
        )
    if one.kind == other.kind:
        return
    column, literal = (left, right) if one.column is not None else (right, left)
    kind = one.kind if one.column is not None else other.kind
    if kind == "text":
        what = f'text; text is written in quotes: "{ast.unparse(literal)}"'
    else:
        what = "a number"
    raise refusal(literal, f"does not go with {spell(column)}, which is {what}")


def spell(node: ast.expr) -> str:
    """Write a part of an expression as a user would, in quotes."""
    text = ast.unparse(node).replace(" @ ~", " !~ ").replace(" @ ", " =~ ")
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def refusal(node: ast.expr, why: str) -> ExpressionError:
    """Make the error that says why a part of an expression cannot be."""
    return ExpressionError(f"{spell(node)} {why}")
